"""How a matrix product's tiles come from memory: rows of planes for a 1×1 convolution, gathered pixels for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.cuda.kernels import emit
from tsm_edge.compile.backends.cuda.kernels.emit import VECTOR, Expr, div, mod
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, word_type
from tsm_edge.compile.ir.element import ceil_div


@dataclass
class Operands:
    """Both operands' tiles on their way: from memory to registers, and from there to shared memory."""

    pixels: _Rows | _Gathered
    weights: _Weights

    def load(self, step: Expr) -> None:
        """Ask for the tiles of a step."""
        self.pixels.load(step)
        self.weights.load(step)

    def keep(self, parity: Expr) -> None:
        """Put them where they are used."""
        self.pixels.keep(parity)
        self.weights.keep(parity)


def operands(kernel: emit.Kernel, spec: GemmSpec, memory: Any, group: Expr) -> Operands:
    """The loaders of a spec."""
    pixels = _Rows(kernel, spec, memory, group) if spec.window is None else _Gathered(kernel, spec, memory, group)
    return Operands(pixels, _Weights(kernel, spec, memory, group))


class _Vectors:
    """A tile of whole vectors: ``words`` of a row, dealt out to the block's threads.

    Halfs that are multiplied in fp32 become floats on the way from registers to shared memory.
    """

    def __init__(self, kernel: emit.Kernel, spec: GemmSpec, memory: Any, words: int, first: int) -> None:
        self.kernel, self.spec, self.memory, self.first = kernel, spec, memory, first
        self.row_vectors = words // VECTOR
        self.tile_words = spec.tile.rows * words
        self.count = self.tile_words // VECTOR
        self.widens = spec.source_elements > spec.word_elements
        self.lanes = VECTOR * spec.word_elements // spec.source_elements  # words in memory of a vector
        turns = ceil_div(self.count, spec.tile.threads)
        self.values = emit.registers(turns * self.lanes, word_type(spec.source_elements))
        self.floats = emit.registers(VECTOR) if self.widens else None

    def load(self, step: Expr) -> None:
        for turn, index, inside in emit.shares(self.count, self.spec.tile.threads, self.kernel.thread):
            row, column = div(index, self.row_vectors), mod(index, self.row_vectors)
            with emit.when_all(inside):
                value = self.value(step * self.spec.tile.rows + row, column)
                emit.store(self.values, turn * self.lanes, value, self.lanes)

    def keep(self, parity: Expr) -> None:
        for turn, index, inside in emit.shares(self.count, self.spec.tile.threads, self.kernel.thread):
            with emit.when_all(inside):
                at = self.first + parity * self.tile_words + index * VECTOR
                emit.store(self.memory, at, self._vector(turn * self.lanes), VECTOR)

    def _vector(self, first: int) -> Expr:
        """A vector as shared memory has it, of the words from the ``first`` on."""
        if self.floats is None:
            return emit.load(self.values, first, VECTOR)
        for element in range(VECTOR):
            function = "tsm_high" if element % 2 else "tsm_low"
            emit.store(self.floats, element, emit.call(function, self.values[first + element // 2]))
        return emit.load(self.floats, 0, VECTOR)

    def value(self, row: Expr, column: Expr) -> Expr:
        raise NotImplementedError


class _Rows(_Vectors):
    """Pixels of a 1×1 convolution: a row is a plane, or a shift cache's."""

    def __init__(self, kernel: emit.Kernel, spec: GemmSpec, memory: Any, group: Expr) -> None:
        super().__init__(kernel, spec, memory, spec.tile.pixels // spec.word_elements, 0)
        self.plane = spec.source.channel // spec.source_elements
        self.origin = group * spec.inputs
        self.first_word = kernel.block[0] * (spec.tile.pixels // spec.source_elements)

    def value(self, row: Expr, column: Expr) -> Expr:
        spec, buffers = self.spec, self.kernel.buffers
        word = self.first_word + column * self.lanes
        if spec.pixels % spec.tile.pixels:
            word = emit.smaller(word, self.plane - self.lanes)  # never past the plane
        if spec.padded_inputs != spec.inputs:
            row = emit.smaller(row, spec.inputs - 1)  # its weights are zero
        at = (self.origin + row) * self.plane + word
        value = emit.load(buffers["source"], at, self.lanes)
        if not spec.shift:
            return value
        return emit.either(row < spec.shift, emit.load(buffers["cache"], at, self.lanes), value)


class _Weights(_Vectors):
    """Weights, packed [group][position][input][output]."""

    def __init__(self, kernel: emit.Kernel, spec: GemmSpec, memory: Any, group: Expr) -> None:
        per_word = spec.word_elements
        pixel_words = 2 * spec.tile.rows * spec.tile.pixels // per_word
        super().__init__(kernel, spec, memory, spec.tile.channels // per_word, pixel_words)
        self.row_words = spec.padded_outputs // spec.source_elements
        self.origin = group * (spec.positions * spec.padded_inputs * self.row_words)
        self.first_word = kernel.block[1] * (spec.tile.channels // spec.source_elements)

    def value(self, row: Expr, column: Expr) -> Expr:
        at = self.origin + row * self.row_words + (self.first_word + column * self.lanes)
        return emit.load(self.kernel.buffers["weights"], at, self.lanes)


class _Gathered:
    """Pixels of a convolution with a window: a thread reads a pixel (or two halfs) of several channels.

    A step is at one position of the kernel, so one condition decides for all of a thread's loads of it. What is outside
    the image reads its first pixel, and becomes zero when it is kept: a condition around the load would be waited for.
    """

    def __init__(self, kernel: emit.Kernel, spec: GemmSpec, memory: Any, group: Expr) -> None:
        tile = spec.tile
        if spec.window is None:
            raise TypeError("a 1×1 convolution reads rows")
        self.kernel, self.spec, self.memory, self.window = kernel, spec, memory, spec.window
        self.per_word = spec.word_elements
        self.columns = tile.pixels // self.per_word
        self.lines = tile.threads // self.columns  # channels that the block reads at a time
        self.turns = tile.rows // self.lines
        self.halfs = spec.source_elements == 2
        self.values = emit.registers(self.turns * self.per_word, "uint16" if self.halfs else "float32")
        self.tile_words = tile.rows * self.columns
        self.column, self.line = mod(kernel.thread, self.columns), div(kernel.thread, self.columns)
        self.origin = group * spec.inputs
        # Row and column of the image that the kernel's first position reads, of each of the word's pixels.
        self.at = emit.registers(2 * self.per_word, "int32")
        # All ones where a pixel is in the image at the position on its way; of halfs, in their halves of the word.
        self.mask = emit.registers(1, "uint32")
        self.masks = False
        for element in range(self.per_word):
            pixel = kernel.block[0] * tile.pixels + self.column * self.per_word + element
            if spec.pixels % tile.pixels:
                pixel = emit.smaller(pixel, spec.pixels - 1)
            y, x = div(pixel, spec.target.width), mod(pixel, spec.target.width)
            emit.store(self.at, 2 * element, y * self.window.strides[0] - self.window.pads[0])
            emit.store(self.at, 2 * element + 1, x * self.window.strides[1] - self.window.pads[1])

    def load(self, step: Expr) -> None:
        spec = self.spec
        runs = spec.padded_inputs // spec.tile.rows
        position, run = div(step, runs), mod(step, runs)
        ky, kx = div(position, self.window.size[1]), mod(position, self.window.size[1])
        places = self._places(ky, kx)
        for turn in range(self.turns):
            channel = run * spec.tile.rows + turn * self.lines + self.line
            if spec.padded_inputs != spec.inputs:
                channel = emit.smaller(channel, spec.inputs - 1)  # its weights are zero
            for element, place in enumerate(places):
                emit.store(self.values, turn * self.per_word + element, self._pixel(channel, place))

    def _places(self, ky: Expr, kx: Expr) -> list[Expr]:
        """Where in a plane each of the word's pixels is; notes whether it is in the image."""
        image, places, masks = self.spec.source, [], []
        for element in range(self.per_word):
            y, x = self.at[2 * element] + ky, self.at[2 * element + 1] + kx
            place = emit.registers(1, "int32")
            bits = 0xFFFFFFFF if self.per_word == 1 else 0xFFFF << 16 * element
            inside = [condition for condition in self._inside(y, x) if condition is not True]
            if inside:
                within = emit.every(*inside)
                emit.store(place, 0, tirx.Select(within, y * image.row + x, 0))
                masks.append(tirx.Select(within, T.uint32(bits), T.uint32(0)))
            else:
                emit.store(place, 0, y * image.row + x)
            places.append(place[0])
        self.masks = bool(masks)
        if masks:
            emit.store(self.mask, 0, masks[0] if len(masks) == 1 else masks[0] | masks[1])
        return places

    def _pixel(self, channel: Expr, place: Expr) -> Expr:
        spec, buffers = self.spec, self.kernel.buffers
        whole = self.origin + channel
        at = whole * spec.source.channel + place
        value = buffers["source"][at]
        return emit.either(whole < spec.shift, buffers["cache"][at], value) if spec.shift else value

    def _inside(self, y: Expr, x: Expr) -> list[Expr]:
        """Whether a position is in the image; True where it is for every output."""
        target, image, window = self.spec.target, self.spec.source, self.window
        conditions: list[Expr] = []
        for value, axis, size, count in ((y, 0, image.height, target.height), (x, 1, image.width, target.width)):
            end = (count - 1) * window.strides[axis] - window.pads[axis] + window.size[axis]
            conditions += [value >= 0 if window.pads[axis] else True, value < size if end > size else True]
        return conditions

    def keep(self, parity: Expr) -> None:
        for turn in range(self.turns):
            at = parity * self.tile_words + turn * self.spec.tile.threads + self.kernel.thread
            parts = [self.values[turn * self.per_word + element] for element in range(self.per_word)]
            value = parts[0] if len(parts) == 1 else _word(*parts)
            if self.halfs and len(parts) == 1:
                value = emit.call("tsm_float", value)
            if self.masks:
                value = value & self.mask[0] if self.spec.half else _masked(value, self.mask[0])
            emit.store(self.memory, at, value)


def _masked(value: Expr, mask: Expr) -> Expr:
    """A float where the mask is all ones, else zero: whatever the float is."""
    return tirx.reinterpret("float32", tirx.reinterpret("uint32", value) & mask)


def _word(low: Expr, high: Expr) -> Expr:
    """Two halfs in a word."""
    return tirx.Cast("uint32", low) | (tirx.Cast("uint32", high) << T.uint32(16))
