"""What ``tsm-runner bench`` told of a board, checked: nothing of it is taken on trust that can be worked out here."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.result import Latency, Power, Result, Watts, from_json
from tsm_edge.bench.statistics import fewest_samples, summary
from tsm_edge.errors import BenchError, TsmEdgeError

_AGAIN = "measure again; if it stays so, deploy the model anew: tsm-edge deploy"
# Of figures that are worked out twice, from samples that were rounded once.
_EQUAL = 1e-6
# The energy between samples, by trapezoids that begin and end a little apart.
_LIKE_W = 0.05
# What starting a program and its connection takes on top, and how far a board's clock may be off this one's.
_SLACK_S, _CLOCK_OFF = 1.0, 0.02


def read_told(text: str, name: str, artifact: Artifact, plan: Plan, threads: int, seconds: float) -> Result:
    """Make a result of a document from a board.

    Parameters
    ----------
    text : str
    name : str
        Of the board, for errors.
    artifact : Artifact
        That was to be measured.
    plan, threads
        How it was to be measured.
    seconds : float
        How long the runner ran, by this machine's clock.

    Raises
    ------
    BenchError
        It is none, of another model or of other settings, or it contradicts itself or this machine's clock.
    """
    result = _parse(text, name)
    _check_model(result, artifact, name)
    _check_settings(result, plan, threads, name)
    _check_samples(result, seconds, name)
    _check_yardstick(result, seconds, name)
    latency = summary(result.samples.step_ms)
    _check_latency(result.latency_ms, latency, name)
    _check_verification(result, artifact, name)
    if result.power is not None:
        _check_power(result.power, result.watts, result, name)
    return replace(result, latency_ms=latency)


def _parse(text: str, name: str) -> Result:
    try:
        document = from_json(json.loads(text), f"{name}: what tsm-runner printed")
        [result] = document.results
    except TsmEdgeError as error:
        raise BenchError(
            error.problem, "its tsm-runner is of another version; compile the model again: tsm-edge compile"
        ) from None
    except (ValueError, RecursionError):
        raise BenchError(f"{name}: tsm-runner printed no document of one result", _AGAIN) from None
    return result


def _wrong(name: str, problem: str) -> BenchError:
    return BenchError(f"{name}: the result cannot be true: {problem}", _AGAIN)


def _check_model(result: Result, artifact: Artifact, name: str) -> None:
    manifest = artifact.manifest
    flops = sum(kernel.flops for kernel in manifest.kernels)
    wanted = (manifest.model, manifest.target.name, manifest.frame.shape, flops)
    model = result.model
    if (model.name, model.target, model.frame_shape, model.flops) != wanted:
        measured, expected = f"{model.name} for {model.target}", f"{manifest.model} for {manifest.target.name}"
        raise BenchError(
            f"{name}: {measured} was measured, expected {expected}", "deploy the model anew: tsm-edge deploy"
        )


def _check_settings(result: Result, plan: Plan, threads: int, name: str) -> None:
    found = result.settings
    if (found.frames, found.threads, found.fps) != (plan.frames, threads, plan.fps):
        raise _wrong(name, f"it is of {found.frames} frames, {found.threads} threads and {found.fps} frames a second")
    count = result.latency_ms.count
    least = plan.frames or (1 if plan.duration_s else fewest_samples(90))
    if result.partial is None and count < least:
        raise _wrong(name, f"it has {count} frames, expected {least}, and does not say that it ended early")


def _check_samples(result: Result, seconds: float, name: str) -> None:
    """Frames follow each other, and all of them fit into the time that passed here."""
    start, step = np.array(result.samples.start_s), np.array(result.samples.step_ms) * 1e-3
    if not len(start) or len(start) != len(step):
        raise _wrong(name, f"{len(start)} frames began and {len(step)} ended")
    if not (np.isfinite(start).all() and np.isfinite(step).all() and (step > 0).all() and start[0] == 0):
        raise _wrong(name, "there are times that are none")
    if (np.diff(start) < step[:-1] - 1e-6).any():
        raise _wrong(name, "a frame began before the one before it had ended")
    took_s = float(start[-1] + step[-1])
    if took_s > seconds * (1 + _CLOCK_OFF) + _SLACK_S:
        raise _wrong(
            name, f"its frames took {took_s:.2f} s while {seconds:.2f} s passed here: its clock is fast, or jumped"
        )


def _check_yardstick(result: Result, seconds: float, name: str) -> None:
    """Pauses follow each other, and what was done in them fits into the time that passed here."""
    at = [pause.at_s for pause in result.yardstick]
    times = [value for pause in result.yardstick for value in (pause.arithmetic_ms, pause.memory_ms)]
    if not all(math.isfinite(value) for value in (*at, *times)) or at != sorted(at) or not all(v > 0 for v in times):
        raise _wrong(name, "the machine's speed has times that are none")
    if sum(times) * 1e-3 > seconds * (1 + _CLOCK_OFF) + _SLACK_S:
        raise _wrong(name, "measuring the machine's speed took longer than the whole run")


def _check_latency(told: Latency, found: Latency, name: str) -> None:
    for field in fields(Latency):
        said, is_so = getattr(told, field.name), getattr(found, field.name)
        if field.name != "refused" and not _same(said, is_so):
            raise _wrong(name, f"{field.name} is {said}, and {is_so} of its samples")


def _same(told: float | None, found: float | None) -> bool:
    if told is None or found is None:
        return told is found
    return math.isclose(told, found, rel_tol=_EQUAL, abs_tol=1e-9)


def _check_verification(result: Result, artifact: Artifact, name: str) -> None:
    found = result.verification
    if found is None or not found.frames:
        raise _wrong(name, "the golden frames were not run")
    error, tolerance = found.relative_error, artifact.manifest.cache_tolerance
    if found.passed and not (error is not None and error <= tolerance):
        raise _wrong(name, f"golden frames pass with an error of {error}, tolerance {tolerance:g}")


def _check_power(power: Power, watts: tuple[Watts, ...], result: Result, name: str) -> None:
    """The mean is that of the samples, and the other figures follow from it."""
    took_s = result.samples.start_s[-1] + result.samples.step_ms[-1] * 1e-3
    inside = [sample.power_w for sample in watts if 0 <= sample.at_s <= took_s]
    mean = math.fsum(inside) / len(inside) if inside else math.nan
    frames = power.frames
    if frames < result.latency_ms.count:
        raise _wrong(name, f"it has the energy of {frames} frames, and {result.latency_ms.count} were timed")
    follows = (
        (power.duration_s, took_s),
        (power.idle_w, (power.idle_before_w + power.idle_after_w) / 2),
        (power.net_w, power.gross_w - power.idle_w),
        (power.gross_j, power.gross_w * power.duration_s),
        (power.net_j, power.net_w * power.duration_s),
        (power.gross_j_per_frame, power.gross_j / frames),
        (power.net_j_per_frame, power.net_j / frames),
    )
    if not all(math.isclose(told, found, rel_tol=1e-5, abs_tol=1e-6) for told, found in follows):
        raise _wrong(name, "its energies do not follow from its powers")
    if not math.isclose(power.gross_w, mean, rel_tol=_LIKE_W):
        raise _wrong(name, f"{power.gross_w:.3f} W, and {mean:.3f} W in the mean of its samples")
