"""What is tried next: the candidate that is expected to save most, by what was measured so far.

Of each candidate a guess is kept of how long its kernel takes, relative to the rules' own: at first from its place in
the rules' list, then from what the same move did to other kernels. It is a normal distribution, of the logarithm.
Expected to be saved is what it undercuts the best of its kernel by, on average, times what the kernel takes.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from statistics import NormalDist

from tsm_edge.compile.records import Record
from tsm_edge.tune.candidates import Candidate

# Before anything is measured: the first of a list is this much slower than what the rules chose, and every further one
# by so much more; and so far the rules may err, about other settings and about other kernels or algorithms.
FIRST_LOSS, LATER_LOSS = 0.03, 0.01
SETTINGS_DOUBT, STRUCTURE_DOUBT = 0.08, 0.2
# A guess counts as much as so many measurements: of an axis, and of one move along it.
AXIS_WEIGHT, MOVE_WEIGHT = 3.0, 1.0
# Two kernels differ by this much in what a move does to them.
LEAST_DOUBT = 0.02
# Of a measurement with an error of this much, half is believed.
HALF_BELIEVED = 0.05
# A candidate that computes something else, or one that is hopeless, teaches no more than this.
MOST_LOSS = 0.7
# Each further candidate of a kernel in one library: the others may have found it already.
ONE_OF_MANY = 0.5
_NORMAL = NormalDist()


@dataclass
class _Lessons:
    """How far measurements were from the first guesses: their number, sum, and sum of squares."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, surprise: float, weight: float) -> None:
        """One more; ``weight``: how far it is believed, at most 1."""
        self.count += weight
        self.total += weight * surprise
        self.squares += weight * surprise * surprise

    def mean(self, guess: float, weight: float) -> float:
        """With a guess that counts as ``weight`` of them."""
        return (self.total + weight * guess) / (self.count + weight)

    def spread(self, guess: float, weight: float) -> float:
        """Their standard deviation, with a guess of it."""
        mean = self.total / self.count if self.count else 0.0
        variance = max(0.0, self.squares - self.count * mean * mean)
        return math.sqrt((variance + weight * guess * guess) / (self.count + weight))


class Agenda:
    """Candidates that wait. Several threads may use it.

    Parameters
    ----------
    candidates : iterable of Candidate
    records : iterable of Record
        What was measured before; its candidates do not wait.
    first : collection of str
        :attr:`Record.candidate` of those that are taken before all others.
    """

    def __init__(
        self, candidates: Iterable[Candidate], records: Iterable[Record] = (), first: Collection[str] = ()
    ) -> None:
        self._first = frozenset(first)
        self._all = {one.blank.candidate: one for one in candidates}
        self._one_at_a_time = threading.Lock()
        self._best: defaultdict[str, float] = defaultdict(float)  # of a kernel, logarithm of the ratio
        self._axes: defaultdict[str, _Lessons] = defaultdict(_Lessons)
        self._moves: defaultdict[tuple[str, str], _Lessons] = defaultdict(_Lessons)
        known = list(records)
        for record in known:
            self.learn(record)
        tried = {record.candidate for record in known}
        self._waiting = [one for name, one in self._all.items() if name not in tried]

    def __len__(self) -> int:
        return len(self._waiting)

    def learn(self, record: Record) -> None:
        """Take in a measurement."""
        candidate = self._all.get(record.candidate)
        if candidate is None or record.failed:  # a board may fail whatever it measures
            return
        with self._one_at_a_time:
            found, weight = _measured(record)
            surprise = found - _first_guess(candidate)
            self._axes[candidate.move.axis].add(surprise, weight)
            self._moves[candidate.move.axis, candidate.move.to].add(surprise, weight)
            self._best[record.key] = min(self._best[record.key], weight * found)

    def take(self, count: int) -> list[Candidate]:
        """The most promising ones; they wait no more."""
        with self._one_at_a_time:
            hopes = {one: self._hope_us(one) for one in self._waiting}
            taken: list[Candidate] = []
            of_kernel: Counter[str] = Counter()
            while hopes and len(taken) < count:
                best = max(hopes, key=lambda one: hopes[one] * ONE_OF_MANY ** of_kernel[one.blank.key])
                del hopes[best]
                taken.append(best)
                of_kernel[best.blank.key] += 1
            self._waiting = list(hopes)
            return taken

    def give_back(self, candidates: Iterable[Candidate]) -> None:
        """They were not measured after all."""
        with self._one_at_a_time:
            self._waiting += candidates

    def _hope_us(self, candidate: Candidate) -> float:
        """Microseconds that it is expected to save, beyond the best of its kernel so far."""
        if candidate.blank.candidate in self._first:
            return math.inf
        best, move = self._best[candidate.blank.key], candidate.move
        axis, same = self._axes[move.axis], self._moves[move.axis, move.to]
        first_doubt = STRUCTURE_DOUBT if move.is_structural else SETTINGS_DOUBT
        guess = _first_guess(candidate) + same.mean(axis.mean(0.0, AXIS_WEIGHT), MOVE_WEIGHT)
        doubt = axis.spread(first_doubt, AXIS_WEIGHT) / math.sqrt(1.0 + same.count / MOVE_WEIGHT) + LEAST_DOUBT
        distance = (best - guess) / doubt
        undercut = doubt * (distance * _NORMAL.cdf(distance) + _NORMAL.pdf(distance))
        return undercut * math.exp(best) * candidate.kernel_us


def _measured(record: Record) -> tuple[float, float]:
    """Logarithm of the ratio, and how far it is believed: the wider its interval, the less."""
    if record.ratio is None:
        return MOST_LOSS, 1.0
    value, low, high = (max(ratio, 1e-3) for ratio in record.ratio)
    error = math.log(high / low) / 4.0
    return min(MOST_LOSS, math.log(value)), 1.0 / (1.0 + (error / HALF_BELIEVED) ** 2)


def _first_guess(candidate: Candidate) -> float:
    return FIRST_LOSS + LATER_LOSS * candidate.place


class InTurn:
    """Candidates that are taken in their order, whatever is learned. Several threads may use it."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._one_at_a_time = threading.Lock()
        self._waiting = list(candidates)

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, count: int) -> list[Candidate]:
        """The next ones; they wait no more."""
        with self._one_at_a_time:
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            return taken

    def give_back(self, candidates: Iterable[Candidate]) -> None:
        """They were not measured after all."""
        with self._one_at_a_time:
            self._waiting = [*candidates, *self._waiting]
