"""Which algorithm computes a convolution: the direct sum or Winograd's, whichever the card's numbers favour."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tsm_edge.compile.backends.cpu.choose.roofline import bytes_per_cycle_together, level
from tsm_edge.compile.backends.cpu.choose.tiles import WinogradTile, gemm_tile, winograd_tile
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph

# Outputs a side of a tile: F(2×2) rounds like the direct sum, F(4×4) ten times worse: too much for half precision.
OUTPUTS = {"float32": (2, 4), "float16": (2,)}
# Share of the direct algorithm's time from which the transforms are worth it: the model does not see all of their cost.
WORTH = 0.85


@dataclass(frozen=True)
class WinogradSettings:
    """What the rule chooses.

    Attributes
    ----------
    tile : WinogradTile
    prefetch : tuple of str
        Operands of the products that are asked for ahead, as in ``ConvolutionSpec``.
    """

    tile: WinogradTile
    prefetch: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class WinogradConvolution:
    """A convolution, and the tile of Winograd's algorithm that makes it faster."""

    convolution: ir.Convolution
    tile: WinogradTile

    @property
    def layers(self) -> tuple[ir.Convolution, ...]:
        """The one layer."""
        return (self.convolution,)


def winograd_layers(graph: OnlineGraph, layers: Iterable[ir.Layer], core: Core) -> dict[str, WinogradTile]:
    """Output tensor → tile of the convolutions that Winograd's algorithm makes faster on this CPU."""
    convolutions = [layer for layer in layers if isinstance(layer, ir.Convolution)]
    weights_from = level(core.cpu, core.bytes(sum(layer.weight.size for layer in convolutions)))
    found = {}
    for layer in convolutions:
        if not winograd_fits(graph, layer):
            continue
        frames, _, height, width = graph.shapes[layer.output]
        outputs, channels = layer.weight.shape[:2]

        def cycles(arithmetic: float, weight_bytes: float) -> float:
            """One frame on all cores."""
            return max(arithmetic / core.cpu.cores, weight_bytes / bytes_per_cycle_together(core.cpu, weights_from))

        direct = gemm_tile(core, frames * height, width, 9 * channels, outputs)
        best, fewest = None, WORTH * cycles(direct.cycles, core.bytes(layer.weight.size))
        for side in OUTPUTS[core.dtype]:
            tile = winograd_tile(core, height, width, channels, outputs, side, frames)
            time = math.inf if tile is None else cycles(tile.cycles, tile.weight_bytes)
            if time < fewest:  # a larger tile rounds worse: it has to be worth it over the smaller one too
                best, fewest = tile, WORTH * time
        if best is not None:
            found[layer.output] = best
    return found


def winograd_fits(graph: OnlineGraph, layer: ir.Convolution) -> bool:
    """Whether the rule covers a layer."""
    if layer.weight.shape[2:] != (3, 3) or layer.strides != (1, 1) or layer.groups > 1 or layer.shift is not None:
        return False
    shape = graph.shapes[layer.source]
    return layer.source != graph.frame and len(shape) == 4 and math.prod(shape[2:]) > 1
