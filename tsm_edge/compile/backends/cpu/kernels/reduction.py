"""The k loop of a convolution: kernel rows, kernel columns and input channels, and how pixels are read in it.

One step multiplies one value of each of a tile's pixels by the vectors of weights of a panel. How values are loaded
depends on the CPU: one lane of a vector at a time, one value at a time, or by the multiply-add itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tvm import tirx

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import ConvolutionSpec, RegisterTile
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.ir.element import item_bytes
from tsm_edge.compile.ir.layout import Image
from tsm_edge.runtime import bytes_behind_caches

# Up to this many input channels (a stem's, a small shift cache's) are written out instead of looped over.
FEW_CHANNELS = 4
# Vectors of a pixel written out in a turn of the k loop, where pixels are loaded by vectors.
GROUPS_TOGETHER = 2
# Accumulators and vectors of pixels that LLVM keeps in 32 registers beside a step's weights.
MOST_VALUES_ALIVE = 30
# Multiply-adds that share a pixel's value broadcast it each for itself up to so many; loads are dearer beyond.
FOLDED_VECTORS = 2
FEWEST_FOLDED_TURNS = 3

Reader = Callable[[int], Expr]  # tile column → its input value, or where pixels are paired, pair → its two


class Step(Protocol):
    """Write one k of the reduction: row ``weight_row`` of the panel, pixels as ``read`` gives them.

    ``again`` reads the same values, though LLVM cannot know (see :func:`_strides`).
    """

    def __call__(self, weight_row: Expr, read: Reader, again: Reader | None = None) -> None: ...


@dataclass(frozen=True)
class _Source:
    """What a part of the k loop reads, an image in a buffer, and the ``step`` that every value is multiplied in."""

    spec: ConvolutionSpec
    buffer: Any
    image: Image
    step: Step

    def reader(self, base: Expr, k: Expr, guard: _Guard | None = None) -> Reader:
        """Tile column → its input value, zero outside the image where there is a guard; or pair of columns → two."""
        buffer, image, spec = self.buffer, self.image, self.spec
        if image.paired:
            return lambda pair: emit.load(buffer, base + pair * (2 * image.pixel) + k * 2, 2)

        def read(column: int) -> Expr:
            value = emit.load(buffer, base + column * spec.strides[1] * image.pixel + k * image.channel)
            return value if guard is None else _guarded(value, spec, image, guard, column)

        return read

    def lane_reader(self, base: Expr, index: int) -> Reader:
        """Tile column → its ``index``-th value from ``base``, out of a vector that is loaded once for all of them."""
        pixel, wide = self.spec.strides[1] * self.image.pixel, self.spec.k_loop.pixel_lanes
        return lambda column: emit.lane(emit.load(self.buffer, base + column * pixel, wide), index)


def reduce(
    spec: ConvolutionSpec,
    buffers: Buffers,
    tile: RegisterTile,
    step: Step,
    each_line: Callable[[Expr], None] | None,
    edge: bool,
) -> None:
    """Write the k loop of a register tile: the shifted channels first, if there are any.

    ``each_line`` is written with every cache line of a pixel's channels, with the line's number; ``edge``: some pixels
    lie outside the image.
    """
    source, block = _Source(spec, buffers["source"], spec.source, step), tile.block
    shifted = _shifted_channels(source, buffers, tile) if tile.opens else 0
    width, channels = spec.kernel[1], spec.reduction_channels
    start = _starts(spec, tile)
    if block is not None:
        base = start(emit.div(block.position, width), emit.mod(block.position, width))
        first, count = block.first + shifted, block.channels - shifted
        _channel_loop(source, base, first, count, block.position, each_line)
        return
    if spec.kernel == (1, 1):
        _channel_loop(source, start(0, 0), shifted, channels - shifted, 0, each_line)
        return
    first_ky, last_ky = tile.row.kernel_rows
    with emit.loop(last_ky, first_ky) as ky:
        # Where two tiles overlap, both must add in the same order: kernel columns, unless planes are read by vectors.
        if spec.k_loop.pixel_lanes > 1 and spec.source.channel > 1 and channels <= FEW_CHANNELS:
            _row_of_planes(source, start, ky, tile.x, edge)
        else:
            _row_of_pixels(source, start, ky, tile.x, edge, each_line)


def _starts(spec: ConvolutionSpec, tile: RegisterTile) -> Callable[[Expr, Expr], Expr]:
    """Kernel row and column → where the tile's first pixel for them begins, in the channels of the panel's group."""
    group: Expr = 0
    if spec.group_vectors:
        group = emit.div(spec.first_channel(tile.panel), spec.group_vectors * spec.lanes)
        group = group * (spec.reduction_channels * spec.source.channel)

    def start(ky: Expr, kx: Expr) -> Expr:
        column = tile.x * spec.strides[1] + kx - spec.pad_left
        return tile.row.source(ky) + column * spec.source.pixel + group

    return start


def _shifted_channels(source: _Source, buffers: Buffers, tile: RegisterTile) -> int:
    """The first channels, where they come from a shift cache or from other frames; returns how many."""
    spec, cache = source.spec, source.spec.cache
    if cache is not None:
        of_cache = replace(source, buffer=buffers["cache"], image=cache)
        cached = tile.row.cache + tile.x * spec.strides[1] * cache.pixel
        if cache.channels <= FEW_CHANNELS and spec.k_loop.pixel_lanes == 1:
            for k in range(cache.channels):
                source.step(k, of_cache.reader(cached, k))
        else:
            _steps(of_cache, cached, 0, cache.channels, 0)
        return cache.channels
    if spec.frame_runs:
        _other_frames(source, tile)
        return spec.shifted
    return 0


def _other_frames(source: _Source, tile: RegisterTile) -> None:
    """The channels that come from other frames of a clip; those of frames that it does not have are zeros."""
    image, first = source.image, 0
    here = tile.row.source(0) + tile.x * source.spec.strides[1] * image.pixel
    for run in source.spec.frame_runs:
        with emit.when(emit.has_frame(image, tile.row.frame, run.offset)):
            _steps(source, here + run.offset * image.frame, first, run.channels, 0)
        first += run.channels


def _row_of_planes(source: _Source, start: Callable[[Expr, Expr], Expr], ky: Expr, x: Expr, edge: bool) -> None:
    """One row of the kernel over a planar image of few channels, plane after plane."""
    kernel_width, channels = source.spec.kernel[1], source.spec.reduction_channels
    position = ky * kernel_width
    for channel in range(channels):
        if edge:
            for kx in range(kernel_width):
                read = source.reader(start(ky, kx), channel, _Guard(x, kx))
                source.step((position + kx) * channels + channel, read)
        else:
            _plane_steps(source, start(ky, 0), channel, ky)


def _row_of_pixels(
    source: _Source,
    start: Callable[[Expr, Expr], Expr],
    ky: Expr,
    x: Expr,
    edge: bool,
    each_line: Callable[[Expr], None] | None,
) -> None:
    """One row of the kernel, column after column, with all channels of each."""
    spec = source.spec
    kernel_width, channels = spec.kernel[1], spec.reduction_channels
    position = ky * kernel_width
    inner = _inner_kernel_columns(spec, x) if edge else range(kernel_width)

    def guarded(columns: range) -> None:
        for kx in columns:
            _channel_steps(source, [start(ky, kx)], position + kx, _Guard(x, kx))

    guarded(range(inner.start))
    if inner:  # a loop, even where it is short: written out, LLVM would keep pixels for the next column, and spill
        with emit.loop(len(inner)) as index:
            kx = inner.start + index
            if channels <= FEW_CHANNELS:
                starts = [start(ky, kx * stride) for stride in _strides(spec, 1, kernel_width)]
                _channel_steps(source, starts, position + kx)
            else:
                _channel_loop(source, start(ky, kx), 0, channels, position + kx, each_line)
    guarded(range(inner.stop, kernel_width))


def _inner_kernel_columns(spec: ConvolutionSpec, x: Expr) -> range:
    """The kernel columns that read no pixel outside the image; none where the tile's place is not known."""
    if not isinstance(x, int):
        return range(0)
    width, stride = spec.kernel[1], spec.strides[1]
    first = min(width, max(0, spec.pad_left - x * stride))
    beyond = spec.source.width + spec.pad_left - (x + spec.tile.rows - 1) * stride
    return range(first, max(first, min(width, beyond)))


def _channel_loop(
    source: _Source, base: Expr, first: Expr, count: int, position: Expr, each_line: Callable[[Expr], None] | None
) -> None:
    """The k loop over ``count`` channels of one kernel position, from channel ``first``, a cache line at a time.

    With every line the same line of the next tile's pixels is asked for, and whatever ``each_line`` asks for.
    """
    spec, image = source.spec, source.image
    far = "source" in spec.prefetch
    size = image.line
    lines = count // size if far or each_line else 0
    if lines:
        ahead = spec.tile.rows * spec.strides[1] * image.pixel
        with emit.loop(lines) as line:
            if each_line:
                each_line(position * lines + line)
            for column in range(spec.tile.rows if far else 0):
                at = base + ahead + column * spec.strides[1] * image.pixel + first + line * size
                emit.prefetch(source.buffer, at)
            _steps(source, base, first + line * size, size, position)
    done = lines * size
    _steps(source, base, first + done, count - done, position)


def _steps(source: _Source, base: Expr, first: Expr, count: int, position: Expr) -> None:
    """``count`` k steps from channel ``first`` of one kernel position, several at once where pixels are read so."""
    spec, image = source.spec, source.image
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
                        source.step(position * channels + k + index, source.lane_reader(base + k, index))
        done += turns * groups * wide
    rest = count - done
    behind = image is spec.cache and item_bytes(image.dtype) * (wide - count) <= bytes_behind_caches()
    if rest and wide > 1 and image.channel == 1 and (count >= wide or behind):
        # The last few come out of a vector too: one that ends with them; where a cache has no more, one that begins
        # with them (the runtime has room behind the last cache: TSM_READ_BEHIND in model.h).
        start = first + (done if count < wide else count - wide)
        for index in range(rest):
            k = first + done + index
            read = source.lane_reader(base + start, index if count < wide else wide - rest + index)
            source.step(position * channels + k, read)
    else:
        _single_steps(source, base, first + done, rest, position)


def _single_steps(source: _Source, base: Expr, first: Expr, count: int, position: Expr) -> None:
    """``count`` k steps whose values are loaded one at a time, some written out in a turn."""
    spec, done = source.spec, 0
    for steps in dict.fromkeys((spec.k_loop.steps, 1)):
        turns = (count - done) // steps
        if turns:
            with emit.loop(turns) as turn:
                starts = [first + done + turn * stride for stride in _strides(spec, steps, turns)]
                for index in range(steps):
                    readers = [source.reader(base, start + index) for start in starts]
                    row = position * spec.reduction_channels + first + done + turn * steps + index
                    source.step(row, *readers)
        done += turns * steps


def _strides(spec: ConvolutionSpec, stride: int, turns: int) -> list[Expr]:
    """What a loop's variable is multiplied by for the loads of pixels: once for each load of the same value.

    Multiply-adds fold loads well only where the address is in one register. LLVM would rather add an index to a base,
    unless it does not know by how much the address grows; nor would it load a value twice that it knew to be the same.
    In a loop of few turns it adds an index all the same.
    """
    if not spec.k_loop.folds or spec.source.paired or spec.tile.vectors > FOLDED_VECTORS or turns < FEWEST_FOLDED_TURNS:
        return [stride]
    return [stride + emit.hidden_zero(which) for which in range(spec.tile.vectors)]


def _plane_steps(source: _Source, base: Expr, channel: int, ky: Expr) -> None:
    """The kernel columns of one row of a plane: what they read lies side by side and is loaded once for all of them."""
    spec = source.spec
    wide, stride, columns = spec.k_loop.pixel_lanes, spec.strides[1], spec.kernel[1]
    span = (spec.tile.rows - 1) * stride + columns
    first = base + channel * source.image.channel

    def reader(kx: int) -> Reader:
        def read(column: int) -> Expr:
            place = column * stride + kx
            if span < wide:
                return emit.load(source.buffer, first + place)
            start = min(place // wide * wide, span - wide)  # the last vector is moved back to end with the span
            return emit.lane(emit.load(source.buffer, first + start, wide), place - start)

        return read

    for kx in range(columns):
        source.step((ky * columns + kx) * spec.reduction_channels + channel, reader(kx))


def _channel_steps(source: _Source, bases: list[Expr], position: Expr, guard: _Guard | None = None) -> None:
    """The channels of one kernel position, written out for a stem's few."""
    channels = source.spec.reduction_channels

    def one(k: Expr) -> None:
        source.step(position * channels + k, *(source.reader(base, k, guard) for base in bases))

    if channels <= FEW_CHANNELS:
        for k in range(channels):
            one(k)
        return
    with emit.loop(channels) as k:
        one(k)


@dataclass(frozen=True)
class _Guard:
    """The tile's first column and the kernel column: what decides whether a read is inside the image."""

    x: Expr
    kx: int


def _guarded(value: Expr, spec: ConvolutionSpec, image: Image, guard: _Guard, column: int) -> Expr:
    """The value of a tile's column, or zero where it lies outside the image."""
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
            value = value if condition else tirx.const(0.0, image.dtype)
        else:
            value = tirx.if_then_else(condition, value, tirx.const(0.0, image.dtype))
    return value
