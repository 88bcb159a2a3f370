"""Expansion and depthwise convolution of an inverted residual in one launch: the expanded planes are never in memory.

A thread makes some expanded channels of its own neighbouring pixels, straight from memory: nobody of its block needs
those pixels, so they are not staged. The band of expanded rows stays in shared memory for the depthwise convolution.
Bands overlap by the depthwise window, and those rows are made twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.cuda.kernels import emit
from tsm_edge.compile.backends.cuda.kernels.depthwise import MARGIN, DepthwiseSpec, Place, slide_rows
from tsm_edge.compile.backends.cuda.kernels.emit import VECTOR, Expr, div, mod
from tsm_edge.compile.ir.element import WORD_BYTES, ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec, Stage
from tsm_edge.compile.ir.layout import Image

# Rows of the source on their way at a time.
AHEAD = 8
_WARP = 32
# Issue slots: a multiply-add, a source row, an expanded sum, a window's pixel, a row of outputs, an item of the
# depthwise convolution, and a warp at its start.
_SLOTS_MULTIPLY, _SLOTS_ROW, _SLOTS_SUM, _SLOTS_PIXEL = 1.1, 6, 3, 1.5
_SLOTS_OUTPUT_ROW, _SLOTS_ITEM, _SLOTS_START = 10, 60, 200


@dataclass(frozen=True)
class ExpandDepthwiseSpec(KernelSpec):
    """Everything the code of the two layers depends on.

    Attributes
    ----------
    source : Image
        Planes.
    depthwise : DepthwiseSpec
        From the expanded planes; its tile's planes are those that a thread makes of its pixels.
    activation : str
        Of the expansion, see :func:`emit.activate`; ``low`` and ``high`` are of ``clamp``.
    shift : int
        Source channels that come from a shift cache.
    """

    source: Image
    depthwise: DepthwiseSpec
    activation: str = ""
    low: float = 0.0
    high: float = 0.0
    shift: int = 0

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "expand_depthwise"

    @property
    def half(self) -> bool:
        """Whether elements are halfs, two in a word."""
        return item_bytes(self.source.dtype) == 2

    @property
    def per_word(self) -> int:
        """Elements of a word."""
        return 2 if self.half else 1

    @property
    def planes(self) -> int:
        """Expanded channels of a block, and of each of its threads."""
        return self.depthwise.tile.planes

    @property
    def workers(self) -> int:
        """Threads that make pixels of the band, a vector each."""
        return self.depthwise.pitch // (VECTOR * self.per_word)

    @property
    def threads(self) -> int:
        """Of a block."""
        return ceil_div(self.workers, _WARP) * _WARP

    @property
    def weight_words(self) -> int:
        """Of a block's expansion, in shared memory."""
        return self.source.channels * self.planes // self.per_word

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        return self.depthwise.shared_bytes + WORD_BYTES * self.weight_words

    @property
    def parallel(self) -> Grid:
        """Expanded channels, bands: neighbours read the same rows."""
        expanded = self.depthwise.source.channels
        return Grid((expanded // self.planes, self.depthwise.bands, 1), (self.threads, 1, 1))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        word = "uint32" if self.half else "float32"
        target = next(argument for argument in self.depthwise.arguments if argument.name == "target")
        return (
            Argument("source", "input", word),
            Argument("weights", "weights", word),
            Argument("bias", "weights"),
            Argument("depthwise_weights", "weights"),
            target,
            *((Argument("cache", "cache", word),) if self.shift else ()),
        )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The two layers; what is made twice counts once."""
        expanded = self.depthwise.source
        return (
            Stage("expand", 2 * expanded.values * self.source.channels),
            Stage("depthwise", self.depthwise.flops),
        )

    @property
    def warp_slots(self) -> float:
        """Both layers' multiply-adds and what stands around them."""
        sums, depthwise = self.planes * VECTOR, self.depthwise
        expansion = self.source.channels * (sums * _SLOTS_MULTIPLY + self.planes / VECTOR + _SLOTS_ROW)
        (rows, columns), (down, across), tile = depthwise.size, depthwise.strides, depthwise.tile
        window = ((tile.rows - 1) * down + rows) * ((tile.run - 1) * across + columns)
        outputs = tile.rows * (tile.run * rows * columns + _SLOTS_OUTPUT_ROW)
        items = ceil_div(depthwise.items, self.threads) * (window * _SLOTS_PIXEL + outputs + _SLOTS_ITEM)
        return expansion + _SLOTS_SUM * sums * self.per_word + items + _SLOTS_START

    @property
    def waits(self) -> int:
        """Times that a thread waits for memory: for its weights, then for some rows of the source at a time."""
        return 1 + ceil_div(self.source.channels, AHEAD)

    @property
    def bytes(self) -> int:
        """Source, target and weights."""
        depthwise, channels = self.depthwise, self.source.channels
        expanded = depthwise.source.channels
        weights = expanded * (channels * item_bytes(self.source.dtype) + WORD_BYTES * (1 + depthwise.weight_row))
        return self.source.value_bytes + depthwise.target.value_bytes + weights

    def describe(self) -> str:
        """The tile."""
        return f"{self.depthwise.tile}, {self.planes} × {VECTOR * self.per_word} expanded"

    def write(self, name: str) -> Any:
        """See :func:`expand_depthwise`."""
        return expand_depthwise(name, self)


def expand_depthwise(name: str, spec: ExpandDepthwiseSpec) -> Any:
    """Write the kernel of both layers; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel:
        place = Place(kernel.block[1], kernel.block[0] * spec.planes)
        expanded = emit.shared(spec.depthwise.shared_bytes // WORD_BYTES)
        weights = emit.shared(spec.weight_words, "uint32" if spec.half else "float32")
        _stage_weights(kernel, spec, weights, place)
        emit.barrier()
        _Expansion(kernel, spec, weights, place).write(expanded)
        emit.barrier()
        for item, has_item in _items(kernel, spec):
            slide_rows(kernel, spec.depthwise, expanded, place, item, has_item)
    return kernel.function


def _items(kernel: emit.Kernel, spec: ExpandDepthwiseSpec) -> Iterator[tuple[Expr, Expr]]:
    """Rounds of the depthwise convolution's items, and whether the thread has one."""
    items, threads = spec.depthwise.items, spec.threads
    if items <= threads:
        yield kernel.thread, (kernel.thread < items) if items < threads else True
        return
    with emit.loop(ceil_div(items, threads)) as turn:
        item = kernel.thread + turn * threads
        yield item, (item < items) if items % threads else True


def _stage_weights(kernel: emit.Kernel, spec: ExpandDepthwiseSpec, memory: Any, place: Place) -> None:
    """Bring the block's weights, packed [input][expanded], to shared memory."""
    row = spec.planes // spec.per_word
    lanes = next(lanes for lanes in (4, 2, 1) if row % lanes == 0)
    expanded = spec.depthwise.source.channels // spec.per_word
    for _, index, inside in emit.shares(spec.weight_words // lanes, spec.threads, kernel.thread):
        channel, column = div(index, row // lanes), mod(index, row // lanes)
        at = channel * expanded + div(place.channel, spec.per_word) + column * lanes
        with emit.when_all(inside):
            emit.store(memory, index * lanes, emit.load(kernel.buffers["weights"], at, lanes), lanes)


class _Expansion:
    """The expanded channels of a thread's pixels while their code is written."""

    def __init__(self, kernel: emit.Kernel, spec: ExpandDepthwiseSpec, weights: Any, place: Place) -> None:
        word = "uint32" if spec.half else "float32"
        self.kernel, self.spec, self.weights, self.place = kernel, spec, weights, place
        # Idle threads do what the last one does, but for storing it: loads do not stand behind conditions.
        self.worker = emit.smaller(kernel.thread, spec.workers - 1) if spec.workers % _WARP else kernel.thread
        first = place.first_row(spec.depthwise) * spec.source.width
        self.first_word = div(first, spec.per_word) + self.worker * VECTOR
        self.sums = emit.registers(spec.planes * VECTOR, word)
        self.pixels = emit.registers(AHEAD * VECTOR, word)
        self.row = emit.registers(spec.planes // spec.per_word, word)

    def write(self, expanded: Any) -> None:
        """Sum up over the source's channels, and store the activations to shared memory."""
        channels = self.spec.source.channels
        emit.fill(self.sums, self.spec.planes * VECTOR, T.uint32(0) if self.spec.half else T.float32(0))
        whole, rest = divmod(channels, AHEAD)
        if whole == 1:
            self._add(0, AHEAD)
        elif whole:
            with emit.loop(whole) as index:
                self._add(index * AHEAD, AHEAD)
        if rest:
            self._add(whole * AHEAD, rest)
        with emit.when_all((self.kernel.thread < self.spec.workers) if self.spec.workers % _WARP else True):
            self._store(expanded)

    def _add(self, first: Expr, count: int) -> None:
        """The products of some channels; their pixels are asked for first."""
        spec = self.spec
        for index in range(count):
            emit.store(self.pixels, index * VECTOR, self._load(first + index), VECTOR)
        row = spec.planes // spec.per_word
        lanes = next(lanes for lanes in (4, 2, 1) if row % lanes == 0)
        for index in range(count):
            for word in range(0, row, lanes):
                emit.store(self.row, word, emit.load(self.weights, (first + index) * row + word, lanes), lanes)
            for plane in range(spec.planes):
                for word in range(VECTOR):
                    self._multiply(plane, word, self.pixels[index * VECTOR + word])

    def _multiply(self, plane: int, word: int, pixel: Expr) -> None:
        at = plane * VECTOR + word
        if self.spec.half:
            product = "tsm_fma_high" if plane % 2 else "tsm_fma_low"
            emit.store(self.sums, at, emit.call(product, self.row[plane // 2], pixel, self.sums[at], dtype="uint32"))
        else:
            emit.store(self.sums, at, self.sums[at] + self.row[plane] * pixel)

    def _load(self, channel: Expr) -> Expr:
        spec, buffers = self.spec, self.kernel.buffers
        at = channel * (spec.source.channel // spec.per_word) + self.first_word
        value = emit.load(buffers["source"], at, VECTOR)
        return (
            emit.either(channel < spec.shift, emit.load(buffers["cache"], at, VECTOR), value) if spec.shift else value
        )

    def _store(self, expanded: Any) -> None:
        spec, made = self.spec, emit.registers(VECTOR)
        run = VECTOR * spec.per_word
        for plane in range(spec.planes):
            bias = self.kernel.buffers["bias"][self.place.channel + plane]
            for quad in range(0, run, VECTOR):
                for element in range(VECTOR):
                    value = self._sum(plane, quad + element) + bias
                    emit.store(made, element, emit.activate(value, spec.activation, spec.low, spec.high))
                at = MARGIN + plane * spec.depthwise.pitch + self.worker * run + quad
                emit.store(expanded, at, emit.load(made, 0, VECTOR), VECTOR)

    def _sum(self, plane: int, pixel: int) -> Expr:
        if not self.spec.half:
            return self.sums[plane * VECTOR + pixel]
        return emit.call("tsm_high" if pixel % 2 else "tsm_low", self.sums[plane * VECTOR + pixel // 2])
