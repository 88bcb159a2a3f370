"""Programs of one trial library, timed in turns on the machine where they will run.

Each turn is some frames of one program, from zeroed caches, inside the whole step: a kernel finds the caches as the
kernels before it leave them. Compared are the calls by which a program differs from the rules', and nothing else, so
that a kernel of 2 % of the step can be told from one that is 5 % faster. Of a turn's frames the fastest counts: other
work on the machine only makes frames slower, and on a busy one most are.

Calls are timed by the thread that steps. Where several threads share them, they seem to take nothing in a frame in
which that one came late and the others had done it all. So there the fastest frame is the one whose whole step is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tsm_edge.bench.paired import Ratio, paired_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsm_edge.session.timings import Timings

# Of a step that takes longer than this, fewer frames are enough.
SHORT_STEP_MS, A_TURN_MS, FEWEST_FRAMES = 30.0, 60.0, 3


class Runner(Protocol):
    """A session over a trial library, here or on a board."""

    def select(self, program: int) -> int:
        """See :meth:`tsm_edge.session.local.OnlineSession.select`."""

    def measure(
        self, frames: NDArray[np.float32], first: int, count: int, period_ns: int = 0, kernels: bool = False
    ) -> Timings:
        """See :meth:`tsm_edge.session.local.OnlineSession.measure`."""

    def close(self) -> None:
        """See :class:`tsm_edge.session.base.Session`."""


@dataclass(frozen=True)
class Entrant:
    """A program that races against program 0.

    Attributes
    ----------
    program : int
        Its number in the library.
    calls, base_calls : tuple of int
        By which it and program 0 differ; of both the whole step counts where one is empty.
    """

    program: int
    calls: tuple[int, ...] = ()
    base_calls: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pace:
    """How long a race is.

    Attributes
    ----------
    rounds : int
        Every program has one turn a round.
    block : int
        Timed frames of a turn.
    warm : int
        Untimed frames at the head of each turn: they bring the memory of a new stream, code and weights into the
        caches.
    fewest : int
        Rounds that are run although the time is up: fewer say nothing.
    """

    rounds: int
    block: int = 6
    warm: int = 2
    fewest: int = 1

    def for_step(self, step_ms: float) -> Pace:
        """As many rounds, of turns that do not last for ever where a step is slow."""
        enough = max(FEWEST_FRAMES, math.ceil(A_TURN_MS / step_ms)) if step_ms else self.block
        block = min(self.block, enough)
        return replace(self, block=block, warm=self.warm if step_ms <= SHORT_STEP_MS else 1)


@dataclass(frozen=True, eq=False)
class Finish:
    """How an entrant did.

    Attributes
    ----------
    ratio : Ratio or None
        Its time over program 0's; None where it computes something else.
    base_us : float
        Microseconds of program 0's calls.
    error : float
        Largest difference of its logits from program 0's, relative to the largest.
    rounds : int
        How many there were.
    """

    ratio: Ratio | None
    base_us: float
    error: float
    rounds: int


def race(
    runner: Runner,
    frames: NDArray[np.float32],
    entrants: Sequence[Entrant],
    pace: Pace,
    tolerance: float,
    stop: Callable[[], bool] = lambda: False,
    shared: bool = False,
) -> list[Finish]:
    """Time entrants against program 0, in turns.

    Parameters
    ----------
    runner : Runner
    frames : numpy.ndarray
        float32 [n, 3, height, width]; every turn begins with the first.
    entrants : sequence of Entrant
    pace : Pace
    tolerance : float
        An entrant whose logits differ by more is wrong, however fast.
    stop : callable
        Asked after each round from the pace's fewest on: whether the time is up.
    shared : bool
        Whether several threads share a call.

    Raises
    ------
    TsmEdgeError
        The device fails.
    """
    count = pace.warm + pace.block
    # A whole step is timed as it is run for good: on a GPU kernels are timed without the graph that joins them.
    kernels = any(map(_has_calls, entrants))
    base: list[NDArray[np.float64]] = []
    times: list[list[NDArray[np.float64]]] = [[] for _ in entrants]
    errors = [0.0] * len(entrants)
    for turn in range(pace.rounds):
        order = list(range(-1, len(entrants)))
        order = order[turn % len(order) :] + order[: turn % len(order)]
        logits: dict[int, NDArray[np.float32]] = {}
        for index in order:
            runner.select(entrants[index].program if index >= 0 else 0)
            timings = runner.measure(frames, 0, count, kernels=kernels)
            logits[index] = timings.logits
            spent = _per_call_us(timings, pace.warm)
            if index < 0:
                base.append(spent)
            else:
                times[index].append(_sum(spent, entrants[index].calls, entrants[index], shared))
        for index in range(len(entrants)):
            errors[index] = max(errors[index], _difference(logits[index], logits[-1]))
        if turn + 1 >= pace.fewest and stop():
            break
    finishes = []
    for entrant, own, error in zip(entrants, times, errors, strict=True):
        rules = np.array([_sum(spent, entrant.base_calls, entrant, shared) for spent in base])
        ratio = paired_ratio(np.array(own), rules) if error <= tolerance else None
        finishes.append(Finish(ratio, float(np.median(rules)), error, len(base)))
    return finishes


def undisturbed_us(timings: Timings, shared: bool) -> NDArray[np.float64]:
    """Microseconds of each kernel in the fastest frames; ``shared`` is as of :func:`race`.

    Parameters
    ----------
    timings : Timings
        With kernels.
    """
    assert timings.kernels_ns is not None
    times = timings.kernels_ns.astype(np.float64) / 1e3
    if not shared:
        return np.asarray(times.min(axis=0))
    fastest = np.argsort(timings.duration_ns, kind="stable")[: (len(times) + 1) // 2]
    return np.asarray(np.median(times[fastest], axis=0))


def _has_calls(entrant: Entrant) -> bool:
    """Whether calls are compared, and not the whole step."""
    return bool(entrant.calls and entrant.base_calls)


def _per_call_us(timings: Timings, warm: int) -> NDArray[np.float64]:
    """Microseconds of each call in the timed frames, and the whole step's as the last column."""
    steps = timings.duration_ns[warm:, None]
    kernels = timings.kernels_ns
    timed = steps if kernels is None else np.concatenate([kernels[warm:], steps], axis=1)
    return timed.astype(np.float64) / 1e3


def _sum(spent: NDArray[np.float64], calls: tuple[int, ...], entrant: Entrant, shared: bool) -> NDArray[np.float64]:
    """Of the fastest frame of a turn."""
    frames = spent[:, list(calls)].sum(axis=1) if _has_calls(entrant) else spent[:, -1]
    return np.array([frames[spent[:, -1].argmin()] if shared else frames.min()])


def _difference(logits: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    scale = float(np.abs(wanted).max()) or 1.0
    difference = np.abs(logits.astype(np.float64) - wanted).max() / scale
    return float(difference) if np.isfinite(difference) else float("inf")
