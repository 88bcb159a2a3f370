"""What can be said of a run's samples, and what they are too few for. Needs NumPy alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.bench.result import Latency, Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.99
PERCENTILES = (90, 99)
BATCHES = 10
"""A run's samples, in order, are cut into so many parts: what differs between them is more than each frame's noise."""
_FEWEST_IN_BATCH = 4
_STATIONARY_PERCENT = 2.0  # a drift of less over the whole run changes no conclusion
_SMALL = 1e-300


@dataclass(frozen=True)
class Trend:
    """Whether a run drifted.

    Attributes
    ----------
    drift_percent, low_percent, high_percent : float
        Change of the median from the run's beginning to its end, a straight line through :data:`BATCHES` batches, and
        its 99 % interval.
    halves_percent : float
        Median of the second half over that of the first, less 1.
    """

    drift_percent: float
    low_percent: float
    high_percent: float
    halves_percent: float

    @property
    def is_stationary(self) -> bool:
        """Whether the line may be flat, or is so flat that it does not matter."""
        steep = self.low_percent > 0 or self.high_percent < 0
        return not (steep and abs(self.drift_percent) > _STATIONARY_PERCENT)


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I(x; a, b), for a, b > 0 and x from 0 to 1.

    By its continued fraction (NIST DLMF 8.17.22), evaluated with Lentz's method.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1.0 - incomplete_beta(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1.0 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction, m = d, 1
    while True:
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-14 or m > 10_000:
            return math.exp(log_front) * fraction / a
        m += 1


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _SMALL else _SMALL


def early_stopping(count: int, percent: float, confidence: float = CONFIDENCE) -> int | None:
    """How many of the highest samples are dropped, so that the highest left bounds a percentile.

    MLPerf's rule for single streams: the largest t with I(p; h, t + 1) ≤ 1 - confidence, where h = count - t frames
    passed; t - 1 are dropped.

    Returns
    -------
    int or None
        None: there are too few.
    """
    if count < 2 or not _bounds(count, 1, percent, confidence):
        return None
    return _largest(lambda t: _bounds(count, t, percent, confidence), 1, count) - 1


def _bounds(count: int, t: int, percent: float, confidence: float = CONFIDENCE) -> bool:
    """Whether the t-th highest of so many samples bounds a percentile."""
    return incomplete_beta(percent / 100, count - t, t + 1) <= 1 - confidence


def _largest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Where something ends to hold that does for ``low`` and not for ``high``."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@functools.cache
def fewest_samples(percent: float) -> int:
    """How many samples :func:`early_stopping` needs."""
    count = 2
    while not _bounds(count, 1, percent):
        count += 1
    return count


def summary(samples_ms: Sequence[float] | NDArray[np.float64]) -> Latency:
    """Summarise samples in milliseconds; what they are too few for is refused with its reason."""
    values = np.sort(np.asarray(samples_ms, np.float64))
    count = len(values)
    if not count:
        return Latency(0, refused=(Refused("p50", "nothing was measured"),))
    refused: list[Refused] = []
    estimates: dict[str, float] = {}
    for percent in PERCENTILES:
        dropped = early_stopping(count, percent)
        if dropped is None:
            need = fewest_samples(percent)
            refused.append(Refused(f"p{percent}", f"{count} samples, {need} are needed at 99 % confidence"))
            continue
        estimates[f"p{percent}"] = float(values[count - 1 - dropped])
        estimates[f"p{percent}_observed"] = float(np.percentile(values, percent))
    low, high = _median_interval(values)
    if low is None:
        refused.append(Refused("p50_low", f"{count} samples, 8 are needed at 99 % confidence"))
    mean, std = float(values.mean()), float(values.std(ddof=1)) if count > 1 else None
    return Latency(
        count,
        p50=float(np.median(values)),
        p50_low=low,
        p50_high=high,
        min=float(values[0]),
        mean=mean,
        max=float(values[-1]),
        std=std,
        cv_percent=None if std is None or not mean else 100 * std / mean,
        refused=tuple(refused),
        **estimates,
    )


def _median_interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Between which two order statistics the median lies, with 99 % confidence, whatever the distribution."""
    count, tail = len(values), (1 - CONFIDENCE) / 2
    # P(at most k of the samples are below the median) = I(1/2; count - k, k + 1)
    if incomplete_beta(0.5, count, 1) > tail:
        return None, None
    k = _largest(lambda k: incomplete_beta(0.5, count - k, k + 1) <= tail, 0, count // 2)
    return float(values[k]), float(values[count - 1 - k])


def student_t(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution, for probabilities from 0.5 on."""

    def upper_tail(t: float) -> float:
        return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2

    low, high = 0.0, 1.0
    while upper_tail(high) > 1 - probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(middle) > 1 - probability else (low, middle)
    return (low + high) / 2


def batch_medians(samples_ms: Sequence[float] | NDArray[np.float64], batches: int = BATCHES) -> NDArray[np.float64]:
    """Medians of consecutive parts of a run; empty if there are too few samples."""
    values = np.asarray(samples_ms, np.float64)
    if len(values) < batches * _FEWEST_IN_BATCH:
        return np.empty(0)
    return np.array([np.median(part) for part in np.array_split(values, batches)])


def trend(samples_ms: Sequence[float] | NDArray[np.float64]) -> Trend | None:
    """Fit a line through a run; None: too few samples."""
    medians = batch_medians(samples_ms)
    if not len(medians):
        return None
    # From one end of the run to the other; the batches' middles lie half a batch inside.
    at = (np.arange(BATCHES) + 0.5) / BATCHES - 0.5
    slope = float(at @ medians / (at @ at))
    left = medians - medians.mean() - slope * at
    error = math.sqrt(float(left @ left) / (BATCHES - 2) / float(at @ at))
    reach = student_t((1 + CONFIDENCE) / 2, BATCHES - 2) * error
    to_percent = 100 / float(np.median(medians))
    values = np.asarray(samples_ms, np.float64)
    first, second = np.array_split(values, 2)
    return Trend(
        slope * to_percent,
        (slope - reach) * to_percent,
        (slope + reach) * to_percent,
        100 * float(np.median(second) / np.median(first) - 1),
    )
