"""Time several steppers in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from engines.base import Floats, OnlineModel, Stepper
from numpy.typing import NDArray

WARM_FRAMES = 2
"""Untimed frames at the head of each turn: they bring weights and code back into the caches."""
SETTLE_SECONDS = 0.004
"""Before each turn: once the process has used next to no CPU for this long, ..."""
SETTLE_LIMIT = 2.0
"""... or after this long. Worker threads of the engine before may spin for many milliseconds after their last frame,
which would take a core from the next."""


@dataclass(frozen=True)
class Schedule:
    """How long a race is.

    Attributes
    ----------
    rounds : int
        Every stepper has one turn a round; the order rotates by one each round and is reversed every other round.
    block : int
        Timed frames of a turn.
    """

    rounds: int
    block: int

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.block < 1:
            raise ValueError(f"{self.rounds} rounds of {self.block} frames: expected at least 1 of each")


@dataclass(frozen=True)
class Samples:
    """What one stepper took.

    Attributes
    ----------
    seconds : ndarray
        float64 [rounds, block]: each frame's latency.
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


def video(shape: Sequence[int], count: int, seed: int = 0) -> list[Floats]:
    """Return ``count`` frames of noise, float32 of this shape, always the same for a seed."""
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape, np.float32) for _ in range(count)]


def run(stepper: Stepper, frames: Sequence[Floats]) -> Floats:
    """Return the logits [frames, classes] of a stream that starts with the first frame."""
    stepper.reset()
    return np.concatenate([np.array(stepper.step(frame), np.float32).reshape(1, -1) for frame in frames])


def relative_error(logits: Floats, reference: Floats) -> float:
    """Return the largest difference as a share of the reference's largest magnitude."""
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(logits - reference).max() / np.abs(reference).max())


def race(
    steppers: Mapping[str, Stepper],
    frames: Sequence[Floats],
    schedule: Schedule,
    progress: Callable[[int], None] = lambda turn: None,
) -> dict[str, Samples]:
    """Time the steppers in interleaved turns.

    Parameters
    ----------
    steppers : mapping of str to Stepper
    frames : sequence of float32 arrays
        Used one after the other, over and over.
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
    end = time.perf_counter() + SETTLE_LIMIT
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(SETTLE_SECONDS)
        if time.process_time() - before < SETTLE_SECONDS / 10:
            return


def _turn(stepper: Stepper, frames: Sequence[Floats], block: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def reference_logits(model: OnlineModel, frames: Sequence[Floats]) -> Floats:
    """Return what ONNX Runtime computes for a stream of these frames, float32 [frames, classes]."""
    from engines.ort import RunStepper

    return run(RunStepper(model, threads=1), frames)
