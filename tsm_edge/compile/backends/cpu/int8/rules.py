"""The int8 rules: each turns a layer with an integer form into calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tsm_edge.compile.backends.cpu.choose.fusion import ExpandDepthwise, InvertedResidual
from tsm_edge.compile.backends.cpu.int8.convolution_lowering import (
    convolution_spec,
    given_tile,
    inputs_of,
    make_target,
    next_cache,
    other_tiles,
    quads_for,
    requantised,
    residual_of,
    row_tile,
    shift_levels,
    split_tile,
    target_image,
)
from tsm_edge.compile.backends.cpu.int8.convolution_spec import Int8Tile, pack_convolution
from tsm_edge.compile.backends.cpu.int8.copying import ToQuadsSpec
from tsm_edge.compile.backends.cpu.int8.depthwise import Int8DepthwiseSpec, pack_depthwise
from tsm_edge.compile.backends.cpu.int8.elementwise import lower_elementwise
from tsm_edge.compile.backends.cpu.int8.expand_depthwise import lower_expand_depthwise
from tsm_edge.compile.backends.cpu.int8.images import ByteImage
from tsm_edge.compile.backends.cpu.int8.inverted_residual import lower_inverted_residual
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering, Levels
from tsm_edge.compile.backends.cpu.int8.plan import CONVOLUTION, DEPTHWISE, EXPAND_DEPTHWISE, INVERTED_RESIDUAL
from tsm_edge.compile.backends.cpu.int8.pooling import Int8AveragePoolSpec, Int8MaxPoolSpec
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.compile.ir.quantisation import average_multiplier

Int8Rule = Callable[[ByteLowering, Any], None]


def convolution(at: ByteLowering, layer: ir.Convolution) -> None:
    """Pointwise, k×k, strided and dense layers; depthwise ones by :func:`depthwise`."""
    if layer.depthwise:
        depthwise(at, layer)
        return
    integers = at.quantisation.convolutions[layer.output]
    found = inputs_of(at, layer) | residual_of(at, layer)
    target = target_image(at, layer)
    images: dict[str, Image] = {name: levels.image for name, levels in found.items()} | {"target": target}
    pointwise = layer.weight.shape[2:] == (1, 1) and layer.strides == (1, 1) and not any(layer.pads)
    quads = isinstance(target, ByteImage) and target.quads
    flat = pointwise and not quads and all(image.dense_rows for image in images.values())
    if flat:
        images = {name: image.flat() for name, image in images.items()}
    given = given_tile(at, layer, images["target"])
    tile = given or row_tile(at, layer, images["target"])
    tap = next_cache(at, layer, target, tile)
    buffers = {name: levels.buffer for name, levels in found.items()}
    if tap is not None:
        images["tap"] = at.caches[tap].flat() if flat else at.caches[tap]
        buffers["tap"] = BufferRef("next_cache", tap)
    spec = convolution_spec(at, layer, images, tile)
    spec = spec if given else replace(spec, tile=split_tile(at, layer, spec))
    at.floats.chose(CONVOLUTION, (layer,), spec.tile, other_tiles(at, layer, spec))
    buffers["weights"] = at.add_weights(pack_convolution(spec, integers))
    buffers["target"] = make_target(at, layer, target)
    at.floats.call(spec, buffers, at.floats.label((layer,)))


def depthwise(at: ByteLowering, layer: ir.Convolution) -> None:
    """3×3, on quads."""
    at.floats.chose(DEPTHWISE, (layer,))
    integers = at.quantisation.convolutions[layer.output]
    source = _as_quads(at, layer)
    target = at.image(layer.output)
    spec = Int8DepthwiseSpec(at.instructions, source.image, target, layer.strides[0], requantised(integers))
    buffers = {
        "source": source.buffer,
        "weights": at.add_weights(pack_depthwise(spec, integers)),
        "target": at.make(layer.output, target),
    }
    at.floats.call(spec, buffers, at.floats.label((layer,)))


def _as_quads(at: ByteLowering, layer: ir.Convolution) -> Levels:
    found = at.levels(layer.source, step=1)
    if found.image.quads:
        return found
    image = quads_for(at, layer.source, layer)
    key = f"{layer.source} in quads for {layer.output}"
    buffer = at.make(key, image)
    found = at.levels(layer.source, step=at.instructions.lanes)
    spec = ToQuadsSpec(at.instructions, found.image, image)
    at.floats.call(spec, {"source": found.buffer, "target": buffer}, key)
    return Levels(image, buffer)


def max_pool(at: ByteLowering, layer: ir.MaxPool) -> None:
    """Levels have the order of the values."""
    source = at.levels(layer.source, step=at.instructions.lanes)
    target = at.image(layer.output)
    top, left = layer.pads[:2]
    spec = Int8MaxPoolSpec(at.instructions, source.image, target, layer.kernel, layer.strides, top, left)
    buffers = {"source": source.buffer, "target": at.make(layer.output, target)}
    at.floats.call(spec, buffers, at.floats.label((layer,)))


def average_pool(at: ByteLowering, layer: ir.GlobalAveragePool) -> None:
    """The mean over an image."""
    source = at.levels(layer.source, step=at.instructions.lanes)
    target = at.image(layer.output)
    pixels = source.image.height * source.image.width
    multiplier = average_multiplier(at.scale(layer.source), at.scale(layer.output), pixels)
    spec = Int8AveragePoolSpec(at.instructions, source.image, target, multiplier)
    buffers = {"source": source.buffer, "target": at.make(layer.output, target)}
    at.floats.call(spec, buffers, at.floats.label((layer,)))


def shift(at: ByteLowering, layer: ir.ShiftConcat) -> None:
    """The shift as a tensor."""
    shift_levels(at, layer.output, layer.source, layer.cache, at.image(layer.output, at.border(layer.output)))


def view(at: ByteLowering, layer: ir.View) -> None:
    """No work."""
    at.alias(layer.output, layer.source)


def cache_tap(at: ByteLowering, layer: ir.CacheTap) -> None:
    """Written where its source is made."""
    at.copy_caches(layer.source)


RULES: dict[type, Int8Rule] = {
    InvertedResidual: lower_inverted_residual,
    ExpandDepthwise: lower_expand_depthwise,
    ir.Convolution: convolution,
    ir.MaxPool: max_pool,
    ir.GlobalAveragePool: average_pool,
    ir.ShiftConcat: shift,
    ir.View: view,
    ir.CacheTap: cache_tap,
    ir.Elementwise: lower_elementwise,
}

# Rule, as choices name it → the type of what it chooses; None: it has nothing to choose.
SETTINGS: dict[str, type | None] = {
    CONVOLUTION: Int8Tile,
    DEPTHWISE: None,
    EXPAND_DEPTHWISE: None,
    INVERTED_RESIDUAL: None,
}
