"""Convolutions with a window, strided or grouped ones: matrix products that gather their pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile, Window
from tsm_edge.compile.backends.cuda.kernels.pointwise import are_aligned, lower_product, product_spec
from tsm_edge.compile.backends.cuda.lowering import Lowering, refused_settings
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir

# Output channels of a group: fewer leave most of a tile empty.
_FEWEST_OUTPUTS = 4

_Settings = TypeVar("_Settings")


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


def direct_spec(at: Lowering, layer: ir.Convolution, tap: int = 0) -> GemmSpec:
    """The direct sum, which other algorithms are compared with; its tile is not chosen yet."""
    return product_spec(at, layer, window_of(layer), tap)


def settings_of(
    at: Lowering,
    rule: str,
    layer: ir.Convolution,
    kind: type[_Settings],
    best: Callable[[GpuSpec, GemmSpec], _Settings | None],
    is_legal: Callable[[GemmSpec, _Settings], bool],
) -> _Settings | None:
    """What another algorithm's rule has for a convolution: what was given, else the best; None: another rule's kernel.

    Raises
    ------
    CompileError
        Its kernels cannot be written for what was given.
    """
    told = at.told(layer)
    if told is not None and told.rule != rule:
        return None
    direct, given = direct_spec(at, layer), at.given((layer,), kind)
    if given is None:
        return best(at.gpu, direct)
    if not is_legal(direct, given):
        raise refused_settings(at.label((layer,)), given)
    return given


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    lower_product(at, layer, window_of(layer))


RULE = Rule("convolution", _takes, _lower, GemmTile)
