"""Ratios of interleaved samples, with the uncertainty that the noise between rounds leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.errors import TsmEdgeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """One stepper's time over another's.

    Attributes
    ----------
    value : float
        Median over rounds.
    low, high : float
        Its 95 % bootstrap interval over rounds.
    """

    value: float
    low: float
    high: float


def paired_ratio(seconds: NDArray[np.float64], base: NDArray[np.float64], seed: int = 0) -> Ratio:
    """Compare two steppers of one race round by round.

    Parameters
    ----------
    seconds, base : numpy.ndarray
        float64 [rounds, block], same rounds: :attr:`tsm_edge.bench.interleave.Samples.seconds`. A round is summarised
        by its median frame, so that drifts of the machine slower than a round cancel.
    seed : int
        Of the bootstrap.

    Raises
    ------
    TsmEdgeError
        They are not of as many rounds.
    """
    if len(seconds) != len(base):
        raise TsmEdgeError(f"{len(seconds)} and {len(base)} rounds, expected as many", "compare steppers of one race")
    ratios = np.median(seconds, axis=1) / np.median(base, axis=1)
    picks = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
