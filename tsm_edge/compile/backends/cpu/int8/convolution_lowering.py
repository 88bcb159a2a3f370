"""What rules for convolutions on levels share: what they read and make, tiles, packed weights, the next shift cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tsm_edge.compile.backends.cpu.borders import needed_border
from tsm_edge.compile.backends.cpu.int8.convolution_spec import (
    WORD,
    Int8ConvolutionSpec,
    Int8Tile,
    Requantised,
    tapped_panels,
)
from tsm_edge.compile.backends.cpu.int8.copying import CopyLevelsSpec
from tsm_edge.compile.backends.cpu.int8.depthwise import TOGETHER
from tsm_edge.compile.backends.cpu.int8.images import ByteImage, quad_image
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering, Levels
from tsm_edge.compile.backends.cpu.int8.tiles import register_tile, register_tiles, work_split
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.layout import Border, Image, nhwc
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.compile.ir.quantisation import IntegerConvolution
from tsm_edge.errors import CompileError


def inputs_of(at: ByteLowering, layer: ir.Convolution) -> dict[str, Levels]:
    """The tensors it reads, by the names of its kernel's arguments; of a residual see :func:`residual_of`."""
    border = needed_border(layer, at.graph.shapes)
    source = layer.source
    cache = None if layer.shift is None else layer.shift.cache
    if cache is not None and (layer.weight.shape[2:] != (1, 1) or any(layer.pads)):
        source, cache = _shifted(at, layer), None
    found = {"source": at.levels(source, border)}
    if cache is not None:
        found["cache"] = at.levels(cache)
    return found


def residual_of(at: ByteLowering, layer: ir.Convolution) -> dict[str, Levels]:
    """What is added to its result, under its name, if anything is."""
    return {} if layer.residual is None else {"residual": at.levels(layer.residual, step=at.instructions.lanes)}


def _shifted(at: ByteLowering, layer: ir.Convolution) -> str:
    """The shift as a tensor, for a convolution that reads neighbours too."""
    name = f"{layer.source} shifted for {layer.output}"
    if layer.shift is not None:
        image = at.image(layer.source, at.border(layer.source))
        shift_levels(at, name, layer.source, layer.shift.cache, image)
    return name


def shift_levels(at: ByteLowering, name: str, source: str, cache: str, image: ByteImage) -> None:
    """A tensor with a cache's channels in place of its first ones."""
    found, shifted = at.levels(source), at.levels(cache)
    buffer = at.make(name, image)
    cut = replace(shifted.image, channels=at.size_of(cache)[0])
    spec = CopyLevelsSpec(at.instructions, found.image, image, cut)
    at.floats.call(spec, {"source": found.buffer, "target": buffer, "cache": shifted.buffer}, name)


def target_image(at: ByteLowering, layer: ir.Convolution) -> Image:
    """How its result lies: as its readers want it."""
    channels, height, width = at.size_of(layer.output)
    if layer.output in at.in_float:
        return nhwc(height, width, channels, at.core.lanes)
    reader = at.only_reader(layer.output)
    if isinstance(reader, ir.Convolution) and reader.depthwise and reader.output in at.quantisation.convolutions:
        return quads_for(at, layer.output, reader)
    return at.image(layer.output, at.border(layer.output))


def quads_for(at: ByteLowering, tensor: str, reader: ir.Convolution) -> ByteImage:
    """A tensor as a depthwise convolution reads it, with the rows above and below."""
    channels, height, width = at.size_of(tensor)
    return quad_image(height, width, channels, at.scale(tensor).zero, at.instructions, _rows_around(reader, height))


def _rows_around(depthwise: ir.Convolution, height: int) -> Border:
    """The rows above and below that it reads."""
    return Border(top=1, bottom=int(depthwise.strides[0] == 1 or height % 2 == 1))


def requantised(integers: IntegerConvolution, residual: Image | None = None) -> Requantised:
    """How its sums become levels."""
    return Requantised(
        zero=0 if integers.target is None else integers.target.zero,
        low=integers.low,
        high=integers.high,
        magic=integers.magic is not None,
        residual=residual if isinstance(residual, ByteImage) else None,
        residual_multiplier=integers.residual_multiplier,
    )


def convolution_spec(
    at: ByteLowering, layer: ir.Convolution, images: Mapping[str, Image], tile: Int8Tile
) -> Int8ConvolutionSpec:
    """The spec of a layer, or of a stage of a fused kernel, with what it reads and makes by their arguments' names."""
    source, target, cache, tap = images["source"], images["target"], images.get("cache"), images.get("tap")
    if not isinstance(source, ByteImage):
        raise TypeError(f"{layer.output}: its source has no levels")
    integers = at.quantisation.convolutions[layer.output]
    outputs, channels, height, width = layer.weight.shape
    return Int8ConvolutionSpec(
        instructions=at.instructions,
        source=source,
        target=target,
        kernel=(height, width),
        strides=layer.strides,
        pad_top=layer.pads[0],
        pad_left=layer.pads[1],
        channels=channels,
        outputs=outputs,
        tile=tile,
        made=requantised(integers, images.get("residual")),
        cache=cache if isinstance(cache, ByteImage) else None,
        tap=tap if isinstance(tap, ByteImage) else None,
        far=at.weight_bytes > at.core.l2_bytes and at.core.can("prefetch"),
        low=layer.clamp.low if integers.target is None else float("-inf"),
        high=layer.clamp.high if integers.target is None else float("inf"),
    )


def row_tile(at: ByteLowering, layer: ir.Convolution, target: Image) -> Int8Tile:
    """The register tile of a convolution that goes by rows."""
    _, rows, across = min(_tiles(at, layer, target), key=lambda tile: tile[0])
    return Int8Tile(rows, across, 1, panels_outside=True)


# Tiles that the model finds this much slower than the best are not worth a measurement.
WORST_TILE = 1.35
MOST_TILES = 8


def other_tiles(at: ByteLowering, layer: ir.Convolution, spec: Int8ConvolutionSpec) -> Iterator[Int8Tile]:
    """What may be faster than a spec's tile, the likeliest first: the order of work, shares of it, other tiles."""
    tile = spec.tile
    yield replace(tile, panels_outside=not tile.panels_outside)
    blocks = dict.fromkeys(max(1, min(spec.tiles, block)) for block in (tile.block // 2, 2 * tile.block))
    yield from (replace(tile, block=block) for block in blocks if block != tile.block)
    ranked = sorted(_tiles(at, layer, spec.target))
    for cost, rows, across in ranked[:MOST_TILES]:
        if (rows, across) != (tile.rows, tile.vectors) and cost <= WORST_TILE * ranked[0][0]:
            yield split_tile(at, layer, replace(spec, tile=Int8Tile(rows, across, 1, panels_outside=True)))


def given_tile(at: ByteLowering, layer: ir.Convolution, target: Image) -> Int8Tile | None:
    """The tile that was chosen for a layer; None: the rules choose.

    Raises
    ------
    CompileError
        The target cannot have it.
    """
    given = at.floats.given((layer,), Int8Tile)
    if given is None:
        return None
    known = {(rows, across) for _, rows, across in _tiles(at, layer, target)}
    if (given.rows, given.vectors) not in known or given.block < 1:
        raise CompileError(
            f"choices: {layer.output} cannot have register tiles of {given.rows}×{given.vectors} vectors",
            "compile without these choices: the rules then decide",
        )
    return given


def _tiles(at: ByteLowering, layer: ir.Convolution, target: Image) -> Iterator[tuple[float, int, int]]:
    vectors = ceil_div(layer.weight.shape[0], at.instructions.lanes)
    quads = isinstance(target, ByteImage) and target.quads
    steps = ceil_div(layer.weight[0].size, WORD)
    return register_tiles(at.instructions, target.height, target.width, vectors, quads, steps, at.core.l1_bytes)


def panel_tile(at: ByteLowering, layer: ir.Convolution) -> Int8Tile:
    """The register tile of an expansion that goes by panels of few channels."""
    channels, height, width = at.size_of(layer.output)
    vectors = min(TOGETHER, ceil_div(channels, at.instructions.lanes))
    rows, across = register_tile(at.instructions, height, width, vectors, in_quads=True)
    return Int8Tile(rows, across, 1, panels_outside=True)


def tiles_together(vectors: int) -> int:
    """How many tiles of some vectors are whole blocks of a depthwise convolution."""
    return math.lcm(vectors, TOGETHER) // vectors


def panel_image(at: ByteLowering, expand: ir.Convolution, depthwise: ir.Convolution, tile: Int8Tile) -> ByteImage:
    """The panel: those tiles over the whole image, as the depthwise convolution reads them."""
    channels = tiles_together(tile.vectors) * tile.vectors * at.instructions.lanes
    _, height, width = at.size_of(expand.output)
    border = _rows_around(depthwise, height)
    return quad_image(height, width, channels, at.scale(expand.output).zero, at.instructions, border)


def split_tile(at: ByteLowering, layer: ir.Convolution, spec: Int8ConvolutionSpec) -> Int8Tile:
    """The tile of a spec, and how the work is parted."""
    across = spec.tile.vectors
    weights, panel = int(layer.weight.size), spec.panel_bytes(across)
    split = work_split(at.core, spec.tiles, spec.panels, spec.source.value_bytes, panel, weights)
    return Int8Tile(spec.tile.rows, across, *split)


def next_cache(at: ByteLowering, layer: ir.Convolution, target: Image, tile: Int8Tile) -> int | None:
    """A cache that the kernel that makes a layer's result can write on the way; the caller has to have it written."""
    waiting = at.cache_of(layer.output)
    if waiting is None or not isinstance(target, ByteImage) or target.quads:
        return None
    channels = tile.vectors * at.instructions.lanes
    return at.take_cache(layer.output) if tapped_panels(at.caches[waiting], channels) else None


def make_target(at: ByteLowering, layer: ir.Convolution, target: Image) -> BufferRef:
    """Room for a layer's result."""
    if isinstance(target, ByteImage):
        return at.make(layer.output, target)
    return at.floats.tensors.new(layer.output, target).buffer
