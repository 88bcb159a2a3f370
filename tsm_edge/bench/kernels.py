"""The kernels of a frame, timed in the same loop, and the arithmetic of the machine beside them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.manifest import KernelInfo
from tsm_edge.bench.peak import PeakMeter, can_measure_peak
from tsm_edge.bench.result import KernelFigures, Latency
from tsm_edge.bench.statistics import summary
from tsm_edge.bench.subject import Subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TURNS = 4
_TURN_S = 0.25
_FEWEST, _MOST = 5, 400  # frames of a turn


@dataclass(frozen=True)
class KernelTimes:
    """What the kernels of a frame took.

    Attributes
    ----------
    sum_ms : Latency or None
        Of a frame's kernels together.
    kernels : tuple of KernelFigures
    peak_gflops : float or None
        Measured between the turns, with as many threads.
    """

    sum_ms: Latency | None
    kernels: tuple[KernelFigures, ...]
    peak_gflops: float | None


NOT_TIMED = KernelTimes(None, (), None)


def time_kernels(subject: Subject, frames: NDArray[np.float32], step_s: float, peak: bool) -> KernelTimes:
    """Time every kernel, in turns with the machine's arithmetic where that can be measured.

    Raises
    ------
    TsmEdgeError
        The device fails.
    """
    manifest = subject.artifact.manifest
    here = peak and subject.route == "local" and manifest.target.device == "cpu" and can_measure_peak()
    meter = PeakMeter(manifest.target, subject.threads or 1) if here else None
    count = max(_FEWEST, min(_MOST, int(_TURN_S / max(step_s, 1e-9))))
    turns, peaks = [], []
    for turn in range(_TURNS):
        if meter is not None:
            peaks.append(meter.measure())
        timings = subject.session.measure(frames, turn * count, count, kernels=True)
        if timings.kernels_ns is not None:
            turns.append(timings.kernels_ns[1:])  # the first one brings weights and code back into the caches
    nanoseconds = np.concatenate(turns).astype(np.float64)
    gflops = statistics.median(peaks) if peaks else None
    figures = [_figures(info, times, gflops) for info, times in zip(manifest.kernels, nanoseconds.T, strict=True)]
    return KernelTimes(summary(nanoseconds.sum(axis=1) * 1e-6), tuple(figures), gflops)


def _figures(info: KernelInfo, nanoseconds: NDArray[np.float64], peak_gflops: float | None) -> KernelFigures:
    median = float(np.median(nanoseconds))
    share = 100 * info.flops / median / peak_gflops if peak_gflops and median and info.flops else None
    return KernelFigures(
        layer=info.layer,
        rule=info.rule,
        tile=info.tile,
        time_us=median * 1e-3,
        fastest_us=float(nanoseconds.min()) * 1e-3,
        flops=info.flops,
        bytes=info.bytes,
        of_peak_percent=share,
    )
