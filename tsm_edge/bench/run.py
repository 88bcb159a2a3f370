"""One measurement from beginning to end: verified, warmed up, timed, its energy measured, judged."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.folder import GOLDEN, LIBRARY, Artifact
from tsm_edge.bench.camera import check_video, time_video
from tsm_edge.bench.environment import snapshot
from tsm_edge.bench.kernels import NOT_TIMED, KernelTimes, time_kernels
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.recording import Recording, host_now
from tsm_edge.bench.result import (
    CameraToLabel,
    Environment,
    Latency,
    Power,
    Refused,
    Result,
    Verification,
    Watts,
)
from tsm_edge.bench.statistics import summary
from tsm_edge.bench.subject import Subject, model_of
from tsm_edge.bench.verdicts import verdicts
from tsm_edge.errors import PowerError, TsmEdgeError
from tsm_edge.power.measure import EnergyReport, Measured
from tsm_edge.power.registry import AUTO, Meter
from tsm_edge.power.trace import shortest_window_s
from tsm_edge.verify.compare import check_golden

if TYPE_CHECKING:
    from numpy.typing import NDArray

Show = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Outcome:
    """A result, and what went wrong on the way to it.

    Attributes
    ----------
    result : Result
        Partial, if something did.
    error : BaseException or None
        What ended it early, or a sensor that was asked for and failed.
    """

    result: Result
    error: BaseException | None


def frames_for(subject: Subject, plan: Plan) -> NDArray[np.float32]:
    """Different frames: seeded noise of the size that normalised pictures have."""
    each, *shape = subject.artifact.manifest.frame.shape
    count = max(1, plan.different_frames // each) * each  # of clips whole ones
    return np.random.default_rng(0).standard_normal((count, *shape), np.float32)


def run(subject: Subject, plan: Plan, command: str, show: Show = lambda text, done: None) -> Outcome:
    """Measure a model on a machine.

    Parameters
    ----------
    subject : Subject
        Stays open.
    plan : Plan
    command : str
        Repeats it; for the report.
    show : callable
        Is told what is being done, and how much of it.

    Raises
    ------
    TsmEdgeError
        Before anything was measured: the device fails, or the sensor is not there.
    """
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    unavailable = list(subject.unavailable)
    frames = frames_for(subject, plan)
    if plan.video is not None:
        check_video(subject, plan.video)
    first_ms = _first_frame_ms(subject, frames)
    show("verifying", None)
    verification = _verification(subject, unavailable)
    meter, no_meter = _open_meter(subject, plan)
    with contextlib.closing(meter) if meter is not None else contextlib.nullcontext():
        show("warming up", None)
        recording = Recording(subject, plan, frames, _warm_up(subject, plan, frames))
        unit = model_of(subject.artifact).unit
        recording.show = lambda done: show(_progress(recording, unit), done)
        before = _snapshot(subject, -1e-3)
        measured, error = _measure(recording, meter, plan)
    rest = _Rest() if error is not None else _rest(subject, plan, frames, recording, unavailable)
    if not recording.speeds:
        unavailable.append(Refused("yardstick", no_yardstick(subject.artifact)))
    power, problem = _power(measured, recording, no_meter, unavailable, plan)
    result = Result(
        name=subject.name,
        route=subject.route,
        address=subject.address,
        server=subject.server,
        started=started,
        command=command,
        clock=subject.clock,
        model=model_of(subject.artifact),
        settings=replace(
            plan.settings(subject.threads),
            different_frames=len(frames) // subject.artifact.manifest.frame.shape[0],
        ),
        startup=replace(
            subject.startup,
            first_frame_ms=first_ms,
            first_label_ms=None if subject.startup.load_ms is None else subject.startup.load_ms + first_ms,
        ),
        latency_ms=summary(recording.samples().step_ms),
        fps=recording.fps,
        samples=recording.samples(),
        deadlines=recording.deadlines(),
        kernels_ms=rest.kernels.sum_ms,
        camera_to_label=rest.camera,
        network_ms=rest.network_ms,
        power=power,
        environment_before=before,
        environment_after=rest.environment,
        environment_during=tuple(recording.looks),
        watts=tuple(Watts(at_s, watts) for at_s, watts in measured.watts),
        yardstick=recording.yardstick(),
        kernels=rest.kernels.kernels,
        peak_gflops=rest.kernels.peak_gflops,
        verification=verification,
        unavailable=tuple(unavailable),
        partial=recording.partial,
    )
    return Outcome(replace(result, verdicts=verdicts(result)), error or rest.stopped or problem)


@dataclass(frozen=True)
class _Rest:
    """What is looked at once the frames are measured."""

    environment: Environment | None = None
    kernels: KernelTimes = NOT_TIMED
    network_ms: Latency | None = None
    camera: CameraToLabel | None = None
    stopped: KeyboardInterrupt | None = None


def _rest(
    subject: Subject, plan: Plan, frames: NDArray[np.float32], recording: Recording, unavailable: list[Refused]
) -> _Rest:
    """What fails now, or is interrupted, takes nothing away from what was measured."""
    rest, doing = _Rest(), "environment_after"
    try:
        rest = replace(rest, environment=_snapshot(subject, host_now() - (recording.began_s or host_now())))
        doing = "kernels"
        rest = replace(rest, kernels=time_kernels(subject, frames, recording.step_s, plan.peak))
        doing = "camera_to_label"
        if plan.video is not None:
            rest = replace(rest, camera=time_video(subject, plan, plan.video))
        doing = "network_ms"
        trips = subject.round_trips_s()
        return replace(rest, network_ms=summary(1e3 * np.array(trips)) if trips else None)
    except TsmEdgeError as error:
        unavailable.append(Refused(doing, error.problem))
        return rest
    except KeyboardInterrupt as stopped:
        unavailable.append(Refused(doing, "interrupted, after all frames were measured"))
        return replace(rest, stopped=stopped)


def _first_frame_ms(subject: Subject, frames: NDArray[np.float32]) -> float:
    return float(subject.session.measure(frames, 0, 1).duration_ns[0]) * 1e-6


def _verification(subject: Subject, unavailable: list[Refused]) -> Verification | None:
    where = LIBRARY if subject.address is None else f"{LIBRARY} on {subject.address}"
    if not (subject.artifact.path / GOLDEN).exists():
        unavailable.append(Refused("verification", f"no {GOLDEN} in {subject.artifact.path}: compile with tsm-runner"))
        return None
    found = check_golden(subject.session, subject.artifact, subject.threads or 1, where)
    worst = max(check.error for check in found.checks)
    return Verification(
        found.passed, found.frames, found.against, _finite(worst), max(c.tolerance for c in found.checks)
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def no_yardstick(artifact: Artifact) -> str:
    """Why the machine's speed was not measured."""
    if artifact.manifest.target.device != "cpu":
        return "it is of a CPU, whose speed says nothing of the GPU that runs the model"
    return "the model was compiled by an earlier tsm-edge: compile it again with: tsm-edge compile"


def _open_meter(subject: Subject, plan: Plan) -> tuple[Meter | None, str]:
    """The meter, or why there is none; a sensor that was named must be there."""
    try:
        meter = subject.open_meter(plan.power)
    except PowerError as error:
        if plan.power != AUTO:
            raise
        return None, str(error)
    return meter, "" if meter is not None else "--power none was given"


def _warm_up(subject: Subject, plan: Plan, frames: NDArray[np.float32]) -> float:
    """Run untimed frames; returns what a step takes, seconds."""
    start_s, done, count = host_now(), 0, 1
    while True:
        timings = subject.session.measure(frames, done, count)
        done += count
        step_s = max(1e-6, float(np.median(timings.duration_ns)) * 1e-9)
        left_s = plan.warmup_s - (host_now() - start_s)
        if done >= plan.warmup_frames and left_s <= 0:
            return step_s
        wanted = max(plan.warmup_frames - done, int(left_s / step_s), 1)
        count = max(1, min(wanted, int(0.25 / step_s)))


def _measure(recording: Recording, meter: Meter | None, plan: Plan) -> tuple[Measured[None], BaseException | None]:
    """Measure frames and energy; returns what ended it early, too."""
    none: Measured[None] = Measured(None, None, "the run ended early", ())
    try:
        if meter is None:
            recording.run()
            return none, recording.error
        info = getattr(meter, "info", None)
        idle_s = plan.idle_s if info is None else max(plan.idle_s, shortest_window_s(info))
        return meter.measure(recording.run, idle_s), recording.error
    except KeyboardInterrupt as stopped:
        recording.partial = recording.partial or f"{str(stopped) or 'interrupted'} after {recording.count} frames"
        return none, stopped
    except TsmEdgeError as error:  # of the sensor, once frames were measured
        if not recording.count:
            raise
        return Measured(None, None, str(error), ()), recording.error


def _snapshot(subject: Subject, at_s: float) -> Environment | None:
    return None if subject.system is None else snapshot(subject.system, at_s)


def _power(
    measured: Measured[None], recording: Recording, no_meter: str, unavailable: list[Refused], plan: Plan
) -> tuple[Power | None, PowerError | None]:
    """Power, or the reason beside it; an error where a sensor was asked for by name."""
    if measured.report is not None and recording.steps:
        return figures(measured.report, recording.steps), None
    reason = no_meter or measured.reason
    unavailable[:] = [entry for entry in unavailable if entry.key != "power"] + [Refused("power", reason)]
    asked = plan.power != AUTO and not no_meter and recording.partial is None
    return None, PowerError(f"no power was measured: {reason}", "the times are whole") if asked else None


def figures(report: EnergyReport, frames: int) -> Power:
    """The energy of so many frames."""
    info = report.sensor
    return Power(
        sensor=info.name,
        boundary=info.boundary,
        covers=info.covers,
        gross_w=report.gross_w,
        idle_w=report.idle_w,
        net_w=report.net_w,
        idle_before_w=report.idle_before_w,
        idle_after_w=report.idle_after_w,
        gross_j=report.gross_j,
        net_j=report.net_j,
        gross_j_per_frame=report.gross_j_per_frame(frames),
        net_j_per_frame=report.net_j_per_frame(frames),
        frames=frames,
        duration_s=report.seconds,
        rails=report.rails,
        uncertainty_percent=info.uncertainty_percent,
        uncertainty=info.uncertainty,
        samples=report.samples,
        rate_hz=report.rate_hz,
        jitter_ms=report.jitter_ms,
        longest_gap_ms=report.longest_gap_ms,
        remarks=report.remarks,
    )


def _progress(recording: Recording, unit: str) -> str:
    return f"{recording.count} {unit}s, {1e3 * recording.step_s:.3g} ms each"
