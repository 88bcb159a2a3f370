"""Which algorithm computes a 3×3 convolution: the direct sum or Winograd's, whichever the card's numbers favour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.cycles import cycles_by_flops, elapsed
from tsm_edge.compile.backends.cuda.choose.ranking import best_first
from tsm_edge.compile.backends.cuda.choose.tiles import flush_of, gemm_tile, is_legal, microseconds, other_tiles
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile
from tsm_edge.compile.backends.cuda.kernels.winograd_transforms import Tiling, WinogradSourceSpec, WinogradTargetSpec

# Outputs a side of a tile: F(2×2) rounds like the direct sum, F(4×4) ten times worse: too much for halfs.
OUTPUTS = {"float32": (2, 4), "float16": (2,)}
# Share of the direct algorithm's time from which the transforms are worth it: the model does not see all of their cost.
WORTH = 0.9
# Tiles of the product that a tuner tries, for each size of tile of the image.
_MOST_PRODUCTS = 6


@dataclass(frozen=True)
class WinogradSettings:
    """What the rule chooses.

    Attributes
    ----------
    outputs : int
        A side of a tile of the image.
    product : GemmTile
    """

    outputs: int
    product: GemmTile


@dataclass(frozen=True)
class WinogradSpecs:
    """The three launches of a convolution."""

    source: WinogradSourceSpec
    product: GemmSpec
    target: WinogradTargetSpec


def winograd_specs(direct: GemmSpec, settings: WinogradSettings) -> WinogradSpecs:
    """What computes the same as a matrix product with a window of 3×3 at stride 1."""
    if direct.window is None:
        raise TypeError("a 1×1 convolution has no tiles")
    tiling = Tiling(settings.outputs, direct.target)
    product = replace(
        direct,
        source=tiling.positions(direct.source.channels),
        target=tiling.positions(direct.target.channels),
        tile=settings.product,
        window=None,
        batch=tiling.side**2,
        activation="",
        low=0.0,
        high=0.0,
        shift=0,
        residual=False,
        tap=0,
        flush=flush_of(direct.source.channels) if direct.half else 0,
    )
    source = WinogradSourceSpec(direct.source, tiling, direct.window.pads, direct.shift)
    target = WinogradTargetSpec(tiling, direct.activation, direct.low, direct.high, direct.residual, direct.tap)
    return WinogradSpecs(source, product, target)


def winograd_settings(gpu: GpuSpec, direct: GemmSpec) -> WinogradSettings | None:
    """The settings of Winograd's algorithm for a 3×3 convolution at stride 1; None: the direct sum is faster.

    Parameters
    ----------
    gpu : GpuSpec
    direct : GemmSpec
        The convolution as a matrix product; its tile is a placeholder.
    """
    best, least = None, WORTH * microseconds(gpu, replace(direct, tile=gemm_tile(gpu, direct)))
    for outputs in OUTPUTS[direct.source.dtype]:
        product = winograd_specs(direct, WinogradSettings(outputs, direct.tile)).product
        settings = WinogradSettings(outputs, gemm_tile(gpu, product))
        time = _microseconds(gpu, direct, settings)
        if time < least:
            best, least = settings, time
    return best


def all_winograd_settings(gpu: GpuSpec, direct: GemmSpec) -> Iterator[WinogradSettings]:
    """Of each size of tile those with the best products, best first by the model: what a tuner tries."""
    found = []
    for outputs in OUTPUTS[direct.source.dtype]:
        product = winograd_specs(direct, WinogradSettings(outputs, direct.tile)).product
        found += [WinogradSettings(outputs, tile) for tile in islice(other_tiles(gpu, product), _MOST_PRODUCTS)]
    yield from best_first(found, lambda settings: _microseconds(gpu, direct, settings))


def is_winograd_legal(direct: GemmSpec, settings: WinogradSettings) -> bool:
    """Whether the kernels can be written for these settings."""
    return settings.outputs in OUTPUTS[direct.source.dtype] and is_legal(winograd_specs(direct, settings).product)


def _microseconds(gpu: GpuSpec, direct: GemmSpec, settings: WinogradSettings) -> float:
    specs = winograd_specs(direct, settings)
    ends = (specs.source, specs.target)
    time = microseconds(gpu, specs.product)
    return time + sum(elapsed(gpu, cycles_by_flops(gpu, spec.flops), spec.bytes) for spec in ends)
