"""How long tuning may take, how far it is, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tsm_edge.bench.paired import Ratio
from tsm_edge.compile.records import Record
from tsm_edge.compile.thread_record import ThreadRecord


@dataclass(frozen=True)
class Budget:
    """How long tuning may take.

    Attributes
    ----------
    seconds : float
    started : float
        By ``clock``.
    clock : callable
    """

    seconds: float
    started: float = field(default_factory=time.monotonic)
    clock: Callable[[], float] = time.monotonic

    @property
    def used(self) -> float:
        """The share that is used up."""
        return (self.clock() - self.started) / self.seconds

    @property
    def left_s(self) -> float:
        """Seconds, none less than 0."""
        return max(0.0, self.seconds * (1.0 - self.used))


@dataclass(frozen=True)
class State:
    """How far tuning is.

    Attributes
    ----------
    doing : str
    tried, kernels_tried, kernels : int
        Candidates and kernels so far, and kernels that are tuned.
    step_ms : float
        By the rules.
    hoped : float
        Modelled time of the step over that by the rules, if what is best so far proves so.
    used, left_s : float
        Share of the budget, and the seconds that are left of it.
    """

    doing: str
    tried: int
    kernels_tried: int
    kernels: int
    step_ms: float
    hoped: float
    used: float
    left_s: float


@dataclass(frozen=True)
class Tuned:
    """What came of it.

    Attributes
    ----------
    accepted : tuple of Record
        Empty: nothing is faster beyond doubt.
    whole : Ratio or None
        Of the tuned step over that of the rules, with as many threads as its kernels were tuned with; None: nothing is
        accepted, or together they compute something else or do not fit.
    threads : ThreadRecord or None
        Faster than one thread beyond doubt; None: nothing is, or nobody asked.
    with_threads : Ratio or None
        As ``whole``, both with the best threads; None: one thread is the best, nobody asked, nothing was faster, or it
        computes something else with them.
    refused : str
        Why kernels are not recorded although the whole step is faster by ``whole``; empty: there is no reason.
    step_ms : float
        By the rules.
    tried, kernels : int
    wrong : int
        Candidates that computed something else.
    history : tuple of (float, float)
        After each candidate: seconds since the start, and :attr:`State.hoped`.
    failed : int
        Candidates in which a board failed: not among those tried, and not tried again.
    """

    accepted: tuple[Record, ...]
    whole: Ratio | None
    threads: ThreadRecord | None
    step_ms: float
    tried: int
    kernels: int
    wrong: int
    history: tuple[tuple[float, float], ...] = ()
    failed: int = 0
    with_threads: Ratio | None = None
    refused: str = ""

    @property
    def is_faster(self) -> bool:
        """Whether the noise leaves no doubt, and nothing speaks against it with the best threads."""
        return self.whole is not None and self.whole.high < 1.0 and not self.refused


def told(ratio: Ratio) -> str:
    """For people."""
    return f"{ratio.value:.3f} (95 %: {ratio.low:.3f} to {ratio.high:.3f})"


Show = Callable[[State], None]
