"""The measured frames of a run, as they come: in stretches of half a second, each one call of the loop in model.so.

Where the machine's speed changes from one to the next they are shorter, so that some lie within one speed.

Between two stretches the machine is looked at and its speed measured, Ctrl-C is heard, and a device that died is
noticed. What was measured until then is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.bench.clocks import ClockWatch
from tsm_edge.bench.environment import glance
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.result import Deadlines, Environment, Samples, Yardstick
from tsm_edge.bench.speed import is_steady
from tsm_edge.bench.subject import Subject
from tsm_edge.errors import BenchError, TsmEdgeError
from tsm_edge.session.timings import Speed, Timings

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = 2
"""Untimed frames at the head of each stretch: they bring weights and code back into the caches."""
STRETCH_S, SHORT_S = 0.5, 0.1
_FEWEST_IN_SHORT = 8
_MOST_IN_STRETCH = 10_000
_LOOK_S = 1.0  # between two looks at the machine


def host_now() -> float:
    """Seconds on a clock that goes on while this machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass
class Recording:
    """Frames that are being measured.

    Parameters
    ----------
    subject : Subject
    plan : Plan
    frames : numpy.ndarray
        float32 [n, 3, height, width].
    step_s : float
        What a step takes, roughly.
    show : callable
        Is told what is done, 0 to 1.
    """

    subject: Subject
    plan: Plan
    frames: NDArray[np.float32]
    step_s: float
    show: Callable[[float], None] = lambda done: None
    stretches: list[Timings] = field(default_factory=list)
    looks: list[Environment] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    partial: str | None = None
    error: TsmEdgeError | None = None
    steps: int = 0
    began_s: float | None = None
    _head_ns: int = 0  # when the first untimed frame began
    _clocks: ClockWatch = field(default_factory=ClockWatch)

    def run(self) -> None:
        """Measure until the plan is done. What goes wrong ends it, and is kept.

        Raises
        ------
        KeyboardInterrupt
            After what was measured is kept.
        """
        try:
            self._measure_speed()
            while not self.plan.is_done(self.count, self.seconds):
                self._stretch()
                self.show(self.plan.share_done(self.count, self.seconds))
        except TsmEdgeError as error:
            self.error, self.partial = error, f"{error.problem}, after {self.count} frames"
        except KeyboardInterrupt as stopped:
            self.partial = f"{str(stopped) or 'interrupted'} after {self.count} frames"
            raise

    @property
    def count(self) -> int:
        """Frames measured."""
        return sum(len(stretch.start_ns) for stretch in self.stretches)

    @property
    def seconds(self) -> float:
        """How long they took, the time between stretches left out."""
        return sum(_span_s(stretch, self.plan.period_ns) for stretch in self.stretches)

    @property
    def fps(self) -> float | None:
        """Frames a second."""
        gaps = sum(len(stretch.start_ns) - 1 for stretch in self.stretches)
        spans = sum(int(stretch.start_ns[-1] - stretch.start_ns[0]) for stretch in self.stretches)
        if gaps and spans:
            return 1e9 * gaps / spans
        return self.count / self.seconds if self.seconds else None

    def samples(self) -> Samples:
        """Every frame."""
        if not self.stretches:
            return Samples((), ())
        start = np.concatenate([stretch.start_ns for stretch in self.stretches])
        duration = np.concatenate([stretch.duration_ns for stretch in self.stretches])
        since = (start - start[0]).astype(np.float64)
        return Samples(tuple(np.round(since * 1e-9, 9).tolist()), tuple(np.round(duration * 1e-6, 6).tolist()))

    def yardstick(self) -> tuple[Yardstick, ...]:
        """The machine's speed before the first stretch and after each; empty: the library cannot tell."""
        if not self.stretches:
            return ()
        zero = int(self.stretches[0].start_ns[0])
        pauses = [self._head_ns, *(int(one.start_ns[-1]) + int(one.duration_ns[-1]) for one in self.stretches)]
        return tuple(
            _reading(speed, round((pause - zero) * 1e-9, 9)) for pause, speed in zip(pauses, self.speeds, strict=False)
        )

    def deadlines(self) -> Deadlines | None:
        """Of a paced run."""
        period = self.plan.period_ns
        if not period or not self.stretches:
            return None
        lost = late = 0
        latest = 0
        for stretch in self.stretches:
            due, start = stretch.due_ns.astype(np.int64), stretch.start_ns.astype(np.int64)
            lost += int((np.rint(np.diff(due) / period).astype(np.int64) - 1).sum())
            late += int((start + stretch.duration_ns.astype(np.int64) > due + period).sum())
            latest = max(latest, int((start - due).max()))
        return Deadlines(period * 1e-6, self.count + lost, late + lost, latest * 1e-6)

    def _stretch(self) -> None:
        period = self.plan.period_ns
        step_s = max(self.step_s, period * 1e-9)
        left = self.plan.frames_left(self.count, self.seconds, step_s)
        count = max(1, min(left, self._frames_of_stretch(step_s), _MOST_IN_STRETCH))
        asked_s = host_now()
        whole = self.subject.session.measure(self.frames, self.steps, HEAD + count, period)
        self._check_clock(asked_s, host_now(), whole)
        self.steps += HEAD + count
        if self.began_s is None:
            self.began_s, self._head_ns = asked_s, int(whole.start_ns[0])
        self.stretches.append(_without_head(whole))
        self.step_s = float(np.median(self.stretches[-1].duration_ns)) * 1e-9
        self._measure_speed()
        self._look()

    def _frames_of_stretch(self, step_s: float) -> int:
        whole = round(STRETCH_S / step_s)
        if len(self.speeds) < 2 or is_steady(*(_reading(speed) for speed in self.speeds[-2:])):
            return whole
        return min(whole, max(_FEWEST_IN_SHORT, round(SHORT_S / step_s)))

    def _measure_speed(self) -> None:
        if self.subject.artifact.manifest.target.device != "cpu":
            return
        speed = self.subject.session.machine_speed()
        if speed is not None:
            self.speeds.append(speed)

    def _check_clock(self, asked_s: float, answered_s: float, whole: Timings) -> None:
        """Refuse what a clock timed that does not go as fast as this machine's."""
        first_s = int(whole.start_ns[0]) * 1e-9
        last_s = (int(whole.start_ns[-1]) + int(whole.duration_ns[-1])) * 1e-9
        jump_s = self._clocks.jump_s(asked_s, answered_s, first_s, last_s)
        if jump_s is not None:
            way = "ahead of" if jump_s > 0 else "behind"
            raise BenchError(
                f"{self.subject.name}: its clock went {abs(jump_s):.2f} s {way} this machine's: it jumped, or a "
                "machine slept",
                "measure again",
            )

    def _look(self) -> None:
        now_s = host_now() - (self.began_s or 0.0)
        due = not self.looks or now_s - self.looks[-1].at_s >= _LOOK_S
        if due and self.subject.system is not None:
            self.looks.append(glance(self.subject.system, now_s))


def _reading(speed: Speed, at_s: float = 0.0) -> Yardstick:
    return Yardstick(at_s, speed.arithmetic_ns * 1e-6, speed.memory_ns * 1e-6)


def _without_head(whole: Timings) -> Timings:
    return replace(
        whole, due_ns=whole.due_ns[HEAD:], start_ns=whole.start_ns[HEAD:], duration_ns=whole.duration_ns[HEAD:]
    )


def _span_s(stretch: Timings, period_ns: int) -> float:
    """From the first frame to the last one's end; with a camera, at least until the next one is due."""
    end = int(stretch.start_ns[-1]) + int(stretch.duration_ns[-1])
    due = int(stretch.due_ns[-1]) - int(stretch.due_ns[0]) + period_ns if period_ns else 0
    return max(end - int(stretch.start_ns[0]), due) * 1e-9
