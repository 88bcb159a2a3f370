"""The rule of ``expand_depthwise.py``: a 1×1 convolution that only a depthwise one reads waits for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tsm_edge.compile.backends.cuda.choose.fusion import (
    ExpandDepthwiseSettings,
    fused_settings,
    fusion_settings,
    is_legal,
)
from tsm_edge.compile.backends.cuda.kernels import depthwise_rule, pointwise
from tsm_edge.compile.backends.cuda.kernels.depthwise import DepthwiseSpec, DepthwiseTile
from tsm_edge.compile.backends.cuda.kernels.expand_depthwise import ExpandDepthwiseSpec
from tsm_edge.compile.backends.cuda.lowering import Lowering, refused_settings
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir

# Stands where the tile will.
_NO_TILE = DepthwiseTile(1, 1, 8, 1)


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    """The expansion, and then the depthwise convolution that it waits for."""
    if not isinstance(layer, ir.Convolution):
        return False
    if layer.source in at.waiting:
        return True
    reader = at.only_reader(layer.output)
    if not isinstance(reader, ir.Convolution) or not _is_pair(at, layer, reader):
        return False
    return _settings(at, layer, reader) is not None


def _is_pair(at: Lowering, expand: ir.Convolution, reader: ir.Convolution) -> bool:
    return (
        expand.residual is None
        and not (at.halfs_are_stored and at.tensors[expand.source].image.dtype == "float16")
        and pointwise.RULE.takes(at, expand)
        and depthwise_rule.fits(at, reader, at.tensors.planes_of(expand.output), at.tensors.planes_of(reader.output))
    )


def _spec(at: Lowering, expand: ir.Convolution, reader: ir.Convolution, tile: DepthwiseTile) -> ExpandDepthwiseSpec:
    expanded, target = at.tensors.planes_of(expand.output), at.tensors.planes_of(reader.output)
    after = pointwise.activation_of(reader, at.scale_of(reader))
    second = DepthwiseSpec(expanded, target, reader.weight.shape[2:], reader.strides, reader.pads[:2], tile, *after)
    between = pointwise.activation_of(expand, at.scale_of(expand))
    shift = expand.shift.channels if expand.shift else 0
    return ExpandDepthwiseSpec(at.tensors[expand.source].image, second, *between, shift=shift)


def _settings(at: Lowering, expand: ir.Convolution, reader: ir.Convolution) -> ExpandDepthwiseSettings | None:
    """Those of both layers in one launch; None: each has its own."""
    told, both = at.told(expand) or at.told(reader), at.names_of((expand, reader))
    if told is not None and (told.rule, told.layers) != (RULE.name, both):
        return None
    given = at.given((expand, reader), ExpandDepthwiseSettings)
    if given is None:
        return fusion_settings(at.gpu, pointwise.product_spec(at, expand, None), _spec(at, expand, reader, _NO_TILE))
    if not is_legal(at.gpu, _spec(at, expand, reader, given.tile)):
        raise refused_settings(at.label((expand, reader)), given.tile)
    return given


def pairs_apart(at: Lowering, layers: Sequence[ir.Layer]) -> Iterator[tuple[ir.Convolution, ir.Convolution]]:
    """Of a step that is written down: the pairs of its layers that this rule could have taken."""
    alone = {choice.layers for choice in at.choices}
    for expand in layers:
        reader = at.only_reader(expand.output)
        if not isinstance(expand, ir.Convolution) or not isinstance(reader, ir.Convolution):
            continue
        if {at.names_of((expand,)), at.names_of((reader,))} <= alone and _is_pair(at, expand, reader):
            yield expand, reader


def other_settings(at: Lowering, expand: ir.Layer, reader: ir.Layer) -> Iterator[ExpandDepthwiseSettings]:
    """Of a pair that is apart, best first."""
    if isinstance(expand, ir.Convolution) and isinstance(reader, ir.Convolution):
        yield from fused_settings(at.gpu, _spec(at, expand, reader, _NO_TILE))


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    expand = at.waiting.pop(layer.source, None)
    if expand is None:
        at.waiting[layer.output] = layer
        return
    settings = _settings(at, expand, layer)
    if settings is None:
        raise TypeError("two launches are faster")
    spec, scale = _spec(at, expand, layer, settings.tile), at.scale_of(layer)
    target = at.tensors.output(layer.output, scale)
    at.chose(RULE.name, (expand, layer), settings, fused_settings(at.gpu, spec))
    weight, bias = pointwise.stored_weights(at, expand)
    buffers = {
        "source": at.tensors[expand.source].buffer,
        "weights": at.add_weights(weight[:, :, 0, 0].T.astype(spec.source.dtype)),
        "bias": at.add_weights(bias.astype(np.float32)),
        "depthwise_weights": at.add_weights(
            depthwise_rule.pack_weights(spec.depthwise, layer, at.scale_of(expand) / scale, 1 / scale)
        ),
        "target": target.buffer,
    }
    if expand.shift:
        buffers["cache"] = at.plain(expand.shift.cache).buffer
    at.call(spec, buffers, at.label((expand, layer)))


RULE = Rule("expand_depthwise", _takes, _lower, ExpandDepthwiseSettings)
