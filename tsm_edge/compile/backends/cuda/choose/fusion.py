"""Whether expansion and depthwise convolution are one launch, and with which tile: the card's numbers decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.cycles import cycles_by_flops, elapsed, kernel_cycles
from tsm_edge.compile.backends.cuda.choose.occupancy import resident_blocks
from tsm_edge.compile.backends.cuda.choose.ranking import best_first
from tsm_edge.compile.backends.cuda.choose.tiles import gemm_tile, microseconds, most_registers
from tsm_edge.compile.backends.cuda.kernels.depthwise import DepthwiseSpec, DepthwiseTile
from tsm_edge.compile.backends.cuda.kernels.emit import VECTOR
from tsm_edge.compile.backends.cuda.kernels.expand_depthwise import ExpandDepthwiseSpec
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec

# Share of the two launches' time from which one is worth it.
WORTH = 0.95
# Planes of a block: more need so much shared memory that too few blocks are there at a time.
_PLANES = 8
_MOST_ROWS = 7
_MOST_THREADS = 256
_MOST_SHARED_BYTES = 40_000
_MOST_OTHERS = 16
# Registers of a thread beside its sums.
_OTHER_REGISTERS = 70


@dataclass(frozen=True)
class ExpandDepthwiseSettings:
    """What the rule chooses.

    Attributes
    ----------
    tile : DepthwiseTile
        Its planes are those that a thread expands.
    """

    tile: DepthwiseTile


def fusion_settings(gpu: GpuSpec, expand: GemmSpec, fused: ExpandDepthwiseSpec) -> ExpandDepthwiseSettings | None:
    """The settings for both layers in one launch; None: two are faster, or no tile fits.

    Parameters
    ----------
    gpu : GpuSpec
    expand : GemmSpec
        The expansion by itself.
    fused : ExpandDepthwiseSpec
        Both tiles are placeholders.
    """
    depthwise = fused.depthwise
    apart = microseconds(gpu, replace(expand, tile=gemm_tile(gpu, expand)))
    apart += elapsed(gpu, cycles_by_flops(gpu, depthwise.flops), depthwise.bytes)
    best, least = None, WORTH * apart
    for tile in _candidates(depthwise):
        time = _microseconds(gpu, replace(fused, depthwise=replace(depthwise, tile=tile)))
        if time < least:
            best, least = ExpandDepthwiseSettings(tile), time
    return best


def fused_settings(gpu: GpuSpec, fused: ExpandDepthwiseSpec) -> Iterator[ExpandDepthwiseSettings]:
    """What fits of the settings, best first by the model: what a tuner tries."""
    depthwise = fused.depthwise
    fitting = best_first(
        _candidates(depthwise),
        lambda tile: _microseconds(gpu, replace(fused, depthwise=replace(depthwise, tile=tile))),
    )
    yield from map(ExpandDepthwiseSettings, fitting[:_MOST_OTHERS])


def is_legal(gpu: GpuSpec, fused: ExpandDepthwiseSpec) -> bool:
    """Whether a tile is one that the kernel can be written for, and a block of it fits the GPU."""
    return fused.depthwise.tile in _candidates(fused.depthwise) and _microseconds(gpu, fused) < float("inf")


def _candidates(spec: DepthwiseSpec) -> Iterator[DepthwiseTile]:
    vector = VECTOR * (2 if spec.source.dtype == "float16" else 1)
    run = next(run for run in (4, 2, 1) if spec.target.width % run == 0)
    if spec.source.channels % _PLANES:
        return
    for rows in range(1, min(_MOST_ROWS, spec.target.height) + 1):
        if spec.target.height % rows:
            continue
        for band in range(rows, spec.target.height + 1, rows):
            if spec.target.height % band == 0 and (band == spec.target.height or spec.source.width % vector == 0):
                yield DepthwiseTile(run, rows, _PLANES, band)


def _microseconds(gpu: GpuSpec, spec: ExpandDepthwiseSpec) -> float:
    registers = spec.planes * VECTOR + _OTHER_REGISTERS
    if spec.threads > _MOST_THREADS or spec.shared_bytes > _MOST_SHARED_BYTES:
        return float("inf")
    if registers > most_registers(gpu, spec.threads):
        return float("inf")
    resident = resident_blocks(gpu, registers, spec.shared_bytes, spec.threads)
    return elapsed(gpu, kernel_cycles(gpu, spec, resident), spec.bytes)
