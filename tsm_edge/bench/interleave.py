"""Time several steppers in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tsm_edge.errors import TsmEdgeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WARM_FRAMES = 2
"""Untimed frames at the head of each turn: they bring weights and code back into the caches."""
SETTLE_S = 0.004
"""Before each turn: once the process has used next to no CPU for this long, ..."""
SETTLE_LIMIT_S = 2.0
"""... or after this long. Worker threads of the engine before may spin for many milliseconds after their last frame,
which would take a core from the next."""


class Stepper(Protocol):
    """What is raced: a :class:`tsm_edge.session.base.Session`, or another engine with a model ready to run."""

    def step(self, frame: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Run one frame, float32 [1, 3, height, width], C-contiguous; return the logits."""


@dataclass(frozen=True)
class Schedule:
    """How long a race is.

    Attributes
    ----------
    rounds : int
        Every stepper has one turn a round; the order rotates by one each round and is reversed every other round.
    block : int
        Timed frames of a turn.

    Raises
    ------
    TsmEdgeError
        There is nothing to time.
    """

    rounds: int
    block: int

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.block < 1:
            raise TsmEdgeError(
                f"{self.rounds} rounds of {self.block} frames, expected at least 1 of each", "40 rounds of 8 are usual"
            )


@dataclass(frozen=True)
class Samples:
    """What one stepper took.

    Attributes
    ----------
    seconds : numpy.ndarray
        float64 [rounds, block]: each frame's latency, seconds.
    cores : float
        CPU seconds of the process over wall seconds, during its turns: a thread count that does not hold shows here.
    """

    seconds: NDArray[np.float64]
    cores: float

    @property
    def median(self) -> float:
        """Median frame, seconds."""
        return float(np.median(self.seconds))

    @property
    def p90(self) -> float:
        """90th percentile, seconds."""
        return float(np.percentile(self.seconds, 90))

    @property
    def minimum(self) -> float:
        """Fastest frame, seconds."""
        return float(self.seconds.min())


def race(
    steppers: Mapping[str, Stepper],
    frames: Sequence[NDArray[np.float32]],
    schedule: Schedule,
    progress: Callable[[int], None] = lambda turn: None,
) -> dict[str, Samples]:
    """Time the steppers in interleaved turns. Garbage is not collected meanwhile.

    Parameters
    ----------
    steppers : mapping of str to Stepper
    frames : sequence of numpy.ndarray
        float32 [1, 3, height, width]; used one after the other, over and over.
    schedule : Schedule
    progress : callable, optional
        Called with the number of each finished round, from 1.

    Returns
    -------
    dict of str to Samples
        In the order of ``steppers``.
    """
    names = list(steppers)
    seconds = {name: np.empty((schedule.rounds, schedule.block)) for name in names}
    spent = {name: np.zeros(2) for name in names}
    gc.collect()
    gc.disable()
    try:
        for turn in range(schedule.rounds):
            for name in _order(names, turn):
                _settle()
                seconds[name][turn], usage = _turn(steppers[name], frames, schedule.block)
                spent[name] += usage
            progress(turn + 1)
    finally:
        gc.enable()
    return {name: Samples(seconds[name], float(spent[name][0] / spent[name][1])) for name in names}


def _order(names: list[str], turn: int) -> list[str]:
    shift = turn % len(names)
    order = names[shift:] + names[:shift]
    return order[::-1] if turn % 2 else order


def _settle() -> None:
    end = time.perf_counter() + SETTLE_LIMIT_S
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(SETTLE_S)
        if time.process_time() - before < SETTLE_S / 10:
            return


def _turn(
    stepper: Stepper, frames: Sequence[NDArray[np.float32]], block: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the latencies, s, and (CPU seconds, wall seconds) of the timed frames."""
    for index in range(WARM_FRAMES):
        stepper.step(frames[index % len(frames)])
    latencies = np.empty(block)
    cpu, wall = time.process_time(), time.perf_counter()
    for index in range(block):
        frame = frames[index % len(frames)]
        start = time.perf_counter_ns()
        stepper.step(frame)
        latencies[index] = (time.perf_counter_ns() - start) * 1e-9
    return latencies, np.array([time.process_time() - cpu, time.perf_counter() - wall])
