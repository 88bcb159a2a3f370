"""Means over a training's seeds, and how sure they are: one spread for all networks of an experiment.

Two or three seeds say little of how much one network's accuracy varies. That of many networks, trained alike, says it
together: the standard deviation is pooled over them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tsm_edge.bench.statistics import student_t


@dataclass(frozen=True)
class Spread:
    """How much a share varies from seed to seed.

    Attributes
    ----------
    deviation : float
        Standard deviation, 0..1.
    degrees : int
        Of freedom that it was estimated with; 0: it is not known.
    """

    deviation: float
    degrees: int

    @classmethod
    def pooled(cls, networks: Iterable[Sequence[float]]) -> Spread:
        """Of each network's shares, one a seed."""
        known = [shares for shares in networks if len(shares) > 1]
        degrees = sum(len(shares) - 1 for shares in known)
        squares = sum(statistics.variance(shares) * (len(shares) - 1) for shares in known)
        return cls(math.sqrt(squares / degrees) if degrees else 0.0, degrees)


@dataclass(frozen=True)
class Interval:
    """A mean, percent or percentage points, and half its 95 % interval (Student's t); None: the spread is not known."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, shares: Sequence[float], spread: Spread) -> Interval:
        """Of a network's shares, 0..1."""
        return cls(100 * statistics.mean(shares), _half(spread, 1 / len(shares)))

    @classmethod
    def of_difference(
        cls, more: Sequence[Sequence[float]], less: Sequence[Sequence[float]], spread: Spread
    ) -> Interval:
        """Of the mean of some networks' means less that of others; each has its shares, one a seed."""
        sides = [[(statistics.mean(shares), 1 / len(shares)) for shares in side] for side in (more, less)]
        means = [statistics.mean(mean for mean, _ in side) for side in sides]
        variances = sum(variance / len(side) ** 2 for side in sides for _, variance in side)
        return cls(100 * (means[0] - means[1]), _half(spread, variances))

    def above(self, least: float) -> bool | None:
        """Whether it is, beyond doubt, above ``least`` (or beyond doubt not); None where the seeds do not tell."""
        if self.half is None or abs(self.mean - least) <= self.half:
            return None
        return self.mean > least

    @property
    def doubt(self) -> str:
        """What stands behind the mean."""
        return " (one seed)" if self.half is None else f" ± {self.half:.1f}"

    def __str__(self) -> str:
        return f"{self.mean:.1f}{self.doubt}"


def _half(spread: Spread, variances: float) -> float | None:
    """Half an interval, percentage points; ``variances``: of the mean, in those of a share."""
    if not spread.degrees:
        return None
    return 100 * student_t(0.975, spread.degrees) * spread.deviation * math.sqrt(variances)
