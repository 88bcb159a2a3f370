"""Convolution as a register-tiled GEMM over NHWC: pointwise, k×k, strided, grouped and dense layers.

``y[pixel, n] = clamp(Σ_k x[pixel + offset(k), k] · w[k, n] + bias[n] + residual[pixel, n])``

Weights are packed at compile time in panels of whole vectors, ``[panel][1 + K][vectors · lanes]``, the bias first.
The k loop is innermost but for the register tile, whose ``rows × vectors`` accumulators never leave registers.

The temporal shift is two ranges of the k loop with different sources: channels below ``shift_channels`` come from
the shift cache, the others from the current frame. Nothing is concatenated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tsm_edge.compile.schedules import emit
from tsm_edge.compile.schedules.border import zero_border
from tsm_edge.compile.schedules.convolution_spec import ConvolutionSpec, Row, row_of
from tsm_edge.compile.schedules.emit import LINE, Buffers, Expr
from tsm_edge.compile.schedules.reduction import Reader, reduce

# Weights are asked for this many k steps ahead: about the latency of the next cache level.
WEIGHT_DISTANCE = 24
# A panel with more register tiles than this is read so often that its first reading does not matter.
MOST_SHARING_TILES = 16


def convolution(name: str, spec: ConvolutionSpec) -> Any:
    """Write the kernel of a convolution; returns its PrimFunc."""
    tile = spec.tile
    tiles = spec.target.height * spec.row_tiles
    with emit.kernel(name, spec.buffers) as kernel:
        buffers = dict(zip(spec.buffers, kernel.buffers, strict=True))
        with emit.loop(kernel.end, kernel.begin) as item:
            if tile.panels_outside:
                panel, block = emit.div(item, spec.blocks), emit.mod(item, spec.blocks)
            else:
                panel, block = emit.mod(item, tile.panels), emit.div(item, tile.panels)
            first = block * tile.block
            last = emit.smaller(first + tile.block, tiles) if tiles % tile.block else first + tile.block
            for_panel(spec, panel, lambda at, vectors: _block(spec, buffers, first, last, at, vectors))
    return kernel.function


def for_panel(spec: ConvolutionSpec, panel: Expr, body: Callable[[Expr, int], None]) -> None:
    """Write ``body(panel, its vectors)``, once more for the narrower last panel where there is one."""
    if not spec.tile.tail_vectors:
        body(panel, spec.tile.vectors)
        return
    if not spec.full_panels:
        body(0, spec.tile.tail_vectors)
        return
    with emit.when(panel < spec.full_panels):
        body(panel, spec.tile.vectors)
    with emit.when(panel >= spec.full_panels):
        body(spec.full_panels, spec.tile.tail_vectors)


def _block(spec: ConvolutionSpec, buffers: Buffers, first: Expr, last: Expr, panel: Expr, vectors: int) -> None:
    """The register tiles of one work item."""
    with emit.loop(last, first) as index:
        y = emit.div(index, spec.row_tiles) if spec.target.height > 1 else 0
        step = emit.mod(index, spec.row_tiles) if spec.row_tiles > 1 else 0
        x = tile_start(spec, step)
        row = row_of(spec, y)
        register_tile(spec, buffers, row, x, panel, vectors, index)
        channel, width = panel * (spec.tile.vectors * spec.lanes), vectors * spec.lanes
        zero_border(
            buffers["target"], spec.target, y, x, spec.tile.rows, channel, width, spec.lanes, spec.row_tiles > 1
        )


def tile_start(spec: ConvolutionSpec, step: Expr) -> Expr:
    """First column of the ``step``-th register tile of a row."""
    return emit.tile_start(spec.target.width, spec.tile.rows, step)


def register_tile(
    spec: ConvolutionSpec, buffers: Buffers, row: Row, x: Expr, panel: Expr, vectors: int, index: Expr = None
) -> None:
    """Write one register tile: columns ``x …`` of an output row, one panel of output channels.

    A tile at the edge of a guarded source is written apart, so that the others read without conditions. ``index``
    counts the tiles of a panel, where they follow each other.
    """
    if not spec.guarded:
        _register_tile(spec, buffers, row, x, panel, vectors, edge=False, index=index)
        return
    first, last = _inner_columns(spec)
    inside = emit.both(x >= first, x <= last) if not isinstance(x, int) else first <= x <= last
    if isinstance(inside, bool):
        _register_tile(spec, buffers, row, x, panel, vectors, edge=not inside)
        return
    with emit.when(inside):
        _register_tile(spec, buffers, row, x, panel, vectors, edge=False)
    with emit.when(emit.negate(inside)):
        _register_tile(spec, buffers, row, x, panel, vectors, edge=True)


def _inner_columns(spec: ConvolutionSpec) -> tuple[int, int]:
    """First and last start of a tile all of whose reads are inside the image (none if the first is larger)."""
    stride = spec.strides[1]
    reach = (spec.tile.rows - 1) * stride + spec.kernel[1] - 1 - spec.pad_left
    return -(-spec.pad_left // stride), (spec.source.width - 1 - reach) // stride


def _register_tile(
    spec: ConvolutionSpec,
    buffers: Buffers,
    row: Row,
    x: Expr,
    panel: Expr,
    vectors: int,
    edge: bool,
    index: Expr = None,
) -> None:
    lanes, rows, width = spec.lanes, spec.tile.rows, vectors * spec.lanes
    panel_base = panel * ((1 + spec.reduction) * spec.tile.vectors * lanes)
    channel = panel * (spec.tile.vectors * lanes)
    weights = buffers["weights"]
    accumulators = emit.Registers(rows * vectors, lanes)
    for vector in range(vectors):
        bias = emit.load(weights, panel_base + vector * lanes, lanes)
        for column in range(rows):
            accumulators.set(column * vectors + vector, bias)
    _prefetch_outputs(spec, buffers, row, x, channel, width)
    _prefetch_caches(spec, buffers, row, x, channel)

    share = _panel_share(spec) if index is not None else 0

    def each_line(line: Expr) -> None:
        """Ask for this tile's share of the next panel, a little with every line of pixels."""
        lines = (spec.reduction_channels - (spec.cache.channels if spec.cache else 0)) // LINE
        lines *= spec.kernel[0] * spec.kernel[1]
        per_line = -(-share // max(1, lines))
        start = panel_base + (1 + spec.reduction) * width + index * (share * LINE) + line * (per_line * LINE)
        for offset in range(per_line):
            emit.prefetch(weights, start + offset * LINE)

    def step(weight_row: Expr, read: Reader, again: Reader | None = None) -> None:
        """One k of the reduction: ``rows`` broadcasts against ``vectors`` weight vectors.

        ``again`` reads the same values, though LLVM cannot know: with half of the pixels both multiply-adds then
        broadcast from memory, an instruction less, and the loads stay below two a cycle.
        """
        if "weights" in spec.prefetch and not share:
            ahead = panel_base + (1 + WEIGHT_DISTANCE + weight_row) * width
            for line in range(0, width, LINE):
                emit.prefetch(weights, ahead + line)
        for column in range(rows):
            value = emit.splat(read(column), lanes)
            for vector in range(vectors):
                if again and vector and column % 2 == 0:
                    value = emit.splat(again(column), lanes)
                weight = emit.load(weights, panel_base + (1 + weight_row) * width + vector * lanes, lanes)
                accumulators.add(column * vectors + vector, value * weight)

    reduce(spec, buffers, row, x, channel, step, each_line if share else None, edge)

    for column in range(rows):
        for vector in range(vectors):
            value = accumulators.get(column * vectors + vector)
            offset = channel + vector * lanes
            if spec.residual is not None:
                at = row.residual + (x + column) * spec.residual.pixel + offset
                value = value + emit.load(buffers["target" if spec.in_place else "residual"], at, lanes)
            value = emit.clamp(value, spec.low, spec.high, lanes)
            emit.store(buffers["target"], row.target + (x + column) * spec.target.pixel + offset, value, lanes)
    _tap(spec, buffers, row, x, channel, vectors)


def _prefetch_outputs(spec: ConvolutionSpec, buffers: Buffers, row: Row, x: Expr, channel: Expr, width: int) -> None:
    """Ask for what the epilogue will touch, a k loop ahead."""
    for name, image, start in (("residual", spec.residual, row.residual), ("target", spec.target, row.target)):
        if image is not None and name in spec.prefetch and not (spec.in_place and name == "residual"):
            for column in range(spec.tile.rows):
                for line in range(0, width, LINE):
                    at = start + (x + column) * image.pixel + channel + line
                    emit.prefetch(buffers[name], at, to_write=name == "target")


def _prefetch_caches(spec: ConvolutionSpec, buffers: Buffers, row: Row, x: Expr, channel: Expr) -> None:
    """Ask for the shift caches' pixels: a whole frame has gone by since they were last touched.

    What the epilogue writes is asked for now, what is read one tile ahead, with the first panel that reads it.
    """
    if "caches" not in spec.prefetch:
        return
    rows = spec.tile.rows
    if spec.tap is not None and not _beyond(channel, spec.tap.pixel):
        with emit.when_unsure(channel < spec.tap.pixel):
            for offset in _lines(rows, spec.tap.pixel, spec.tile.vectors * spec.lanes):
                emit.prefetch(buffers["tap"], row.tap + x * spec.tap.pixel + channel + offset, to_write=True)
    if spec.cache is not None and not _beyond(channel, 1):
        pixel = spec.strides[1] * spec.cache.pixel
        with emit.when_unsure(emit.equal(channel, 0)):
            for offset in _lines(rows, pixel, spec.cache.channels):
                emit.prefetch(buffers["cache"], row.cache + (x + rows) * pixel + offset)


def _lines(pixels: int, pixel: int, channels: int) -> list[int]:
    """Offsets of the cache lines of the first ``channels`` of some pixels, ``pixel`` elements apart."""
    if channels >= pixel:
        return list(range(0, pixels * pixel, LINE))
    return [column * pixel + line for column in range(pixels) for line in range(0, channels, LINE)]


def _beyond(channel: Expr, end: int) -> bool:
    """Whether the first channel of a panel is known to lie at or after ``end``."""
    return isinstance(channel, int) and channel >= end


def _panel_share(spec: ConvolutionSpec) -> int:
    """Cache lines of the next panel's weights that each register tile asks for; 0: it does not.

    Where all tiles of a panel follow each other and are few, the first of them would wait for the panel's weights:
    the tiles of the panel before fetch them, each its share.
    """
    tiles = spec.target.height * spec.row_tiles
    few = spec.tile.panels_outside and tiles <= MOST_SHARING_TILES
    if not few or spec.reduction_channels < LINE or "weights" not in spec.prefetch:
        return 0
    return -(-(1 + spec.reduction) * spec.tile.vectors * spec.lanes // (LINE * tiles))


def _tap(spec: ConvolutionSpec, buffers: Buffers, row: Row, x: Expr, channel: Expr, vectors: int) -> None:
    """Copy the first channels of the finished tile, still in the store buffer, to the next shift cache."""
    if spec.tap is None:
        return
    image, target = spec.tap, spec.target

    def copy(offset: Expr, width: int) -> None:
        for column in range(spec.tile.rows):
            value = emit.load(buffers["target"], row.target + (x + column) * target.pixel + offset, width)
            emit.store(buffers["tap"], row.tap + (x + column) * image.pixel + offset, value, width)

    whole = image.pixel - image.pixel % spec.lanes
    for vector in range(vectors):
        offset = channel + vector * spec.lanes
        if not _beyond(offset, whole):
            with emit.when_unsure(offset < whole):
                copy(offset, spec.lanes)
        if whole < image.pixel and (not isinstance(offset, int) or offset == whole):
            with emit.when_unsure(emit.equal(offset, whole)):
                for start, width in _powers_of_two(image.pixel - whole):
                    copy(offset + start, width)


def _powers_of_two(count: int) -> list[tuple[int, int]]:
    """``count`` elements as (start, width) of vectors: no other width is loaded whole."""
    pieces, start = [], 0
    for bit in reversed(range(count.bit_length())):
        if count >> bit & 1:
            pieces.append((start, 1 << bit))
            start += 1 << bit
    return pieces
