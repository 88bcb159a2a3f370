"""The int8 rules: each turns a layer with an integer form into calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tsm_edge.compile.backends.cpu.borders import needed_border
from tsm_edge.compile.backends.cpu.int8.convolution_spec import (
    Int8ConvolutionSpec,
    Int8Tile,
    Requantised,
    pack_convolution,
)
from tsm_edge.compile.backends.cpu.int8.copying import CopyLevelsSpec, ToQuadsSpec
from tsm_edge.compile.backends.cpu.int8.depthwise import Int8DepthwiseSpec, pack_depthwise
from tsm_edge.compile.backends.cpu.int8.images import ByteImage, quad_image
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering, Levels
from tsm_edge.compile.backends.cpu.int8.pooling import Int8AveragePoolSpec, Int8MaxPoolSpec
from tsm_edge.compile.backends.cpu.int8.tiles import register_tile, work_split
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.layout import Image, nhwc
from tsm_edge.compile.ir.quantisation import IntegerConvolution, average_multiplier

Int8Rule = Callable[[ByteLowering, Any], None]


def convolution(at: ByteLowering, layer: ir.Convolution) -> None:
    """Pointwise, k×k, strided and dense layers; depthwise ones by :func:`depthwise`."""
    if layer.depthwise:
        depthwise(at, layer)
        return
    integers = at.quantisation.convolutions[layer.output]
    found = _inputs(at, layer)
    images: dict[str, Image] = {name: levels.image for name, levels in found.items()}
    target = _target_image(at, layer)
    images["target"] = target
    pointwise = layer.weight.shape[2:] == (1, 1) and layer.strides == (1, 1) and not any(layer.pads)
    if pointwise and not _in_quads(target) and all(image.dense_rows for image in images.values()):
        images = {name: image.flat() for name, image in images.items()}
    spec = _spec(at, layer, integers, images)
    buffers = {name: levels.buffer for name, levels in found.items()}
    buffers["weights"] = at.add_weights(pack_convolution(spec, integers))
    if isinstance(target, ByteImage):
        buffers["target"] = at.make(layer.output, target)
    else:
        buffers["target"] = at.floats.tensors.new(layer.output, target).buffer
    at.floats.call(spec, buffers, at.floats.label((layer,)))


def _inputs(at: ByteLowering, layer: ir.Convolution) -> dict[str, Levels]:
    """The tensors it reads, by the names of its kernel's arguments."""
    border = needed_border(layer, at.graph.shapes)
    source = layer.source
    cache = None if layer.shift is None else layer.shift.cache
    if cache is not None and (layer.weight.shape[2:] != (1, 1) or any(layer.pads)):
        source, cache = _shifted(at, layer), None
    found = {"source": at.levels(source, border)}
    if cache is not None:
        found["cache"] = at.levels(cache)
    if layer.residual is not None:
        found["residual"] = at.levels(layer.residual, step=at.instructions.lanes)
    return found


def _shifted(at: ByteLowering, layer: ir.Convolution) -> str:
    """The shift as a tensor, for a convolution that reads neighbours too."""
    name = f"{layer.source} shifted for {layer.output}"
    if layer.shift is not None:
        image = at.image(layer.source, at.border(layer.source))
        _shift(at, name, layer.source, layer.shift.cache, image)
    return name


def _shift(at: ByteLowering, name: str, source: str, cache: str, image: ByteImage) -> None:
    found, shifted = at.levels(source), at.levels(cache)
    buffer = at.make(name, image)
    cut = replace(shifted.image, channels=_channels_of_cache(at, cache))
    spec = CopyLevelsSpec(at.instructions, found.image, image, cut)
    at.floats.call(spec, {"source": found.buffer, "target": buffer, "cache": shifted.buffer}, name)


def _channels_of_cache(at: ByteLowering, cache: str) -> int:
    return at.size_of(cache)[0]


def _target_image(at: ByteLowering, layer: ir.Convolution) -> Image:
    channels, height, width = at.size_of(layer.output)
    if layer.output in at.in_float:
        return nhwc(height, width, channels, at.core.lanes)
    reader = at.only_reader(layer.output)
    if isinstance(reader, ir.Convolution) and reader.depthwise and reader.output in at.quantisation.convolutions:
        return _quads_for(at, layer.output, reader)
    return at.image(layer.output, at.border(layer.output))


def _quads_for(at: ByteLowering, tensor: str, reader: ir.Convolution) -> ByteImage:
    channels, height, width = at.size_of(tensor)
    below = reader.strides[0] == 1 or height % 2 == 1
    return quad_image(height, width, channels, at.scale(tensor).zero, at.instructions, below)


def _in_quads(image: Image) -> bool:
    return isinstance(image, ByteImage) and image.quads


def _requantised(integers: IntegerConvolution, residual: Image | None = None) -> Requantised:
    return Requantised(
        zero=0 if integers.target is None else integers.target.zero,
        low=integers.low,
        high=integers.high,
        magic=integers.magic is not None,
        residual=residual if isinstance(residual, ByteImage) else None,
        residual_multiplier=integers.residual_multiplier,
    )


def _spec(
    at: ByteLowering, layer: ir.Convolution, integers: IntegerConvolution, images: dict[str, Image]
) -> Int8ConvolutionSpec:
    source, target, cache = images["source"], images["target"], images.get("cache")
    if not isinstance(source, ByteImage):
        raise TypeError(f"{layer.output}: its source has no levels")
    outputs, channels, height, width = layer.weight.shape
    vectors = ceil_div(outputs, at.instructions.lanes)
    rows, across = register_tile(at.instructions, target.height, target.width, vectors, _in_quads(target))
    spec = Int8ConvolutionSpec(
        instructions=at.instructions,
        source=source,
        target=target,
        kernel=(height, width),
        strides=layer.strides,
        pad_top=layer.pads[0],
        pad_left=layer.pads[1],
        channels=channels,
        outputs=outputs,
        tile=Int8Tile(rows, across, 1, panels_outside=False),
        made=_requantised(integers, images.get("residual")),
        cache=cache if isinstance(cache, ByteImage) else None,
        far=at.weight_bytes > at.core.l2_bytes and at.core.can("prefetch"),
        low=layer.clamp.low if integers.target is None else float("-inf"),
        high=layer.clamp.high if integers.target is None else float("inf"),
    )
    weights = int(layer.weight.size)
    split = work_split(at.core, spec.tiles, spec.panels, source.value_bytes, spec.panel_bytes(across), weights)
    return replace(spec, tile=Int8Tile(rows, across, *split))


def depthwise(at: ByteLowering, layer: ir.Convolution) -> None:
    """3×3, on quads."""
    integers = at.quantisation.convolutions[layer.output]
    source = _as_quads(at, layer)
    target = at.image(layer.output)
    spec = Int8DepthwiseSpec(at.instructions, source.image, target, layer.strides[0], _requantised(integers))
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
    image = _quads_for(at, layer.source, layer)
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
    _shift(at, layer.output, layer.source, layer.cache, at.image(layer.output, at.border(layer.output)))


def view(at: ByteLowering, layer: ir.View) -> None:
    """No work."""
    at.alias(layer.output, layer.source)


def cache_tap(at: ByteLowering, layer: ir.CacheTap) -> None:
    """Written where its source is made."""
    at.copy_caches(layer.source)


RULES: dict[type, Int8Rule] = {
    ir.Convolution: convolution,
    ir.MaxPool: max_pool,
    ir.GlobalAveragePool: average_pool,
    ir.ShiftConcat: shift,
    ir.View: view,
    ir.CacheTap: cache_tap,
}
