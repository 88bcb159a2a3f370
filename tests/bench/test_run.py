"""A whole measurement with what can go wrong on the way, over a session that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.run import run
from tsm_edge.bench.subject import Subject, here
from tsm_edge.errors import PowerError, RpcError
from tsm_edge.power.measure import Measured, T, energy_report
from tsm_edge.power.registry import LiveMeter
from tsm_edge.power.sampler import SYSTEM_CLOCK, Clock
from tsm_edge.power.sensor import Rail, SensorInfo
from tsm_edge.power.trace import Sample, Trace, Window
from tsm_edge.session.timings import Timings

FAST = {"warmup_s": 0.0, "peak": False, "idle_s": 0.3}


class Altered:
    """A session with something done to what its loop answers."""

    def __init__(self, session: Any, alter: Callable[[int, Timings], Timings]) -> None:
        self._session = session
        self._alter = alter
        self._calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def measure(self, *arguments: Any, **options: Any) -> Timings:
        self._calls += 1
        return self._alter(self._calls, self._session.measure(*arguments, **options))


@pytest.fixture
def subject(small_artifact: Artifact) -> Iterator[Subject]:
    opened = here(small_artifact, 1)
    yield opened
    opened.close()


def altered(subject: Subject, alter: Callable[[int, Timings], Timings], **changes: Any) -> Subject:
    session: Any = Altered(subject.session, alter)
    return replace(subject, session=session, **changes)


class Sensor:
    """2 W in all, until it has been read so often."""

    info = SensorInfo("fake", (Rail("in"),), "board", "all of it", "power", 0.01, 1.0, "invented")

    def __init__(self, reads: int = 10**9) -> None:
        self._left = reads

    def read(self) -> tuple[float, ...]:
        self._left -= 1
        if self._left < 0:
            raise OSError(19, "No such device", "/sys/fake")
        return (2.0,)

    def close(self) -> None:
        pass


def with_sensor(subject: Subject, sensor: Sensor) -> Subject:
    return altered(subject, lambda call, timings: timings, open_meter=lambda text: LiveMeter(sensor))


class Scripted:
    """A meter whose sensor read 1 W while idling and 3 W during the work, by its own clock."""

    def measure(self, work: Callable[[], T], idle_s: float, clock: Clock = SYSTEM_CLOCK) -> Measured[T]:
        result = work()
        windows = Window(0.0, 1.0), Window(1.0, 3.0), Window(3.0, 4.0)
        times = np.arange(0.005, 4.0, 0.01)
        samples = tuple(Sample(float(at), (3.0 if 1 < at < 3 else 1.0,)) for at in times)
        return Measured(result, energy_report(Trace(Sensor.info, samples), *windows), "", ((0.5, 3.0),))

    def close(self) -> None:
        pass


def test_power_is_of_the_frames_that_ran(subject: Subject) -> None:
    powered = altered(subject, lambda call, timings: timings, open_meter=lambda text: Scripted())
    found = run(powered, Plan(frames=100, power="fake", **FAST), "tsm-edge bench")
    power = found.result.power
    assert found.error is None
    assert power is not None
    assert (power.gross_w, power.idle_w, power.net_w) == pytest.approx((3.0, 1.0, 2.0), rel=0.01)
    assert power.frames >= found.result.latency_ms.count == 100
    assert power.gross_j_per_frame == pytest.approx(6.0 / power.frames, rel=0.01)
    assert power.net_j_per_frame == pytest.approx(4.0 / power.frames, rel=0.01)
    assert found.result.watts[0].power_w == 3.0


def test_a_sensor_that_vanishes_leaves_the_times(subject: Subject) -> None:
    plan = Plan(duration_s=0.4, power="fake", **FAST)
    found = run(with_sensor(subject, Sensor(reads=5)), plan, "tsm-edge bench")
    assert isinstance(found.error, PowerError)
    assert "cannot be read any more" in str(found.error)
    assert found.result.power is None
    assert found.result.latency_ms.count > 0
    assert [entry.key for entry in found.result.unavailable] == ["verification", "power"]


@pytest.mark.parametrize("jump_ns", [5 * 10**9, -(5 * 10**9)])
def test_a_clock_that_jumps_ends_the_run(subject: Subject, jump_ns: int) -> None:
    def alter(call: int, timings: Timings) -> Timings:
        shift = np.int64(10**10 + (jump_ns if call > 4 else 0))
        move = [(ticks.astype(np.int64) + shift).astype(np.uint64) for ticks in (timings.due_ns, timings.start_ns)]
        return replace(timings, due_ns=move[0], start_ns=move[1])

    found = run(altered(subject, alter), Plan(duration_s=3.0, power="none", **FAST), "tsm-edge bench")
    assert "its clock went" in str(found.error)
    assert "its clock went" in (found.result.partial or "")
    assert found.result.latency_ms.count > 0
    assert found.result.samples.start_s == tuple(sorted(found.result.samples.start_s))


def test_a_paced_run_ends_when_its_time_is_over(subject: Subject) -> None:
    """A camera's frame takes its period, however fast the step is."""
    calls: list[int] = []

    def alter(call: int, timings: Timings) -> Timings:
        calls.append(call)
        return timings

    found = run(altered(subject, alter), Plan(duration_s=0.55, fps=50.0, power="none", **FAST), "tsm-edge bench")
    assert found.error is None
    assert found.result.latency_ms.count <= 28
    assert len(calls) < 20


@pytest.mark.parametrize(("periods", "level"), [(0.5, "good"), (1.5, "bad")])
def test_a_step_longer_than_the_period_misses_its_deadline(subject: Subject, periods: float, level: str) -> None:
    """The steps' times are given: how long a real step takes is the machine's."""

    def alter(call: int, timings: Timings) -> Timings:
        due = np.arange(len(timings.due_ns), dtype=np.uint64) * np.uint64(10**7) + timings.due_ns[0]
        return replace(timings, due_ns=due, start_ns=due, duration_ns=np.full(len(due), periods * 1e7, np.uint64))

    found = run(altered(subject, alter), Plan(frames=20, fps=100.0, power="none", **FAST), "tsm-edge bench")
    deadlines = found.result.deadlines
    assert deadlines is not None
    assert deadlines.missed == (deadlines.frames if periods > 1 else 0)
    assert deadlines.frames >= 20
    assert [verdict.level for verdict in found.result.verdicts if verdict.name == "deadlines"] == [level]


def test_a_lost_device_keeps_what_was_measured(subject: Subject) -> None:
    def alter(call: int, timings: Timings) -> Timings:
        if call > 4:
            raise RpcError("board: the connection was lost", "look at the server's output")
        return timings

    found = run(altered(subject, alter), Plan(duration_s=3.0, power="none", **FAST), "tsm-edge bench")
    assert isinstance(found.error, RpcError)
    assert (found.result.partial or "").startswith("board: the connection was lost, after ")
    assert found.result.latency_ms.count > 0


def test_ctrl_c_after_the_frames_keeps_them_whole(subject: Subject) -> None:
    def alter(call: int, timings: Timings) -> Timings:
        if timings.kernels_ns is not None:
            raise KeyboardInterrupt
        return timings

    found = run(altered(subject, alter), Plan(frames=10, power="none", **FAST), "tsm-edge bench")
    assert isinstance(found.error, KeyboardInterrupt)
    assert (found.result.partial, found.result.latency_ms.count) == (None, 10)


def test_ctrl_c_while_idling_after_the_frames_gives_no_power(subject: Subject) -> None:
    class Interrupted:
        def measure(self, work: Callable[[], T], idle_s: float, clock: Clock = SYSTEM_CLOCK) -> Measured[T]:
            work()
            raise KeyboardInterrupt

        def close(self) -> None:
            pass

    interrupted = altered(subject, lambda call, timings: timings, open_meter=lambda text: Interrupted())
    found = run(interrupted, Plan(frames=10, **FAST), "tsm-edge bench")
    assert isinstance(found.error, KeyboardInterrupt)
    assert found.result.partial == "interrupted after 10 frames"
    assert found.result.power is None


def test_golden_frames_that_differ_are_said(artifact_with_runner: Artifact) -> None:
    opened = here(artifact_with_runner, 1)

    class Wrong(Altered):
        def step(self, frame: Any) -> Any:
            return self._session.step(frame) * 1.5

    session: Any = Wrong(opened.session, lambda call, timings: timings)
    with opened.session:
        found = run(replace(opened, session=session), Plan(frames=10, power="none", **FAST), "tsm-edge bench")
    assert found.result.verification is not None
    assert not found.result.verification.passed
    assert found.result.verdicts[0].name == "verified"
    assert found.result.verdicts[0].level == "bad"
