"""The matrix product of a block of threads, in fp32 or in halfs.

A block makes some channels × pixels, a thread a few of them in registers. Both operands come in tiles through shared
memory, twice, so that the next tiles are on their way from memory while these are used; one barrier a step. Slices of
the block take every so many rows of the reduction. Two pixels of halfs lie in a word; a weight is broadcast by the
instruction's own selector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.cuda.kernels import emit, gemm_loaders, half_products
from tsm_edge.compile.backends.cuda.kernels.emit import VECTOR, Expr, div, mod
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, word_type
from tsm_edge.compile.ir.element import ceil_div


def gemm(name: str, spec: GemmSpec) -> Any:
    """Write the kernel of a matrix product; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel:
        _Product(kernel, spec).write()
    return kernel.function


class _Product:
    """The kernel of one spec while it is written."""

    def __init__(self, kernel: emit.Kernel, spec: GemmSpec) -> None:
        tile = spec.tile
        self.spec, self.tile, self.kernel = spec, tile, kernel
        self.half = spec.half
        self.per_word = spec.word_elements
        self.word = word_type(self.per_word)
        self.per_stored = spec.target_elements
        self.thread_words = tile.thread_pixels // self.per_word
        self.pixel_words = tile.pixels // self.per_word
        self.channel_words = tile.channels // self.per_word
        self.pixel_vector = min(VECTOR, self.thread_words)
        self.channel_vector = min(VECTOR, tile.thread_channels // self.per_word)
        self.first_word = kernel.block[0] * self.pixel_words
        self.first_channel = kernel.block[1] * tile.channels
        self.group = kernel.block[2] if spec.groups > 1 else 0
        self.memory = emit.shared(spec.shared_words, self.word)
        self.totals = emit.registers(self._count_of_totals(), "uint32" if spec.flush else "float32")
        self.slice = div(kernel.thread, tile.slice_threads) if tile.slices > 1 else 0
        self.in_slice = mod(kernel.thread, tile.slice_threads) if tile.slices > 1 else kernel.thread
        self.pixel_group, self.channel_group = self._groups()
        self.sums = self._begin()

    def _groups(self) -> tuple[Expr, Expr]:
        """Which pixels and channels are the thread's.

        A warp is 8 pixel groups × 4 channel groups where the tile has those multiples, so that a half warp reads 8
        vectors of one operand and 2 of the other; else the groups lie row by row.
        """
        tile, thread = self.tile, self.in_slice
        pixels, channels = tile.pixels // tile.thread_pixels, tile.channels // tile.thread_channels
        if pixels % 8 or channels % 4:
            return mod(thread, pixels), div(thread, pixels)
        lane, warp = mod(thread, 32), div(thread, 32)
        across = pixels // 8
        return (
            mod(div(lane, 2), 8) + mod(warp, across) * 8,
            mod(lane, 2) + div(lane, 16) * 2 + div(warp, across) * 4,
        )

    def pixel_word(self, index: int) -> Expr:
        """Word of the tile's pixels that is the thread's ``index``-th: vectors, each a part of the tile away."""
        vectors = self.thread_words // self.pixel_vector
        part = self.pixel_words // vectors
        return (index // self.pixel_vector) * part + self.pixel_group * self.pixel_vector + index % self.pixel_vector

    def channel(self, index: Expr, group: Expr) -> Expr:
        """Channel of the tile that is a thread's ``index``-th."""
        run = self.channel_vector * self.per_word
        part = self.tile.channels // (self.tile.thread_channels // run)
        return div(index, run) * part + group * run + mod(index, run)

    def write(self) -> None:
        """The whole kernel."""
        spec = self.spec
        if spec.flush:
            emit.fill(self.totals, self._count_of_totals(), T.uint32(0))
        operands = gemm_loaders.operands(self.kernel, spec, self.memory, self.group)
        self._reduce(operands)
        if spec.ends_in_halfs:
            self._store_halfs()
        elif self.tile.slices == 1:
            self._store_sums()
        else:
            for piece in range(spec.pieces):
                self._meet(piece)

    def _count_of_totals(self) -> int:
        """Registers of what flushed sums add up to."""
        return self.tile.thread_channels * self.thread_words if self.spec.flush else 1

    def _bias(self, channel: Expr) -> Expr:
        """Of a channel of the group."""
        return self.kernel.buffers["bias"][self.group * self.spec.padded_outputs + channel]

    def _begin(self) -> Any:
        """The sums: zeros, or the bias."""
        tile = self.tile
        if self.spec.ends_in_halfs:
            first = self.group * self.spec.padded_outputs + self.first_channel
            channels = [first + self.channel(index, self.channel_group) for index in range(tile.thread_channels)]
            return half_products.begin(self.kernel.buffers["bias"], channels, self.thread_words)
        sums = emit.registers(tile.thread_channels * self.thread_words, self.word)
        zero = T.uint32(0) if self.half else T.float32(0)
        emit.fill(sums, tile.thread_channels * self.thread_words, zero)
        return sums

    # The main loop ---------------------------------------------------------------------------------------------

    def _reduce(self, operands: gemm_loaders.Operands) -> None:
        last = self.spec.steps - 1
        operands.load(0)
        operands.keep(0)
        emit.barrier()

        def step(index: Expr) -> None:
            parity = mod(index, 2)
            # No condition around these loads: the assembler would wait for them where its paths meet.
            operands.load(index + 1 if self.tile.last_apart else emit.smaller(index + 1, last))
            self._multiply(parity)
            operands.keep(1 - parity)
            emit.barrier()

        apart = self.tile.last_apart or not last
        self._loop(last if apart else self.spec.steps, step)
        if apart:
            self._multiply(last % 2)
        if self.spec.flush:
            self._flush()
            for index in range(self._count_of_totals()):
                emit.store(self.sums, index, self.totals[index])

    def _loop(self, steps: int, step: Callable[[Expr], None]) -> None:
        """Run the steps; between some of them sums of halfs go to their totals."""
        if not steps:
            return
        if not self.spec.flush:
            with emit.loop(steps) as index:
                step(index)
            return
        run = max(1, self.spec.flush // self.tile.depth)
        whole, rest = divmod(steps, run)
        if whole:
            with emit.loop(whole) as outer:
                with emit.loop(run) as index:
                    step(outer * run + index)
                self._flush()
        if rest:
            with emit.loop(rest) as index:
                step(whole * run + index)

    def _multiply(self, parity: Expr) -> None:
        """A step's products, from the tiles in shared memory."""
        spec, tile = self.spec, self.tile
        pixels = parity * (tile.rows * self.pixel_words) + self.slice * (tile.depth * self.pixel_words)
        weights = (
            2 * tile.rows * self.pixel_words
            + parity * (tile.rows * self.channel_words)
            + self.slice * (tile.depth * self.channel_words)
        )
        x = emit.registers(self.thread_words, self.word)
        w = emit.registers(tile.thread_channels // self.per_word, self.word)
        for row in range(tile.depth):
            for index in range(0, self.thread_words, self.pixel_vector):
                at = pixels + row * self.pixel_words + self.pixel_word(index)
                emit.store(x, index, emit.load(self.memory, at, self.pixel_vector), self.pixel_vector)
            for index in range(0, tile.thread_channels // self.per_word, self.channel_vector):
                channel = self.channel(index * self.per_word, self.channel_group)
                at = weights + row * self.channel_words + div(channel, self.per_word)
                emit.store(w, index, emit.load(self.memory, at, self.channel_vector), self.channel_vector)
            if spec.half:
                half_products.add(self.sums, w, x, tile.thread_channels, self.thread_words)
                continue
            for channel in range(tile.thread_channels):
                for pixel in range(self.thread_words):
                    at = channel * self.thread_words + pixel
                    emit.store(self.sums, at, self.sums[at] + w[channel] * x[pixel])

    def _flush(self) -> None:
        """Add the sums of halfs to their totals, and begin again."""
        for index in range(self.tile.thread_channels * self.thread_words):
            total = emit.call("tsm_add2", self.totals[index], self.sums[index], dtype="uint32")
            emit.store(self.totals, index, total)
            emit.store(self.sums, index, T.uint32(0))

    # The results -----------------------------------------------------------------------------------------------

    def _sum(self, channel: int, pixel: int) -> Expr:
        """The thread's sum, as a float."""
        if not self.half:
            return self.sums[channel * self.thread_words + pixel]
        function = "tsm_high" if pixel % 2 else "tsm_low"
        return emit.call(function, self.sums[channel * self.thread_words + pixel // 2])

    def _store_sums(self) -> None:
        """Every thread finishes its own sums."""
        tile = self.tile
        bias = emit.registers(tile.thread_channels)
        channels = [self.first_channel + self.channel(i, self.channel_group) for i in range(tile.thread_channels)]
        for index, channel in enumerate(channels):
            emit.store(bias, index, self._bias(channel))
        for index, channel in enumerate(channels):
            with emit.when_all(self._has_channel(channel)):
                for word in range(0, self.thread_words, self.pixel_vector):
                    at = self.first_word + self.pixel_word(word)
                    with emit.when_all(self._has_pixel(at)):
                        values = [
                            self._sum(index, word * self.per_word + element) + bias[index]
                            for element in range(self.pixel_vector * self.per_word)
                        ]
                        self._finish(channel, at, values, self.pixel_vector)

    def _store_halfs(self) -> None:
        """The same, in halfs: a conversion costs as much as four additions."""
        for index in range(self.tile.thread_channels):
            channel = self.first_channel + self.channel(index, self.channel_group)
            with emit.when_all(self._has_channel(channel)):
                for first in range(0, self.thread_words, self.pixel_vector):
                    at = self.first_word + self.pixel_word(first)
                    with emit.when_all(self._has_pixel(at)):
                        words = [self.sums[index * self.thread_words + first + n] for n in range(self.pixel_vector)]
                        if self.spec.residual:
                            others = self._residual(channel, at, self.pixel_vector)
                            words = [
                                emit.call("tsm_add2", word, others[n], dtype="uint32") for n, word in enumerate(words)
                            ]
                        self._write(channel, at, [half_products.activate(word, self.spec.activation) for word in words])

    def _meet(self, piece: int) -> None:
        """The slices' sums of some of the threads' channels meet in shared memory; all threads share out the rest."""
        tile, spec = self.tile, self.spec
        channels = tile.thread_channels // spec.pieces
        size = tile.channels // spec.pieces * tile.pixels  # floats of a slice
        four = emit.registers(VECTOR)
        emit.barrier()
        for channel in range(channels):
            row = self.channel_group * channels + channel
            for pixel in range(0, tile.thread_pixels, VECTOR):
                for element in range(VECTOR):
                    emit.store(four, element, self._sum(piece * channels + channel, pixel + element))
                at = self.pixel_word(pixel // self.per_word // VECTOR * VECTOR) * self.per_word
                self._put(self.slice * size + row * tile.pixels + at + pixel % (VECTOR * self.per_word), four)
        emit.barrier()
        run = VECTOR * self.per_word  # pixels that a thread finishes at a time
        count = size // run
        with emit.loop(ceil_div(count, tile.threads)) as turn:
            item = self.kernel.thread + turn * tile.threads
            with emit.when_all((item < count) if count % tile.threads else True):
                row, column = div(item, tile.pixels // run), mod(item, tile.pixels // run)
                index = piece * channels + mod(row, channels)
                channel = self.first_channel + self.channel(index, div(row, channels))
                self._finish_met(channel, column, row * tile.pixels + column * run, size)

    def _finish_met(self, channel: Expr, column: Expr, first: Expr, size: int) -> None:
        run = VECTOR * self.per_word
        sums, more = emit.registers(run), emit.registers(VECTOR)
        for quad in range(0, run, VECTOR):
            self._get(sums, quad, first + quad)
        for other in range(1, self.tile.slices):
            for quad in range(0, run, VECTOR):
                self._get(more, 0, other * size + first + quad)
                for element in range(VECTOR):
                    emit.store(sums, quad + element, sums[quad + element] + more[element])
        at = self.first_word + column * VECTOR
        with emit.when_all(self._has_channel(channel), self._has_pixel(at)):
            bias = self._bias(channel)
            self._finish(channel, at, [sums[element] + bias for element in range(run)], VECTOR)

    def _finish(self, channel: Expr, word: Expr, values: list[Expr], words: int) -> None:
        """Add the residual, clamp and store a channel's pixels, ``words`` words of them."""
        spec, stored = self.spec, words * self.per_word // self.per_stored
        if spec.residual:
            other = self._residual(channel, word, stored)
            values = [value + self._element(other, index) for index, value in enumerate(values)]
        values = [emit.activate(value, spec.activation, spec.low, spec.high) for value in values]
        if self.per_stored == 2:
            values = [emit.call("tsm_pack", *values[2 * n : 2 * n + 2], dtype="uint32") for n in range(stored)]
        self._write(channel, word, values)

    def _place(self, channel: Expr, word: Expr) -> Expr:
        """Where a channel of the group is in the target, or in what has its layout, from one of its sums' words on."""
        plane = (self.group * self.spec.outputs + channel) * (self.spec.target.channel // self.per_stored)
        return plane + (word if self.per_stored == self.per_word else div(word * self.per_word, self.per_stored))

    def _residual(self, channel: Expr, word: Expr, words: int) -> Any:
        other = emit.registers(words, word_type(self.per_stored))
        value = emit.load(self.kernel.buffers["residual"], self._place(channel, word), words)
        emit.store(other, 0, value, words)
        return other

    def _write(self, channel: Expr, word: Expr, values: list[Expr]) -> None:
        """Store words of a channel, as they lie in memory, also to the shift cache that begins with it."""
        spec, buffers, words = self.spec, self.kernel.buffers, len(values)
        at, made = self._place(channel, word), emit.registers(words, word_type(self.per_stored))
        for index, value in enumerate(values):
            emit.store(made, index, value)
        emit.store(buffers["target"], at, emit.load(made, 0, words), words)
        if spec.tap:
            with emit.when_all(self.group * spec.outputs + channel < spec.tap):
                emit.store(buffers["tap"], at, emit.load(made, 0, words), words)

    def _element(self, words: Any, index: int) -> Expr:
        if self.per_stored == 1:
            return words[index]
        return emit.call("tsm_high" if index % 2 else "tsm_low", words[index // 2])

    def _has_channel(self, channel: Expr) -> Expr:
        return (channel < self.spec.outputs) if self.spec.outputs % self.tile.channels else True

    def _has_pixel(self, word: Expr) -> Expr:
        return (word * self.per_word < self.spec.pixels) if self.spec.pixels % self.tile.pixels else True

    def _put(self, at: Expr, values: Any) -> None:
        """Four floats to shared memory, whose words are integers where pixels are halfs."""
        if not self.half:
            emit.store(self.memory, at, emit.load(values, 0, VECTOR), VECTOR)
            return
        words = emit.registers(VECTOR, "uint32")
        for element in range(VECTOR):
            emit.store(words, element, tirx.reinterpret("uint32", values[element]))
        emit.store(self.memory, at, emit.load(words, 0, VECTOR), VECTOR)

    def _get(self, values: Any, first: int, at: Expr) -> None:
        """The way back of :meth:`_put`."""
        if not self.half:
            emit.store(values, first, emit.load(self.memory, at, VECTOR), VECTOR)
            return
        words = emit.registers(VECTOR, "uint32")
        emit.store(words, 0, emit.load(self.memory, at, VECTOR), VECTOR)
        for element in range(VECTOR):
            emit.store(values, first + element, tirx.reinterpret("float32", words[element]))
