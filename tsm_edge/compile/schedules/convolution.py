"""Convolution as a register-tiled GEMM over NHWC: pointwise, k×k, strided, grouped and dense layers.

``y[pixel, n] = clamp(Σ_k x[pixel + offset(k), k] · w[k, n] + bias[n] + residual[pixel, n])``

Weights are packed at compile time in panels of whole vectors, ``[panel][1 + K][vectors · lanes]``, the bias first.
The k loop is innermost but for the register tile, whose ``rows × vectors`` accumulators never leave registers.

The temporal shift is two ranges of the k loop with different sources: channels below ``shift_channels`` come from
the shift cache, the others from the current frame. Nothing is concatenated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from tvm import tirx

from tsm_edge.compile.schedules import emit
from tsm_edge.compile.schedules.border import zero_border
from tsm_edge.compile.schedules.emit import Expr
from tsm_edge.compile.schedules.geometry import Image
from tsm_edge.compile.schedules.tiles import GemmTile, KLoop

Buffers = dict[str, Any]
# Weights are asked for this many k steps ahead: about the latency of the next cache level.
WEIGHT_DISTANCE = 24
# float32 values in a cache line.
LINE = 16
# Up to this many input channels (a stem's, a small shift cache's) are written out instead of looped over.
FEW_CHANNELS = 4
# Vectors of a pixel written out in a turn of the k loop, where pixels are loaded by vectors.
GROUPS_TOGETHER = 2
# Multiply-adds that share a pixel's value broadcast it each for itself up to so many; loads are dearer beyond.
FOLDED_VECTORS = 2
FEWEST_FOLDED_TURNS = 3
# Accumulators and vectors of pixels that LLVM keeps in 32 registers beside a step's weights.
MOST_VALUES_ALIVE = 30
# A panel with more register tiles than this is read so often that its first reading does not matter.
MOST_SHARING_TILES = 16


@dataclass(frozen=True)
class ConvolutionSpec:
    """Everything a convolution kernel's code depends on; equal specs share one kernel.

    Attributes
    ----------
    source, target : Image
    kernel, strides : tuple of int
        Height, width.
    pad_top, pad_left : int
        Padding before the first row and column, pixels.
    reduction_channels : int
        Input channels each output sums over (input channels / groups).
    group_vectors : int
        Vectors of output channels that share their input channels; 0: all do (no groups).
    low, high : float
        The clamp of the epilogue; infinite: none.
    residual : Image or None
        Added before the clamp.
    cache : Image or None
        Shift cache; its channels replace the first channels of ``source``.
    tap : Image or None
        The next shift cache, filled with the first channels of the result.
    in_place : bool
        The result takes the residual's place: they are one buffer, ``target``.
    guarded : bool
        ``source`` has no border for the padding (the camera frame): rows outside it are skipped, columns outside it
        read as zero.
    prefetch : tuple of str
        The operands (``source``, ``weights``, ``target``, ``residual``, ``caches``: the shift's) that come from beyond
        the L2 cache and are asked for ahead of their use: weights a few k steps, pixels a register tile, outputs a k
        loop ahead.
    k_loop : KLoop
        How the k loop reads pixels.
    """

    source: Image
    target: Image
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pad_top: int
    pad_left: int
    reduction_channels: int
    tile: GemmTile
    lanes: int
    low: float
    high: float
    group_vectors: int = 0
    residual: Image | None = None
    cache: Image | None = None
    tap: Image | None = None
    in_place: bool = False
    guarded: bool = False
    prefetch: tuple[str, ...] = ()
    k_loop: KLoop = field(default_factory=KLoop)

    @property
    def reduction(self) -> int:
        """Steps of the k loop."""
        return self.reduction_channels * self.kernel[0] * self.kernel[1]

    @property
    def row_tiles(self) -> int:
        """Register tiles an image row; the last one is moved back to end with the row."""
        return -(-self.target.width // self.tile.rows)

    @property
    def blocks(self) -> int:
        """Blocks of register tiles."""
        return -(-self.target.height * self.row_tiles // self.tile.block)

    @property
    def items(self) -> int:
        """Work items: (block of register tiles, panel) pairs."""
        return self.blocks * self.tile.panels

    @property
    def full_panels(self) -> int:
        """Panels of ``tile.vectors`` vectors; the rest is one narrower panel."""
        return self.tile.panels - (1 if self.tile.tail_vectors else 0)

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the kernel's pointer arguments, in order."""
        residual = None if self.in_place else self.residual
        optional = (("residual", residual), ("cache", self.cache), ("tap", self.tap))
        return ("source", "weights", "target", *(name for name, image in optional if image is not None))


@dataclass(frozen=True)
class Row:
    """Where one output row's operands start in their buffers (offset of column 0, channel 0).

    Attributes
    ----------
    source : callable
        Kernel row → offset of the input row it reads.
    kernel_rows : tuple of (Expr, Expr)
        First and last + 1 kernel row inside the image; all of them but for a guarded source.
    target, residual, cache, tap : Expr
        Offsets of the row in the other images; 0 where there is none.
    """

    source: Callable[[Expr], Expr]
    kernel_rows: tuple[Expr, Expr]
    target: Expr
    residual: Expr = 0
    cache: Expr = 0
    tap: Expr = 0


def row_of(spec: ConvolutionSpec, y: Expr) -> Row:
    """The operands of output row ``y`` where all images are whole."""
    source = spec.source
    top = y * spec.strides[0] - spec.pad_top
    kernel_rows: tuple[Expr, Expr] = (0, spec.kernel[0])
    if spec.guarded:
        kernel_rows = (emit.larger(0 - top, 0), emit.smaller(source.height - top, spec.kernel[0]))

    def start(image: Image | None, at: Expr) -> Expr:
        return 0 if image is None else image.origin + at * image.row

    return Row(
        source=lambda ky: source.origin + (top + ky) * source.row,
        kernel_rows=kernel_rows,
        target=start(spec.target, y),
        residual=start(spec.residual, y),
        cache=start(spec.cache, y * spec.strides[0]),
        tap=start(spec.tap, y),
    )


def pack_weights(spec: ConvolutionSpec, weight: np.ndarray, bias: np.ndarray, groups: int) -> np.ndarray:
    """Pack a weight tensor for :func:`convolution`.

    Parameters
    ----------
    weight : numpy.ndarray
        float32 [out, in / groups, kh, kw].
    bias : numpy.ndarray
        float32 [out].

    Returns
    -------
    numpy.ndarray
        float32, 1-D: for each panel ``[1 + reduction][vectors · lanes]``; lanes beyond the last channel are zero.
    """
    outputs = weight.shape[0]
    per_group_out, per_group_in = outputs // groups, weight.shape[1]
    total = sum(_panel_widths(spec))
    matrix = np.zeros((spec.kernel[0], spec.kernel[1], spec.reduction_channels, total), np.float32)
    for group in range(groups):
        rows = slice(group * per_group_out, (group + 1) * per_group_out)
        # Groups narrower than a vector share it; their input channels then lie side by side in the reduction.
        start = (group * per_group_in) % spec.reduction_channels
        matrix[:, :, start : start + per_group_in, rows] = weight[rows].transpose(2, 3, 1, 0)
    columns = np.zeros((1 + spec.reduction, total), np.float32)
    columns[0, :outputs] = bias
    columns[1:] = matrix.reshape(spec.reduction, total)
    edges = np.cumsum([0, *_panel_widths(spec)])
    panels = [columns[:, edges[i] : edges[i + 1]].reshape(-1) for i in range(spec.tile.panels)]
    return np.ascontiguousarray(np.concatenate(panels))


def _panel_widths(spec: ConvolutionSpec) -> list[int]:
    tail = [spec.tile.tail_vectors * spec.lanes] if spec.tile.tail_vectors else []
    return [spec.tile.vectors * spec.lanes] * spec.full_panels + tail


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

    def step(weight_row: Expr, read: _Reader, again: _Reader | None = None) -> None:
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

    _reduce(spec, buffers, row, x, channel, step, each_line if share else None, edge)

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
        with contextlib.nullcontext() if isinstance(channel, int) else emit.when(channel < spec.tap.pixel):
            for offset in _lines(rows, spec.tap.pixel, spec.tile.vectors * spec.lanes):
                emit.prefetch(buffers["tap"], row.tap + x * spec.tap.pixel + channel + offset, to_write=True)
    if spec.cache is not None and not _beyond(channel, 1):
        pixel = spec.strides[1] * spec.cache.pixel
        with contextlib.nullcontext() if isinstance(channel, int) else emit.when(emit.equal(channel, 0)):
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


_Reader = Callable[[int], Expr]  # tile column → its input value


class _Step(Protocol):
    def __call__(self, weight_row: Expr, read: _Reader, again: _Reader | None = None) -> None: ...


def _reduce(
    spec: ConvolutionSpec,
    buffers: Buffers,
    row: Row,
    x: Expr,
    channel: Expr,
    step: _Step,
    each_line: Callable[[Expr], None] | None,
    edge: bool,
) -> None:
    """The k loop: kernel rows, kernel columns, channels; the cache's channels first where there is a shift."""
    kernel_width, channels = spec.kernel[1], spec.reduction_channels
    group: Expr = 0
    if spec.group_vectors:
        group = emit.div(channel, spec.group_vectors * spec.lanes) * (channels * spec.source.channel)
    shifted = 0
    if spec.cache is not None:
        shifted, image = spec.cache.channels, spec.cache
        cached = row.cache + x * spec.strides[1] * image.pixel
        if shifted <= FEW_CHANNELS and spec.k_loop.pixel_lanes == 1:
            for k in range(shifted):
                step(k, _reader(buffers["cache"], image, cached, k, spec))
        else:
            _steps(spec, buffers["cache"], image, cached, 0, shifted, 0, step)

    def start(ky: Expr, kx: Expr) -> Expr:
        column = x * spec.strides[1] + kx - spec.pad_left
        return row.source(ky) + column * spec.source.pixel + group

    source = buffers["source"]
    if spec.kernel == (1, 1):
        _channel_loop(spec, source, start(0, 0), shifted, 0, step, each_line)
        return
    first_ky, last_ky = row.kernel_rows
    with emit.loop(last_ky, first_ky) as ky:
        if edge:
            for kx in range(kernel_width):
                _channel_steps(spec, source, [start(ky, kx)], ky * kernel_width + kx, step, _Guard(x, kx))
            return
        if spec.k_loop.pixel_lanes > 1 and spec.source.channel > 1 and channels <= FEW_CHANNELS:
            for channel in range(channels):
                _plane_steps(spec, source, start(ky, 0), channel, ky, step)
            return
        # A loop, even where it is short: written out, LLVM would keep pixels for the next column, and spill.
        with emit.loop(kernel_width) as kx:
            if channels <= FEW_CHANNELS:
                starts = [start(ky, kx * stride) for stride in _strides(spec, 1, kernel_width)]
                _channel_steps(spec, source, starts, ky * kernel_width + kx, step, None)
            else:
                _channel_loop(spec, source, start(ky, kx), 0, ky * kernel_width + kx, step, each_line)


def _channel_loop(
    spec: ConvolutionSpec,
    source: Any,
    base: Expr,
    first: int,
    position: Expr,
    step: _Step,
    each_line: Callable[[Expr], None] | None,
) -> None:
    """The k loop over the channels of one kernel position, from channel ``first``, a cache line at a time.

    With every line the same line of the next tile's pixels is asked for, and whatever ``each_line`` asks for.
    """
    image, channels = spec.source, spec.reduction_channels
    far = "source" in spec.prefetch
    lines = (channels - first) // LINE if far or each_line else 0
    if lines:
        ahead = spec.tile.rows * spec.strides[1] * image.pixel
        with emit.loop(lines) as line:
            if each_line:
                each_line(position * lines + line)
            for column in range(spec.tile.rows if far else 0):
                at = base + ahead + column * spec.strides[1] * image.pixel + first + line * LINE
                emit.prefetch(source, at)
            _steps(spec, source, image, base, first + line * LINE, LINE, position, step)
    done = first + lines * LINE
    _steps(spec, source, image, base, done, channels - done, position, step)


def _steps(
    spec: ConvolutionSpec,
    source: Any,
    image: Image,
    base: Expr,
    first: Expr,
    count: int,
    position: Expr,
    step: _Step,
) -> None:
    """``count`` k steps from channel ``first`` of one kernel position, several at once where pixels are read so."""
    channels, wide = spec.reduction_channels, spec.k_loop.pixel_lanes
    done = 0
    # LLVM loads all the pixels of a turn first, in pairs.
    fits = spec.tile.rows * (spec.tile.vectors + GROUPS_TOGETHER) <= MOST_VALUES_ALIVE
    for groups in (GROUPS_TOGETHER if fits else 1, 1) if wide > 1 and image.channel == 1 else ():
        turns = (count - done) // (groups * wide)
        if turns:
            with emit.loop(turns) as turn:
                for group in range(groups):
                    k = first + done + (turn * groups + group) * wide
                    for index in range(wide):
                        step(position * channels + k + index, _lane_reader(source, image, base + k, index, spec))
        done += turns * groups * wide
    rest = count - done
    if rest and wide > 1 and image.channel == 1 and (count >= wide or image is spec.cache):
        # The last few come out of a vector too: one that ends with them; where a cache has no more, one that begins
        # with them (behind the last cache there is room: stream.c aligns what it allocates).
        start = first + (done if count < wide else count - wide)
        for index in range(rest):
            k = first + done + index
            read = _lane_reader(source, image, base + start, index if count < wide else wide - rest + index, spec)
            step(position * channels + k, read)
    else:
        _single_steps(spec, source, image, base, first + done, rest, position, step)


def _single_steps(
    spec: ConvolutionSpec, source: Any, image: Image, base: Expr, first: Expr, count: int, position: Expr, step: _Step
) -> None:
    """``count`` k steps whose values are loaded one at a time, some written out in a turn."""
    channels, done = spec.reduction_channels, 0
    for steps in dict.fromkeys((spec.k_loop.steps, 1)):
        turns = (count - done) // steps
        if turns:
            with emit.loop(turns) as turn:
                starts = [first + done + turn * stride for stride in _strides(spec, steps, turns)]
                for index in range(steps):
                    readers = [_reader(source, image, base, start + index, spec) for start in starts]
                    step(position * channels + first + done + turn * steps + index, *readers)
        done += turns * steps


def _strides(spec: ConvolutionSpec, stride: int, turns: int) -> list[Expr]:
    """What a loop's variable is multiplied by for the loads of pixels: once for each load of the same value.

    Multiply-adds fold loads well only where the address is in one register. LLVM would rather add an index to a base,
    unless it does not know by how much the address grows; nor would it load a value twice that it knew to be the same.
    In a loop of few turns it adds an index all the same.
    """
    if not spec.k_loop.folds or spec.tile.vectors > FOLDED_VECTORS or turns < FEWEST_FOLDED_TURNS:
        return [stride]
    return [stride + emit.hidden_zero(which) for which in range(spec.tile.vectors)]


def _plane_steps(spec: ConvolutionSpec, source: Any, base: Expr, channel: int, ky: Expr, step: _Step) -> None:
    """The kernel columns of one row of a plane: what they read lies side by side and is loaded once for all of them."""
    wide, stride, columns = spec.k_loop.pixel_lanes, spec.strides[1], spec.kernel[1]
    span = (spec.tile.rows - 1) * stride + columns
    first = base + channel * spec.source.channel

    def reader(kx: int) -> _Reader:
        def read(column: int) -> Expr:
            place = column * stride + kx
            if span < wide:
                return emit.load(source, first + place)
            start = min(place // wide * wide, span - wide)  # the last vector is moved back to end with the span
            return emit.lane(emit.load(source, first + start, wide), place - start)

        return read

    for kx in range(columns):
        step((ky * columns + kx) * spec.reduction_channels + channel, reader(kx))


def _lane_reader(source: Any, image: Image, base: Expr, index: int, spec: ConvolutionSpec) -> _Reader:
    """Tile column → its ``index``-th input value from ``base``, out of a vector that is loaded once for all of them."""
    pixel, wide = spec.strides[1] * image.pixel, spec.k_loop.pixel_lanes
    return lambda column: emit.lane(emit.load(source, base + column * pixel, wide), index)


@dataclass(frozen=True)
class _Guard:
    """The tile's first column and the kernel column: what decides whether a read is inside the image."""

    x: Expr
    kx: int


def _channel_steps(
    spec: ConvolutionSpec, source: Any, bases: list[Expr], position: Expr, step: _Step, guard: _Guard | None
) -> None:
    """The channels of one kernel position, written out for a stem's few."""
    channels = spec.reduction_channels

    def one(k: Expr) -> None:
        step(position * channels + k, *(_reader(source, spec.source, base, k, spec, guard) for base in bases))

    if channels <= FEW_CHANNELS:
        for k in range(channels):
            one(k)
        return
    with emit.loop(channels) as k:
        one(k)


def _reader(
    source: Any, image: Image, base: Expr, k: Expr, spec: ConvolutionSpec, guard: _Guard | None = None
) -> _Reader:
    """Tile column → its input value; zero outside the image where there is a guard."""

    def read(column: int) -> Expr:
        value = emit.load(source, base + column * spec.strides[1] * image.pixel + k * image.channel)
        if guard is None:
            return value
        shift = column * spec.strides[1] + guard.kx - spec.pad_left
        last = (spec.target.width - spec.tile.rows) * spec.strides[1] + shift
        position = guard.x * spec.strides[1] + shift
        conditions = []
        if shift < 0:
            conditions.append(position >= 0)
        if last >= image.width:
            conditions.append(position < image.width)
        for condition in conditions:
            if isinstance(condition, bool):
                value = value if condition else tirx.const(0.0, "float32")
            else:
                value = tirx.if_then_else(condition, value, tirx.const(0.0, "float32"))
        return value

    return read


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
            with contextlib.nullcontext() if isinstance(offset, int) else emit.when(offset < whole):
                copy(offset, spec.lanes)
        if whole < image.pixel and (not isinstance(offset, int) or offset == whole):
            with contextlib.nullcontext() if isinstance(offset, int) else emit.when(emit.equal(offset, whole)):
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
