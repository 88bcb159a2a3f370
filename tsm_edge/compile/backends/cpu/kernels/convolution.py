"""Convolution as a register-tiled GEMM over NHWC: pointwise, k×k, strided, grouped and dense layers.

``y[pixel, n] = clamp(Σ_k x[pixel + offset(k), k] · w[k, n] + bias[n] + residual[pixel, n])``

Weights are packed at compile time in panels of whole vectors, ``[panel][1 + K][vectors · lanes]``, the bias first.
The k loop is innermost but for the register tile, whose ``rows × vectors`` accumulators never leave registers.

Where the last vector of output channels would be half empty, two neighbouring pixels share vectors instead, half as
many channels of each (``Image.paired``): a load repeats the pair of their values over a vector, and weights are there
twice.

The temporal shift is two ranges of the k loop with different sources: channels below ``shift_channels`` come from
the shift cache, the others from the current frame. Of a clip it is three: channels of the next frame, of the previous
one, of the frame itself, all in one buffer. Nothing is concatenated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Part, zero_border
from tsm_edge.compile.backends.cpu.kernels.convolution_lowering import (
    ConvolutionSettings,
    convolution_inputs,
    convolution_settings,
    convolution_spec,
    in_groups,
    in_k_blocks,
    other_convolution_settings,
)
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import (
    ConvolutionSpec,
    KBlock,
    RegisterTile,
    pack_weights,
    row_of,
)
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr, Kernel
from tsm_edge.compile.backends.cpu.kernels.register_tile import for_panel, register_tile, tile_start
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    inputs = convolution_inputs(at, layer)
    target_image = at.tensors.output_image(layer.output)
    tap = at.caches.take(layer.output)
    images = {name: tensor.image for name, tensor in inputs.items()} | {"target": target_image}
    if tap is not None:
        images["tap"] = at.caches.images[tap]
    pointwise = layer.weight.shape[2:] == (1, 1) and layer.strides == (1, 1) and layer.pads == (0, 0, 0, 0)
    if pointwise and all(image.dense_rows for image in images.values()):
        # A shift reads other frames, and planes have those between them: then no register tile reaches into two.
        apart = layer.frame_runs or any(image.channel > 1 for image in images.values())
        images = {name: image.flat_frames() if apart else image.flat() for name, image in images.items()}
    settings = at.given((layer,), ConvolutionSettings) or _choose(at, layer, images)
    at.chose(RULE.name, (layer,), settings, _others(at, layer, images, settings))
    spec = in_groups(at, convolution_spec(at, layer, images, settings))
    if _can_overwrite_residual(at, layer, spec, inputs, target_image):
        spec = replace(spec, in_place=True)
        target = at.tensors.put(layer.output, inputs["residual"])
    else:
        target = at.tensors.new(layer.output, target_image)
    buffers = {name: tensor.buffer for name, tensor in inputs.items()} | {
        "target": target.buffer,
        "scratch": BufferRef("scratch"),
        "weights": at.add_packed(pack_weights, spec, layer.weight, layer.bias, layer.groups),
    }
    if tap is not None:
        buffers["tap"] = BufferRef("next_cache", tap)
    at.call(spec, buffers, at.label((layer,)))


def _choose(at: Lowering, layer: ir.Convolution, images: Mapping[str, Image]) -> ConvolutionSettings:
    settings = convolution_settings(at, layer, images)
    return in_k_blocks(at, convolution_spec(at, layer, images, settings), settings)


def _others(
    at: Lowering, layer: ir.Convolution, images: Mapping[str, Image], settings: ConvolutionSettings
) -> Iterator[ConvolutionSettings]:
    if settings.k_block:
        yield replace(settings, k_block=0)
    for others in other_convolution_settings(at, layer, images, replace(settings, k_block=0)):
        spec = convolution_spec(at, layer, images, others)
        in_blocks = in_k_blocks(at, spec, others)
        yield in_blocks if settings.k_block else others
        if in_blocks.k_block and not settings.k_block:
            yield in_blocks


def _can_overwrite_residual(
    at: Lowering, layer: ir.Convolution, spec: ConvolutionSpec, inputs: Mapping[str, Tensor], target: Image
) -> bool:
    """Whether the sum may take the place of the residual, which then need not come from memory twice.

    Nobody may read the residual afterwards, and no register tile may be computed twice (the last tile of a row is
    moved back where the row is not a multiple of it).
    """
    residual = inputs.get("residual")
    if residual is None or residual.image != target or spec.target.width % spec.tile.rows:
        return False
    if residual.buffer.space != "workspace" or residual.buffer == inputs["source"].buffer:
        return False
    return not any(at.read_later(name, layer.output) for name in at.tensors.sharing(residual.buffer))


RULE = Rule("convolution", lambda unit: isinstance(unit, ir.Convolution), _lower, ConvolutionSettings)


def convolution(name: str, spec: ConvolutionSpec) -> Any:
    """Write the kernel of a convolution; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel:
        (_by_k_blocks if spec.k_block else _by_tiles)(spec, kernel.buffers, kernel)
    return kernel.function


def _by_tiles(spec: ConvolutionSpec, buffers: Buffers, kernel: Kernel) -> None:
    """An item after the other, the whole k loop for every register tile."""
    tile = spec.tile
    with emit.loop(kernel.end, kernel.begin) as item:
        if tile.panels_outside:
            panel, block = _panel_and_block(spec, item)
        else:
            panel, block = emit.mod(item, tile.panels), emit.div(item, tile.panels)
        first = block * tile.block
        uneven = spec.tile_groups * spec.group_blocks * tile.block != spec.tiles
        last = emit.smaller(first + tile.block, spec.tiles) if uneven else first + tile.block
        tiles = _Tiles(first, first, last)
        for_panel(spec, panel, lambda at, vectors: _tiles(spec, buffers, tiles, at, vectors))


def _panel_and_block(spec: ConvolutionSpec, item: Expr) -> tuple[Expr, Expr]:
    """All panels of a group of blocks before the next group; the last group's blocks may lie behind the last tile."""
    each = spec.group_blocks
    group, rest = emit.in_frame(item, spec.tile.panels * each, spec.tile_groups)
    panel, block = emit.div(rest, each), emit.mod(rest, each)
    return panel, block if spec.tile_groups == 1 else group * each + block


def _by_k_blocks(spec: ConvolutionSpec, buffers: Buffers, kernel: Kernel) -> None:
    """The items of one run and panel together, a block of the k loop for all of them before the next."""
    run = spec.tile.block
    with emit.loop(emit.div(kernel.end + (run - 1), run), emit.div(kernel.begin, run)) as index:
        panel, block = _panel_and_block(spec, index)
        start = block * run
        first = start + emit.larger(kernel.begin - index * run, 0)
        last = start + emit.smaller(kernel.end - index * run, run)
        if spec.tile_groups * spec.group_blocks * run != spec.tiles:
            last = emit.smaller(last, spec.tiles)
        tiles = _Tiles(start, first, last)
        for_panel(spec, panel, lambda at, vectors: _k_blocks(spec, buffers, tiles, at, vectors))


def _k_blocks(spec: ConvolutionSpec, buffers: Buffers, tiles: _Tiles, panel: Expr, vectors: int) -> None:
    size, channels = spec.k_block, spec.reduction_channels
    last_position, each = spec.kernel[0] * spec.kernel[1] - 1, ceil_div(channels, size)
    opening = max(1, ceil_div(spec.shifted, size))
    middle = (last_position + 1) * each - opening - 1
    block = KBlock(0, 0, opening * size, opens=True, closes=False)
    _tiles(spec, buffers, tiles, panel, vectors, block)
    if middle:
        with emit.loop(middle) as step:
            position, first = emit.div(opening + step, each), emit.mod(opening + step, each) * size
            block = KBlock(position, first, size, opens=False, closes=False)
            _tiles(spec, buffers, tiles, panel, vectors, block)
    first = (each - 1) * size
    block = KBlock(last_position, first, channels - first, opens=False, closes=True)
    _tiles(spec, buffers, tiles, panel, vectors, block)


@dataclass(frozen=True)
class _Tiles:
    """Register tiles ``first … last - 1`` of a panel, in a run that begins with ``start``."""

    start: Expr
    first: Expr
    last: Expr


def _tiles(
    spec: ConvolutionSpec, buffers: Buffers, tiles: _Tiles, panel: Expr, vectors: int, block: KBlock | None = None
) -> None:
    """Register tiles one after the other, the whole k loop of each or a block of it."""
    with emit.loop(tiles.last, tiles.first) as index:
        frame, y = 0, 0
        if spec.target.rows > 1:
            frame, y = emit.in_frame(emit.div(index, spec.row_tiles), spec.target.height, spec.target.frames)
        step = emit.mod(index, spec.row_tiles) if spec.row_tiles > 1 else 0
        x = tile_start(spec, step)
        number = index - tiles.start if block else index
        register_tile(spec, buffers, RegisterTile(row_of(spec, y, frame), x, panel, vectors, number, block))
        if block and not block.closes:
            return
        channels = spec.first_channel(panel), spec.channels(vectors)
        zero_border(buffers["target"], spec.target, Part(y, x, frame, spec.tile.rows, channels), spec.lanes)
