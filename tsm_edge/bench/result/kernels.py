"""What each kernel of a frame took."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.bench.rates import giga_per_second


@dataclass(frozen=True)
class StageFigures:
    """A stage of a fused kernel."""

    name: str
    time_us: float
    flops: int

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return giga_per_second(self.flops, self.time_us)


@dataclass(frozen=True)
class KernelFigures:
    """One kernel of a frame, in the order they run.

    Attributes
    ----------
    layer, rule, tile : str
    time_us, fastest_us : float
        Median and minimum.
    flops, bytes : int
    of_peak_percent : float or None
        Of the machine's arithmetic, measured between the frames; None: not measured.
    stages : tuple of StageFigures
        Of a fused kernel, where they were timed.
    """

    layer: str
    rule: str
    tile: str
    time_us: float
    fastest_us: float
    flops: int
    bytes: int
    of_peak_percent: float | None = None
    stages: tuple[StageFigures, ...] = ()

    @property
    def gflops(self) -> float:
        """GFLOP/s at the median time; 0 for a kernel without arithmetic."""
        return giga_per_second(self.flops, self.time_us)
