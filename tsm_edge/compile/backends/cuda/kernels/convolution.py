"""Convolutions with a window, strided or grouped ones: matrix products that gather their pixels."""

from __future__ import annotations

from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmTile, Window
from tsm_edge.compile.backends.cuda.kernels.pointwise import are_aligned, lower_product
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir

# Output channels of a group: fewer leave most of a tile empty.
_FEWEST_OUTPUTS = 4


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    if not isinstance(layer, ir.Convolution) or layer.weight.shape[0] // layer.groups < _FEWEST_OUTPUTS:
        return False
    if layer.weight.shape[1] < _FEWEST_OUTPUTS:
        return False
    return are_aligned(at, layer)


def window_of(layer: ir.Convolution) -> Window:
    """How it reads its source."""
    rows, columns = layer.weight.shape[2:]
    return Window((rows, columns), layer.strides, layer.pads[:2], layer.groups)


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    lower_product(at, layer, window_of(layer))


RULE = Rule("convolution", _takes, _lower, GemmTile)
