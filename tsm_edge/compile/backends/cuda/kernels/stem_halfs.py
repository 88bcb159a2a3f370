"""A first convolution of a large window, in halfs: what the frame has in fp32 becomes halfs in shared memory.

Pixels a stride apart lie side by side there, so that a word has what two neighbouring outputs multiply by one weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.cards import Preprocess
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.compile.backends.cuda.choose.tiles import MOST_HALF_PRODUCTS
from tsm_edge.compile.backends.cuda.kernels import emit, half_products
from tsm_edge.compile.backends.cuda.kernels.emit import VECTOR, Expr, div, mod
from tsm_edge.compile.backends.cuda.kernels.pointwise import activation_of, product_buffers, stored_weights, tapped
from tsm_edge.compile.backends.cuda.kernels.stem import as_bytes, is_stem
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import WORD_BYTES, ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef, KernelCall

_CHANNELS = 8  # of a thread
_PIXELS = 8
_WORDS = _PIXELS // 2
_MOST_THREADS = 256
_SMALL_WINDOW = 9  # moves more than it computes: there fp32 costs nothing


@dataclass(frozen=True)
class HalfStemSpec(KernelSpec):
    """Everything the code of a stem in halfs depends on.

    Attributes
    ----------
    source : Image
        The frame: planes without gaps, float32; or a camera's bytes, [H][W][RGB].
    target : Image
        Planes of halfs; rows and channels are multiples of 8.
    size, strides, pads : (int, int)
        Of the kernel: rows, columns. Pads are those above and left.
    activation : str
        Nothing, ``relu`` or ``saturate``.
    tap : int
        Target channels that are also the next value of a shift cache.
    normalisation : tuple of (float, float)
        Of bytes: scale and offset of each channel.
    """

    source: Image
    target: Image
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    activation: str = ""
    tap: int = 0
    normalisation: tuple[tuple[float, float], ...] = ()

    @property
    def rule(self) -> str:
        """Of the rule, or of what it reads."""
        return "stem_bytes" if self.normalisation else "stem_halfs"

    @property
    def across(self) -> int:
        """Threads of a row."""
        return self.target.width // _PIXELS

    @property
    def groups(self) -> int:
        """Groups of channels in a block."""
        every = self.target.channels // _CHANNELS
        return max(n for n in range(1, every + 1) if every % n == 0 and (n == 1 or n * self.across <= _MOST_THREADS))

    @property
    def rows(self) -> int:
        """Of the target, a block's."""
        return max(1, min(self.target.height, _MOST_THREADS // (self.across * self.groups)))

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.across * self.groups * self.rows

    @property
    def taps(self) -> int:
        """Weights of an output channel."""
        return self.source.channels * self.size[0] * self.size[1]

    @property
    def source_rows(self) -> int:
        """Of a channel of the source, a block's."""
        return (self.rows - 1) * self.strides[0] + self.size[0]

    @property
    def phases(self) -> int:
        """Lines that a row of the source is parted into: each has every so-many-th pixel."""
        return self.strides[1]

    def words(self, phase: int) -> int:
        """Of a line, that a thread reads."""
        offsets = [kx // self.phases for kx in range(self.size[1]) if kx % self.phases == phase]
        return max((offset // 2 + _WORDS + offset % 2 for offset in offsets), default=0)

    @property
    def line(self) -> int:
        """Words of a line, whole vectors."""
        most = max(map(self.words, range(self.phases)))
        return ceil_div((self.across - 1) * _WORDS + most, VECTOR) * VECTOR

    @property
    def pixel_words(self) -> int:
        """Shared memory of the pixels."""
        return self.source.channels * self.source_rows * self.phases * self.line

    @property
    def weight_words(self) -> int:
        """Shared memory of the weights."""
        return self.taps * self.groups * _CHANNELS // 2

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        return WORD_BYTES * (self.pixel_words + self.weight_words)

    @property
    def parallel(self) -> Grid:
        """Rows, channels."""
        blocks = (ceil_div(self.target.height, self.rows), self.target.channels // (self.groups * _CHANNELS), 1)
        return Grid(blocks, (self.threads, 1, 1))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (
            Argument("source", "input", self.source.dtype),
            Argument("weights", "weights", "uint32"),
            Argument("bias", "weights"),
            Argument("target", "output", "uint32"),
            *((Argument("tap", "next_cache", "uint32"),) if self.tap else ()),
        )

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.target.values * self.taps

    @property
    def bytes(self) -> int:
        """Images and weights."""
        size = item_bytes(self.target.dtype)
        weights = (self.taps * size + WORD_BYTES) * self.target.channels
        tapped_bytes = self.tap * self.target.height * self.target.width * size
        return self.source.value_bytes + self.target.value_bytes + weights + tapped_bytes

    def describe(self) -> str:
        """What a thread makes."""
        return f"a thread {_CHANNELS} channels × {_PIXELS} pixels, in halfs"

    def write(self, name: str) -> Any:
        """See :func:`stem_halfs`."""
        return stem_halfs(name, self)


def _spec(at: Lowering, layer: ir.Convolution, tap: int) -> HalfStemSpec:
    source, target = at.tensors[layer.source].image, at.tensors.planes_of(layer.output)
    activation, _, _ = activation_of(layer, at.scale_of(layer))
    return HalfStemSpec(source, target, layer.weight.shape[2:], layer.strides, layer.pads[:2], activation, tap)


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    if not is_stem(layer, at):
        return False
    target = at.tensors.planes_of(layer.output)
    if target.dtype != "float16" or at.halfs_are_stored or target.width % _PIXELS or target.channels % _CHANNELS:
        return False
    if layer.weight[0, 0].size <= _SMALL_WINDOW or layer.weight[0].size > MOST_HALF_PRODUCTS:
        return False
    spec = _spec(at, layer, 0)
    fits = spec.shared_bytes <= at.gpu.shared_kib * 1024 and spec.line <= spec.threads <= _MOST_THREADS
    return fits and spec.activation in half_products.ACTIVATIONS


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    cache, tap = tapped(at, layer)
    spec = _spec(at, layer, tap)
    at.chose(RULE.name, (layer,))
    weight, bias = stored_weights(at, layer)
    weights = {
        "weights": at.add_weights(_packed(spec, weight)),
        "bias": at.add_weights(bias.astype(np.float32)),
    }
    at.call(spec, product_buffers(at, layer, cache) | weights, at.label((layer,)))


def _packed(spec: HalfStemSpec, weight: np.ndarray) -> np.ndarray:
    """[block's channels][tap][channel] of [output][input][row][column]."""
    parts = weight.reshape(-1, spec.groups * _CHANNELS, spec.taps).transpose(0, 2, 1)
    packed: np.ndarray = parts.astype(np.float16)
    return packed


def _reading_bytes(at: Lowering, layer: ir.Convolution, call: KernelCall, preprocess: Preprocess) -> KernelCall:
    """The call of a stem for frames that come as bytes: they are normalised on their way to shared memory."""
    if not isinstance(call.spec, HalfStemSpec):
        raise TypeError(f"{call.kernel} is no stem in halfs")
    factor, offset = (tuple(map(float, values)) for values in scale_and_offset(preprocess))
    normalisation = tuple(zip(factor, offset, strict=True))
    spec = replace(call.spec, source=as_bytes(call.spec.source), normalisation=normalisation)
    buffers = dict(zip((argument.name for argument in call.spec.arguments), call.buffers, strict=True))
    return at.made_call(spec, buffers | {"source": BufferRef("frame_bytes")}, call.layer)


RULE = Rule("stem_halfs", _takes, _lower, reading_bytes=_reading_bytes)


def stem_halfs(name: str, spec: HalfStemSpec) -> Any:
    """Write the kernel of a stem in halfs; returns its PrimFunc. For how its weights lie see :func:`_packed`."""
    with emit.kernel(name, spec) as kernel:
        memory = emit.shared(spec.pixel_words + spec.weight_words, "uint32")
        _bring_pixels(kernel, spec, memory)
        _bring_weights(kernel, spec, memory)
        emit.barrier()
        rest, across = div(kernel.thread, spec.across), mod(kernel.thread, spec.across)
        row, group = mod(rest, spec.rows), div(rest, spec.rows)
        channel = kernel.block[1] * (spec.groups * _CHANNELS) + group * _CHANNELS
        sums = half_products.begin(kernel.buffers["bias"], [channel + n for n in range(_CHANNELS)], _WORDS)
        with emit.loop(spec.source.channels * spec.size[0]) as index:
            at = div(index, spec.size[0]) * spec.source_rows + row * spec.strides[0] + mod(index, spec.size[0])
            weights = spec.pixel_words + (index * spec.size[1] * spec.groups + group) * VECTOR
            _add_row(spec, memory, sums, at * (spec.phases * spec.line) + across * _WORDS, weights)
        y = kernel.block[0] * spec.rows + row
        with emit.when_all((y < spec.target.height) if spec.target.height % spec.rows else True):
            _store(kernel, spec, sums, channel, (y * spec.target.row + across * _PIXELS))
    return kernel.function


def _bring_pixels(kernel: emit.Kernel, spec: HalfStemSpec, memory: Any) -> None:
    """The source's rows of the block to shared memory: lines of halfs that lie a stride apart."""
    image, lanes = spec.source, spec.threads // spec.line
    channel_lanes = min(image.channels, lanes)
    row_lanes = lanes // channel_lanes
    word, lane = mod(kernel.thread, spec.line), div(kernel.thread, spec.line)
    with emit.when_all(
        (lane < channel_lanes * row_lanes) if channel_lanes * row_lanes * spec.line < spec.threads else True
    ):
        for first in range(0, image.channels, channel_lanes):
            channel = first + mod(lane, channel_lanes)
            known = channel < image.channels if first + channel_lanes > image.channels else True
            for turn in range(0, spec.source_rows, row_lanes):
                row = turn + div(lane, channel_lanes)
                inside = row < spec.source_rows if turn + row_lanes > spec.source_rows else True
                with emit.when_all(known, inside):
                    for phase in range(spec.phases):
                        pair = [_pixel(kernel, spec, channel, row, word * 2 + n, phase) for n in range(2)]
                        at = ((channel * spec.source_rows + row) * spec.phases + phase) * spec.line + word
                        emit.store(memory, at, emit.call("tsm_pack", *pair, dtype="uint32"))


def _pixel(kernel: emit.Kernel, spec: HalfStemSpec, channel: Expr, row: Expr, place: Expr, phase: int) -> Expr:
    """A pixel of a line, zero outside the image: what is there is read without a condition, and not taken."""
    image = spec.source
    y = kernel.block[0] * (spec.rows * spec.strides[0]) + (row - spec.pads[0])
    x = place * spec.phases + (phase - spec.pads[1])
    near_y = emit.smaller(emit.larger(y, 0), image.height - 1)
    near_x = emit.smaller(emit.larger(x, 0), image.width - 1)
    value = emit.registers(1)
    found = kernel.buffers["source"][channel * image.channel + near_y * image.row + near_x * image.pixel]
    if spec.normalisation:
        factors, offsets = zip(*spec.normalisation, strict=True)
        found = tirx.Cast("float32", found) * emit.one_of(factors, channel) + emit.one_of(offsets, channel)
    emit.store(value, 0, found)
    inside = emit.every(y >= 0, y < image.height, x >= 0, x < image.width)
    return tirx.Select(inside, value[0], emit.splat(0.0))


def _bring_weights(kernel: emit.Kernel, spec: HalfStemSpec, memory: Any) -> None:
    origin = kernel.block[1] * spec.weight_words
    for _, index, inside in emit.shares(spec.weight_words // VECTOR, spec.threads, kernel.thread):
        with emit.when_all(inside):
            value = emit.load(kernel.buffers["weights"], origin + index * VECTOR, VECTOR)
            emit.store(memory, spec.pixel_words + index * VECTOR, value, VECTOR)


def _add_row(spec: HalfStemSpec, memory: Any, sums: Any, pixels: Expr, weights: Expr) -> None:
    """The products of a row of the window, of one channel; ``pixels`` and ``weights``: where they begin."""
    lines = []
    for phase in range(spec.phases):
        count = spec.words(phase)
        words = emit.registers(max(count, 1), "uint32")
        first = 0
        while first < count:
            lanes = next(lanes for lanes in (4, 2, 1) if lanes <= count - first)
            emit.store(words, first, emit.load(memory, pixels + (phase * spec.line + first), lanes), lanes)
            first += lanes
        lines.append(words)
    weight = emit.registers(VECTOR, "uint32")
    for kx in range(spec.size[1]):
        value = emit.load(memory, weights + kx * spec.groups * VECTOR, VECTOR)
        emit.store(weight, 0, value, VECTOR)
        line, offset = lines[kx % spec.phases], kx // spec.phases
        taken = emit.registers(_WORDS, "uint32")
        for word in range(_WORDS):
            at = offset // 2 + word
            between = emit.call("tsm_between", line[at], line[at + 1], dtype="uint32") if offset % 2 else line[at]
            emit.store(taken, word, between)
        half_products.add(sums, weight, taken, _CHANNELS, _WORDS)


def _store(kernel: emit.Kernel, spec: HalfStemSpec, sums: Any, channel: Expr, pixel: Expr) -> None:
    words = emit.registers(_WORDS, "uint32")
    for output in range(_CHANNELS):
        for word in range(_WORDS):
            emit.store(words, word, half_products.activate(sums[output * _WORDS + word], spec.activation))
        at = div((channel + output) * spec.target.channel + pixel, 2)
        emit.store(kernel.buffers["target"], at, emit.load(words, 0, _WORDS), _WORDS)
        if spec.tap:
            with emit.when_all(channel + output < spec.tap):
                emit.store(kernel.buffers["tap"], at, emit.load(words, 0, _WORDS), _WORDS)
