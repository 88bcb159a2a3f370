"""The k loop of a convolution: kernel rows, kernel columns and input channels, and how pixels are read in it.

One step multiplies one value of each of a tile's pixels by the vectors of weights of a panel. How values are loaded
depends on the CPU: one lane of a vector at a time, one value at a time, or by the multiply-add itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    row, x, block = tile.row, tile.x, tile.block
    kernel_width, channels = spec.kernel[1], spec.reduction_channels
    group: Expr = 0
    if spec.group_vectors:
        group = emit.div(spec.first_channel(tile.panel), spec.group_vectors * spec.lanes)
        group = group * (channels * spec.source.channel)
    shifted = 0
    if spec.cache is not None and tile.opens:
        shifted, image = spec.cache.channels, spec.cache
        cached = row.cache + x * spec.strides[1] * image.pixel
        if shifted <= FEW_CHANNELS and spec.k_loop.pixel_lanes == 1:
            for k in range(shifted):
                step(k, _reader(buffers["cache"], image, cached, k, spec))
        else:
            _steps(spec, buffers["cache"], image, cached, 0, shifted, 0, step)
    if spec.frame_runs and tile.opens:
        shifted = spec.shifted
        _other_frames(spec, buffers["source"], tile, step)

    def start(ky: Expr, kx: Expr) -> Expr:
        column = x * spec.strides[1] + kx - spec.pad_left
        return row.source(ky) + column * spec.source.pixel + group

    source = buffers["source"]
    if block is not None:
        ky, kx = emit.div(block.position, kernel_width), emit.mod(block.position, kernel_width)
        first, count = block.first + shifted, block.channels - shifted
        _channel_loop(spec, source, start(ky, kx), first, count, block.position, step, each_line)
        return
    if spec.kernel == (1, 1):
        _channel_loop(spec, source, start(0, 0), shifted, channels - shifted, 0, step, each_line)
        return
    first_ky, last_ky = row.kernel_rows
    with emit.loop(last_ky, first_ky) as ky:
        position = ky * kernel_width
        # Where two tiles overlap, both must add in the same order: kernel columns, unless planes are read by vectors.
        if spec.k_loop.pixel_lanes > 1 and spec.source.channel > 1 and channels <= FEW_CHANNELS:
            for channel in range(channels):
                if edge:
                    for kx in range(kernel_width):
                        read = _reader(source, spec.source, start(ky, kx), channel, spec, _Guard(x, kx))
                        step((position + kx) * channels + channel, read)
                else:
                    _plane_steps(spec, source, start(ky, 0), channel, ky, step)
            return
        inner = _inner_kernel_columns(spec, x) if edge else range(kernel_width)

        def guarded(columns: range) -> None:
            for kx in columns:
                _channel_steps(spec, source, [start(ky, kx)], position + kx, step, _Guard(x, kx))

        guarded(range(inner.start))
        if inner:  # a loop, even where it is short: written out, LLVM would keep pixels for the next column, and spill
            with emit.loop(len(inner)) as index:
                kx = inner.start + index
                if channels <= FEW_CHANNELS:
                    starts = [start(ky, kx * stride) for stride in _strides(spec, 1, kernel_width)]
                    _channel_steps(spec, source, starts, position + kx, step, None)
                else:
                    _channel_loop(spec, source, start(ky, kx), 0, channels, position + kx, step, each_line)
        guarded(range(inner.stop, kernel_width))


def _other_frames(spec: ConvolutionSpec, source: Any, tile: RegisterTile, step: Step) -> None:
    """The channels that come from other frames of a clip; those of frames that it does not have are zeros."""
    image, first = spec.source, 0
    here = tile.row.source(0) + tile.x * spec.strides[1] * image.pixel
    for run in spec.frame_runs:
        with emit.when(emit.has_frame(image, tile.row.frame, run.offset)):
            _steps(spec, source, image, here + run.offset * image.frame, first, run.channels, 0, step)
        first += run.channels


def _inner_kernel_columns(spec: ConvolutionSpec, x: Expr) -> range:
    """The kernel columns that read no pixel outside the image; none where the tile's place is not known."""
    if not isinstance(x, int):
        return range(0)
    width, stride = spec.kernel[1], spec.strides[1]
    first = min(width, max(0, spec.pad_left - x * stride))
    beyond = spec.source.width + spec.pad_left - (x + spec.tile.rows - 1) * stride
    return range(first, max(first, min(width, beyond)))


def _channel_loop(
    spec: ConvolutionSpec,
    source: Any,
    base: Expr,
    first: Expr,
    count: int,
    position: Expr,
    step: Step,
    each_line: Callable[[Expr], None] | None,
) -> None:
    """The k loop over ``count`` channels of one kernel position, from channel ``first``, a cache line at a time.

    With every line the same line of the next tile's pixels is asked for, and whatever ``each_line`` asks for.
    """
    image = spec.source
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
                emit.prefetch(source, at)
            _steps(spec, source, image, base, first + line * size, size, position, step)
    done = lines * size
    _steps(spec, source, image, base, first + done, count - done, position, step)


def _steps(
    spec: ConvolutionSpec,
    source: Any,
    image: Image,
    base: Expr,
    first: Expr,
    count: int,
    position: Expr,
    step: Step,
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
    behind = image is spec.cache and item_bytes(image.dtype) * (wide - count) <= bytes_behind_caches()
    if rest and wide > 1 and image.channel == 1 and (count >= wide or behind):
        # The last few come out of a vector too: one that ends with them; where a cache has no more, one that begins
        # with them (the runtime has room behind the last cache: TSM_READ_BEHIND in model.h).
        start = first + (done if count < wide else count - wide)
        for index in range(rest):
            k = first + done + index
            read = _lane_reader(source, image, base + start, index if count < wide else wide - rest + index, spec)
            step(position * channels + k, read)
    else:
        _single_steps(spec, source, image, base, first + done, rest, position, step)


def _single_steps(
    spec: ConvolutionSpec, source: Any, image: Image, base: Expr, first: Expr, count: int, position: Expr, step: Step
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
    if not spec.k_loop.folds or spec.source.paired or spec.tile.vectors > FOLDED_VECTORS or turns < FEWEST_FOLDED_TURNS:
        return [stride]
    return [stride + emit.hidden_zero(which) for which in range(spec.tile.vectors)]


def _plane_steps(spec: ConvolutionSpec, source: Any, base: Expr, channel: int, ky: Expr, step: Step) -> None:
    """The kernel columns of one row of a plane: what they read lies side by side and is loaded once for all of them."""
    wide, stride, columns = spec.k_loop.pixel_lanes, spec.strides[1], spec.kernel[1]
    span = (spec.tile.rows - 1) * stride + columns
    first = base + channel * spec.source.channel

    def reader(kx: int) -> Reader:
        def read(column: int) -> Expr:
            place = column * stride + kx
            if span < wide:
                return emit.load(source, first + place)
            start = min(place // wide * wide, span - wide)  # the last vector is moved back to end with the span
            return emit.lane(emit.load(source, first + start, wide), place - start)

        return read

    for kx in range(columns):
        step((ky * columns + kx) * spec.reduction_channels + channel, reader(kx))


def _lane_reader(source: Any, image: Image, base: Expr, index: int, spec: ConvolutionSpec) -> Reader:
    """Tile column → its ``index``-th input value from ``base``, out of a vector that is loaded once for all of them."""
    pixel, wide = spec.strides[1] * image.pixel, spec.k_loop.pixel_lanes
    return lambda column: emit.lane(emit.load(source, base + column * pixel, wide), index)


@dataclass(frozen=True)
class _Guard:
    """The tile's first column and the kernel column: what decides whether a read is inside the image."""

    x: Expr
    kx: int


def _channel_steps(
    spec: ConvolutionSpec, source: Any, bases: list[Expr], position: Expr, step: Step, guard: _Guard | None
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
) -> Reader:
    """Tile column → its input value, zero outside the image where there is a guard; or pair of columns → their two."""

    if image.paired:
        return lambda pair: emit.load(source, base + pair * (2 * image.pixel) + k * 2, 2)

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
                value = value if condition else tirx.const(0.0, image.dtype)
            else:
                value = tirx.if_then_else(condition, value, tirx.const(0.0, image.dtype))
        return value

    return read
