"""A register tile of a convolution: its sums, the k loop over them, and what becomes of them.

Besides arithmetic, it asks ahead for what it and the tiles after it will need from beyond the L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import ConvolutionSpec, RegisterTile, Row
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.backends.cpu.kernels.reduction import Reader, reduce
from tsm_edge.compile.ir.element import ceil_div

# Weights are asked for this many k steps ahead: about the latency of the next cache level.
WEIGHT_DISTANCE = 24
# A panel with more register tiles than this is read so often that its first reading does not matter.
MOST_SHARING_TILES = 16
# The first and the last tile of a row are written each for itself: what they read outside the image is known then.
MOST_EDGES_APART = 2


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


def tile_start(spec: ConvolutionSpec, step: Expr) -> Expr:
    """First column of the ``step``-th register tile of a row."""
    return emit.tile_start(spec.target.width, spec.tile.rows, step)


def register_tile(spec: ConvolutionSpec, buffers: Buffers, tile: RegisterTile) -> None:
    """Write one register tile; at the edge of a guarded source apart, so that the others read without conditions."""
    if not spec.guarded:
        _register_tile(spec, buffers, tile, edge=False)
        return
    first, last = _inner_columns(spec)
    if isinstance(tile.x, int):
        _register_tile(spec, buffers, tile, edge=not first <= tile.x <= last)
        return
    inside = emit.both(tile.x >= first, tile.x <= last)
    with emit.when(inside):
        _register_tile(spec, buffers, tile, edge=False)
    starts = [tile_start(spec, step) for step in range(spec.row_tiles)]
    edges = [start for start in starts if not first <= start <= last]
    if len(edges) > MOST_EDGES_APART:
        with emit.when(emit.negate(inside)):
            _register_tile(spec, buffers, tile, edge=True)
        return
    for start in edges:
        with emit.when(emit.equal(tile.x, start)):
            _register_tile(spec, buffers, replace(tile, x=start), edge=True)


def convolve_row(spec: ConvolutionSpec, buffers: Buffers, row: Row) -> None:
    """All register tiles of a row; a panel's weights stay in L1 for the whole row."""
    with emit.loop(spec.tile.panels) as panel:

        def tiles(at: Expr, vectors: int) -> None:
            with emit.loop(spec.row_tiles) as step:
                register_tile(spec, buffers, RegisterTile(row, tile_start(spec, step), at, vectors))

        for_panel(spec, panel, tiles)


def _inner_columns(spec: ConvolutionSpec) -> tuple[int, int]:
    """First and last start of a tile all of whose reads are inside the image (none if the first is larger)."""
    stride = spec.strides[1]
    reach = (spec.tile.rows - 1) * stride + spec.kernel[1] - 1 - spec.pad_left
    return ceil_div(spec.pad_left, stride), (spec.source.width - 1 - reach) // stride


def _register_tile(spec: ConvolutionSpec, buffers: Buffers, tile: RegisterTile, edge: bool) -> None:
    lanes, vectors, together = spec.lanes, tile.vectors, spec.pixels_together
    width = vectors * lanes
    panel_base = _panel_start(spec, tile)
    weights, number = buffers["weights"], tile.number
    columns = spec.tile.rows // together
    sums = emit.Registers(columns * vectors, lanes, spec.target.dtype)
    if tile.opens:
        for vector in range(vectors):
            bias = emit.load(weights, panel_base + vector * lanes, lanes)
            for column in range(columns):
                sums.set(column * vectors + vector, bias)
        _prefetch_caches(spec, buffers, tile)
    else:
        sums.load(buffers["scratch"], number * spec.tile_elements)
    if tile.closes:
        _prefetch_outputs(spec, buffers, tile)
    ahead = _weights_ahead(spec, tile) if number is not None else None
    each_line = None if ahead is None else lambda line: ahead.ask(weights, number, line)

    def step(weight_row: Expr, read: Reader, again: Reader | None = None) -> None:
        """One k of the reduction: ``rows`` broadcasts against ``vectors`` weight vectors.

        ``again`` reads the same values, though LLVM cannot know: with half of the pixels both multiply-adds then
        broadcast from memory, an instruction less, and the loads stay below two a cycle.
        """
        if "weights" in spec.prefetch and not ahead:
            distant = panel_base + (1 + WEIGHT_DISTANCE + weight_row) * width
            for line in range(0, width, spec.source.line):
                emit.prefetch(weights, distant + line)
        for column in range(columns):
            value = emit.repeat_pair(read(column), lanes) if together == 2 else emit.splat(read(column), lanes)
            for vector in range(vectors):
                if again and vector and column % 2 == 0:
                    value = emit.splat(again(column), lanes)
                weight = emit.load(weights, panel_base + (1 + weight_row) * width + vector * lanes, lanes)
                sums.add(column * vectors + vector, value * weight)

    reduce(spec, buffers, tile, step, each_line, edge)
    if tile.closes:
        _finish(spec, buffers, tile, sums)
    else:
        sums.store(buffers["scratch"], number * spec.tile_elements)


def _panel_start(spec: ConvolutionSpec, tile: RegisterTile) -> Expr:
    """Where a panel's weights begin, the bias first."""
    return tile.panel * ((1 + spec.reduction) * spec.tile.vectors * spec.lanes)


def _finish(spec: ConvolutionSpec, buffers: Buffers, tile: RegisterTile, sums: emit.Registers) -> None:
    """Residual, clamp, and the result's first channels to the next shift cache."""
    lanes, row = spec.lanes, tile.row
    for column in range(spec.tile.rows):
        for vector, value in enumerate(_pixel_sums(spec, sums, column, tile.vectors)):
            offset = spec.first_channel(tile.panel) + vector * lanes
            if spec.residual is not None:
                at = row.residual + (tile.x + column) * spec.residual.pixel + offset
                value = value + emit.load(buffers["target" if spec.in_place else "residual"], at, lanes)
            value = emit.clamp(value, spec.low, spec.high, lanes)
            emit.store(buffers["target"], row.target + (tile.x + column) * spec.target.pixel + offset, value, lanes)
    _tap(spec, buffers, tile)


def _pixel_sums(spec: ConvolutionSpec, sums: emit.Registers, column: int, vectors: int) -> list[Expr]:
    """The sums of one pixel, in vectors of channels."""
    if spec.pixels_together == 1:
        return [sums.get(column * vectors + vector) for vector in range(vectors)]
    start = column // 2 * vectors
    parts = [sums.get(start + vector) for vector in range(vectors)]
    parts += [emit.splat(0.0, spec.lanes, spec.target.dtype)] * (vectors % 2)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [emit.one_of_pairs(low, high, column % 2, spec.lanes) for low, high in pairs]


def _prefetch_outputs(spec: ConvolutionSpec, buffers: Buffers, tile: RegisterTile) -> None:
    """Ask for what the epilogue will touch, a k loop ahead."""
    row, width = tile.row, spec.channels(tile.vectors)
    for name, image, start in (("residual", spec.residual, row.residual), ("target", spec.target, row.target)):
        if image is not None and name in spec.prefetch and not (spec.in_place and name == "residual"):
            for column in range(spec.tile.rows):
                for line in range(0, width, image.line):
                    at = start + (tile.x + column) * image.pixel + spec.first_channel(tile.panel) + line
                    emit.prefetch(buffers[name], at, to_write=name == "target")


def _prefetch_caches(spec: ConvolutionSpec, buffers: Buffers, tile: RegisterTile) -> None:
    """Ask for the shift caches' pixels: a whole frame has gone by since they were last touched.

    What the epilogue writes is asked for now, what is read one tile ahead, with the first panel that reads it.
    """
    if "caches" not in spec.prefetch:
        return
    row, x, rows = tile.row, tile.x, spec.tile.rows
    channel = spec.first_channel(tile.panel)
    if spec.tap is not None and not _beyond(channel, spec.tap.pixel):
        with emit.when_unsure(channel < spec.tap.pixel):
            for offset in _lines(rows, spec.tap.pixel, spec.channels(spec.tile.vectors), spec.tap.line):
                emit.prefetch(buffers["tap"], row.tap + x * spec.tap.pixel + channel + offset, to_write=True)
    if spec.cache is not None and not _beyond(channel, 1):
        pixel = spec.strides[1] * spec.cache.pixel
        with emit.when_unsure(emit.equal(channel, 0)):
            for offset in _lines(rows, pixel, spec.cache.channels, spec.cache.line):
                emit.prefetch(buffers["cache"], row.cache + (x + rows) * pixel + offset)


def _lines(pixels: int, pixel: int, channels: int, line: int) -> list[int]:
    """Offsets of the cache lines (of ``line`` elements) of the first ``channels`` of some pixels, ``pixel`` apart."""
    if channels >= pixel:
        return list(range(0, pixels * pixel, line))
    return [column * pixel + start for column in range(pixels) for start in range(0, channels, line)]


def _beyond(channel: Expr, end: int) -> bool:
    """Whether the first channel of a panel is known to lie at or after ``end``."""
    return isinstance(channel, int) and channel >= end


@dataclass(frozen=True)
class _Ahead:
    """Weights that register tiles ask for together before they are needed.

    Attributes
    ----------
    start : Expr
        Where they begin.
    share : int
        Cache lines each tile asks for.
    pixel_lines : int
        Cache lines of a pixel that a tile reads meanwhile.
    line : int
        Elements of a cache line.
    """

    start: Expr
    share: int
    pixel_lines: int
    line: int

    def ask(self, weights: Any, index: Expr, line: Expr) -> None:
        """Ask for a little of the ``index``-th tile's share, with every line of pixels."""
        per_line = ceil_div(self.share, max(1, self.pixel_lines))
        start = self.start + index * (self.share * self.line) + line * (per_line * self.line)
        for offset in range(per_line):
            emit.prefetch(weights, start + offset * self.line)


def _weights_ahead(spec: ConvolutionSpec, tile: RegisterTile) -> _Ahead | None:
    """What the tiles of a panel ask for: where the k loop has blocks, the next block's weights, else the next panel's.

    Without blocks it is for panels with few tiles, all of which follow each other: the first of them would wait for
    the panel's weights.
    """
    if "weights" not in spec.prefetch:
        return None
    panel_base, width, block = _panel_start(spec, tile), tile.vectors * spec.lanes, tile.block
    line = spec.source.line
    if block is not None:
        done = 1 + block.position * spec.reduction_channels + block.first + block.channels
        share = ceil_div(spec.k_block * width, line * spec.tile.block)
        return _Ahead(panel_base + done * width, share, block.channels // line, line)
    few = spec.tile.panels_outside and spec.tiles <= MOST_SHARING_TILES
    if not few or spec.reduction_channels < line:
        return None
    share = ceil_div((1 + spec.reduction) * spec.tile.vectors * spec.lanes, line * spec.tiles)
    lines = (spec.reduction_channels - spec.shifted) // line
    return _Ahead(panel_base + (1 + spec.reduction) * width, share, lines * spec.kernel[0] * spec.kernel[1], line)


def _tap(spec: ConvolutionSpec, buffers: Buffers, tile: RegisterTile) -> None:
    """Copy the first channels of the finished tile, still in the store buffer, to the next shift cache."""
    if spec.tap is None:
        return
    image, target, row, x = spec.tap, spec.target, tile.row, tile.x

    def copy(offset: Expr, width: int) -> None:
        for column in range(spec.tile.rows):
            value = emit.load(buffers["target"], row.target + (x + column) * target.pixel + offset, width)
            emit.store(buffers["tap"], row.tap + (x + column) * image.pixel + offset, value, width)

    whole = image.pixel - image.pixel % spec.lanes
    for vector in range(ceil_div(tile.vectors, spec.pixels_together)):
        offset = spec.first_channel(tile.panel) + vector * spec.lanes
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
