"""Counts and history of a run, added up from every prediction: nothing is lost where only the newest state is sent."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from tsm_edge.live.result import FrameResult
from tsm_edge.page.wire import BOUNDS_S, HISTORY_S, KEPT_SEGMENTS, KEPT_STEPS


@dataclass
class Histogram:
    """Durations by size, as Prometheus counts them.

    Attributes
    ----------
    counts : list of int
        One a bound of ``BOUNDS_S``, and one beyond; not cumulative.
    sum_s : float
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, milliseconds: float) -> None:
        """Count a duration."""
        self.counts[bisect.bisect_left(BOUNDS_S, milliseconds / 1e3)] += 1
        self.sum_s += milliseconds / 1e3


@dataclass
class Segment:
    """A time in which one label was shown.

    Attributes
    ----------
    number : int
        In order, from 0.
    class_index : int
    start_s, end_s : float
        ``time.monotonic()`` of its first and last frame.
    """

    number: int
    class_index: int
    start_s: float
    end_s: float


class Tally:
    """Adds up predictions.

    Attributes
    ----------
    histograms : dict of str to Histogram
        ``step``, ``preprocess``, ``decode`` and ``latency``.
    resets : Counter
        Of the caches, by reason.
    steps : deque of float
        The latest step times, milliseconds.
    step_count : int
        How many there were.
    """

    def __init__(self) -> None:
        self.histograms = {part: Histogram() for part in ("decode", "preprocess", "step", "latency")}
        self.resets: Counter[str] = Counter()
        self.steps: deque[float] = deque(maxlen=KEPT_STEPS)
        self.step_count = 0
        self._segments: deque[Segment] = deque(maxlen=KEPT_SEGMENTS)

    def add(self, monotonic_s: float, result: FrameResult) -> None:
        """Take a prediction, in order."""
        self.histograms["decode"].add(result.decode_ms)
        self.histograms["preprocess"].add(result.preprocess_ms)
        self.histograms["step"].add(result.step_ms)
        self.histograms["latency"].add(result.latency_ms)
        self.steps.append(result.step_ms)
        self.step_count += 1
        if result.reset not in ("", "start"):
            self.resets[result.reset] += 1
        self._extend(monotonic_s, result)

    def _extend(self, monotonic_s: float, result: FrameResult) -> None:
        last = self._segments[-1] if self._segments else None
        if last is not None and last.class_index == result.class_index and not result.reset:
            last.end_s = monotonic_s
        else:
            number = last.number + 1 if last is not None else 0
            self._segments.append(Segment(number, result.class_index, monotonic_s, monotonic_s))
        while self._segments[0].end_s < monotonic_s - HISTORY_S:
            self._segments.popleft()

    def news(self, steps_known: int, segments_known: int) -> dict[str, Any]:
        """All counts, and of the history what is new to somebody.

        Parameters
        ----------
        steps_known : int
            Of how many steps they know.
        segments_known : int
            Number of the newest segment they know, which may have gone on since; -1: none.
        """
        fresh = min(self.step_count - steps_known, len(self.steps))
        newest_first = itertools.takewhile(lambda item: item.number >= segments_known, reversed(self._segments))
        return {
            "step_count": self.step_count,
            "steps": [round(step, 3) for step in list(self.steps)[len(self.steps) - fresh :]],
            "segments": [
                [item.number, item.class_index, item.start_s, item.end_s] for item in reversed(list(newest_first))
            ],
            "histograms": {name: [item.counts, item.sum_s] for name, item in self.histograms.items()},
            "reset_reasons": dict(self.resets),
        }
