"""The speed of the machine itself, by the yardstick between a run's stretches, and what it takes out of a comparison.

The fixed work of the yardstick is the same whatever the model. Where it takes longer, the machine is slower: its clock,
another program on the same core, another virtual machine. So runs are compared over stretches during which the machine
had one speed.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.bench.result import Result, Yardstick

if TYPE_CHECKING:
    from numpy.typing import NDArray

# By how much the yardstick's two ends of a stretch, and stretches that are compared, may differ. It is read to 1 % on a
# quiet machine; a second thread on the same core makes it 50 % (arithmetic) and 25 % (memory) slower.
ARITHMETIC_BAND, MEMORY_BAND = 0.08, 0.15
FEWEST_STRETCHES = 5
_MOST_CANDIDATES = 200


@dataclass(frozen=True)
class Stretch:
    """Frames between two readings of the yardstick.

    Attributes
    ----------
    log_ms : float
        Logarithm of the median step, milliseconds.
    arithmetic, memory : float
        Logarithms of what the yardstick took, in the middle between its two readings.
    is_steady : bool
        Whether these agree.
    """

    log_ms: float
    arithmetic: float
    memory: float
    is_steady: bool


def stretches(result: Result) -> list[Stretch]:
    """Cut a run where the yardstick was read; empty: it was not, or a time is none."""
    start, step = result.samples.start_s, result.samples.step_ms
    pauses = result.yardstick
    values = [value for pause in pauses for value in (pause.arithmetic_ms, pause.memory_ms)]
    if not all(value > 0 for value in (*values, *step)):
        return []
    cuts = [bisect.bisect_left(start, pause.at_s) for pause in pauses]
    found = []
    for index, (before, after) in enumerate(itertools.pairwise(pauses)):
        frames = step[cuts[index] : cuts[index + 1]]
        if frames:
            found.append(stretch_between(frames, before, after))
    return found


def is_steady(before: Yardstick, after: Yardstick) -> bool:
    """Whether two readings are of one speed."""
    arithmetic = abs(math.log(after.arithmetic_ms / before.arithmetic_ms))
    return arithmetic <= ARITHMETIC_BAND and abs(math.log(after.memory_ms / before.memory_ms)) <= MEMORY_BAND


def stretch_between(steps_ms: Sequence[float] | NDArray[np.float64], before: Yardstick, after: Yardstick) -> Stretch:
    """Of frames between two readings."""
    arithmetic = [math.log(reading.arithmetic_ms) for reading in (before, after)]
    memory = [math.log(reading.memory_ms) for reading in (before, after)]
    log_ms = math.log(float(np.median(steps_ms)))
    return Stretch(log_ms, sum(arithmetic) / 2, sum(memory) / 2, is_steady(before, after))


def at_one_speed(old: Sequence[Stretch], new: Sequence[Stretch]) -> tuple[list[Stretch], list[Stretch]] | None:
    """The stretches of two runs at the speed of the machine that both had longest; None: there is none.

    Both then have :data:`FEWEST_STRETCHES` or more.
    """
    runs = [[one for one in run if one.is_steady] for run in (old, new)]
    if any(len(run) < FEWEST_STRETCHES for run in runs):
        return None
    speeds = [np.array([(one.arithmetic, one.memory) for one in run]) for run in runs]
    both = np.concatenate(speeds)
    candidates = both[np.linspace(0, len(both) - 1, min(len(both), _MOST_CANDIDATES)).astype(int)]
    # As many stretches as possible in the run that has fewer; at equal numbers the faster machine.
    best = max(candidates, key=lambda at: (min(int(_near(run, at).sum()) for run in speeds), -float(at[0])))
    chosen = [
        [one for one, is_near in zip(run, _near(speed, best), strict=True) if is_near]
        for run, speed in zip(runs, speeds, strict=True)
    ]
    if any(len(run) < FEWEST_STRETCHES for run in chosen):
        return None
    return chosen[0], chosen[1]


def _near(speeds: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Within half a band around a speed: any two of them differ by at most one."""
    off = np.abs(speeds - at)
    return (off[:, 0] <= ARITHMETIC_BAND / 2) & (off[:, 1] <= MEMORY_BAND / 2)  # type: ignore[no-any-return]


def speed_ratio(old: Result, new: Result) -> tuple[float, float]:
    """How many times as long the yardstick took in the newer run: arithmetic, memory (medians)."""
    arithmetic, memory = (
        [statistics.median(getattr(pause, key) for pause in result.yardstick) for result in (old, new)]
        for key in ("arithmetic_ms", "memory_ms")
    )
    return arithmetic[1] / arithmetic[0], memory[1] / memory[0]


@dataclass(frozen=True)
class Spread:
    """How much the yardstick varied over a run: 90th over 10th percentile, less 1, in percent."""

    arithmetic_percent: float
    memory_percent: float


def spread(result: Result) -> Spread | None:
    """How steady the machine's speed was; None: too few readings."""
    if len(result.yardstick) < FEWEST_STRETCHES:
        return None
    arithmetic, memory = (
        np.percentile([getattr(pause, key) for pause in result.yardstick], [10, 90])
        for key in ("arithmetic_ms", "memory_ms")
    )
    return Spread(*(100 * float(high / low - 1) for low, high in (arithmetic, memory)))
