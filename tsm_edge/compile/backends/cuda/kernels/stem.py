"""The first convolution: on the camera frame, whose few channels make no reduction worth tiles.

A thread makes some channels of neighbouring pixels; the weights are in shared memory, and the frame's pixels come
through the L1 cache, where a neighbour's loads have brought them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
from tvm import tirx

from tsm_edge.cards import Preprocess
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.compile.backends.cuda.kernels import emit
from tsm_edge.compile.backends.cuda.kernels.emit import VECTOR, Expr, div, mod
from tsm_edge.compile.backends.cuda.kernels.pointwise import activation_of, tapped
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import WORD_BYTES, ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef, KernelCall

_MOST_CHANNELS = 4
_THREAD_CHANNELS = 8
_THREAD_PIXELS = 4
_MOST_UNROLLED = 9  # positions of a kernel
_THREADS = (224, 112, 56)  # about: whole rows of threads; the first that make a block for each multiprocessor
_MOST_THREADS = 256


@dataclass(frozen=True)
class StemSpec(KernelSpec):
    """Everything the code of a stem depends on.

    Attributes
    ----------
    source : Image
        The frame: planes without gaps, float32; or a camera's bytes, [H][W][RGB].
    target : Image
        Planes.
    size, strides, pads : (int, int)
        Of the kernel: rows, columns. Pads are those above and left.
    activation : str
        See :func:`emit.activate`; ``low`` and ``high`` are of ``clamp``.
    tap : int
        Target channels that are also the next value of a shift cache.
    outside : tuple of float
        What lies around each channel of the source; empty: zeros.
    threads : int
        Of a block, about.
    """

    source: Image
    target: Image
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    activation: str = ""
    low: float = 0.0
    high: float = 0.0
    tap: int = 0
    outside: tuple[float, ...] = ()
    threads: int = _THREADS[0]

    @property
    def rule(self) -> str:
        """Of the rule, or of what it reads."""
        return "stem_bytes" if self.source.dtype == "uint8" else "stem"

    @property
    def across(self) -> int:
        """Threads that make a row."""
        return ceil_div(self.target.width, _THREAD_PIXELS)

    @property
    def row_threads(self) -> int:
        """Threads of a row in a block."""
        return min(self.across, _MOST_THREADS)

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return max(1, min(self.target.height, self.threads // (self.row_threads * self.channel_groups)))

    @property
    def channel_groups(self) -> int:
        """Groups of channels in a block: few where the weights are many, or a row has many threads."""
        groups = ceil_div(self.target.channels, _THREAD_CHANNELS)
        return max(1, min(groups, 4 if self.size[0] <= 3 else 2, self.threads // self.row_threads))

    @property
    def taps(self) -> int:
        """Weights of an output channel."""
        return self.source.channels * self.size[0] * self.size[1]

    @property
    def block_channels(self) -> int:
        """Output channels of a block."""
        return self.channel_groups * _THREAD_CHANNELS

    @property
    def padded_channels(self) -> int:
        """Output channels, rounded up to blocks."""
        return ceil_div(self.target.channels, self.block_channels) * self.block_channels

    @property
    def shared_bytes(self) -> int:
        """Weights of a block."""
        return WORD_BYTES * (self.taps + 1) * self.block_channels

    @property
    def parallel(self) -> Grid:
        """Parts of rows, rows, channels."""
        blocks = (
            ceil_div(self.across, self.row_threads),
            ceil_div(self.target.height, self.rows),
            self.padded_channels // self.block_channels,
        )
        return Grid(blocks, (self.row_threads * self.rows * self.channel_groups, 1, 1))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        stored = "uint32" if item_bytes(self.target.dtype) == 2 and self.vectors else self.single
        return (
            Argument("source", "input", self.source.dtype),
            Argument("weights", "weights"),
            Argument("target", "output", stored),
            *((Argument("tap", "next_cache", stored),) if self.tap else ()),
        )

    @property
    def single(self) -> str:
        """Type of a target element that is stored by itself."""
        return "uint16" if item_bytes(self.target.dtype) == 2 else "float32"

    @property
    def vectors(self) -> bool:
        """Whether a thread's pixels are a whole vector of the target's row."""
        return self.target.width % _THREAD_PIXELS == 0

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.target.values * self.taps

    @property
    def bytes(self) -> int:
        """Images and weights."""
        return self.source.value_bytes + self.target.value_bytes + WORD_BYTES * (self.taps + 1) * self.target.channels

    def describe(self) -> str:
        """What a thread makes."""
        return f"a thread {_THREAD_CHANNELS} channels × {_THREAD_PIXELS} pixels"

    def write(self, name: str) -> Any:
        """See :func:`stem`."""
        return stem(name, self)


def _spec(at: Lowering, layer: ir.Convolution, target: Image, tap: int) -> StemSpec:
    source = at.tensors[layer.source].image
    activation, low, high = activation_of(layer, at.scale_of(layer))
    size = layer.weight.shape[2:]
    spec = StemSpec(source, target, size, layer.strides, layer.pads[:2], activation, low, high, tap)
    specs = [replace(spec, threads=threads) for threads in _THREADS]
    return next((one for one in specs if math.prod(one.parallel.blocks) >= at.gpu.multiprocessors), specs[-1])


def is_stem(layer: ir.Layer, at: Lowering) -> TypeGuard[ir.Convolution]:
    """Whether a layer is a plain convolution of few planes in fp32, as the frame's are."""
    if not isinstance(layer, ir.Convolution) or layer.shift or layer.residual or layer.groups > 1:
        return False
    source = at.tensors[layer.source].image
    return source.channels <= _MOST_CHANNELS and source.dtype == "float32" and source.pixel == 1


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    if not is_stem(layer, at):
        return False
    target = at.tensors.planes_of(layer.output)
    spec = _spec(at, layer, target, 0)
    return target.pixel == 1 and spec.shared_bytes <= at.gpu.shared_kib * 1024


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    source, scale = at.tensors[layer.source], at.scale_of(layer)
    target = at.tensors.output(layer.output, scale)
    cache, tap = tapped(at, layer)
    spec = _spec(at, layer, target.image, tap)
    at.chose(spec.rule, (layer,))
    packed = _packed(spec, layer.weight * (source.scale / scale), layer.bias / scale)
    buffers = {"source": source.buffer, "weights": at.add_weights(packed), "target": target.buffer}
    if cache is not None:
        buffers["tap"] = BufferRef("next_cache", cache)
    at.call(spec, buffers, at.label((layer,)))


def _packed(spec: StemSpec, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[channel group][tap, bias last][channel] of [output][input][row][column] and [output]."""
    weights = np.zeros((spec.padded_channels, spec.taps + 1), np.float64)
    channels = spec.target.channels
    weights[:channels, :-1] = weight.reshape(channels, spec.taps)
    weights[:channels, -1] = bias
    packed: np.ndarray = weights.reshape(-1, _THREAD_CHANNELS, spec.taps + 1).transpose(0, 2, 1).astype(np.float32)
    return packed


def as_bytes(frame: Image) -> Image:
    """A frame as a camera's bytes, [H][W][RGB]."""
    return Image(frame.height, frame.width, frame.channels, frame.channels, frame.width * frame.channels, dtype="uint8")


def _reading_bytes(at: Lowering, layer: ir.Convolution, call: KernelCall, preprocess: Preprocess) -> KernelCall:
    """The call of a stem for frames that come as bytes: the normalisation is in its weights.

    ``Σ w (b s + o) + bias = Σ (w s) b + (bias + Σ w o)``, and a pad of the normalised frame, 0, is the byte ``-o / s``.

    Parameters
    ----------
    at : Lowering
    layer : Convolution
    call : KernelCall
        Of the same layer, for frames of floats.
    preprocess : Preprocess
    """
    if not isinstance(call.spec, StemSpec):
        raise TypeError(f"{call.kernel} is no stem")
    factor, offset = (values.astype(np.float64) for values in scale_and_offset(preprocess))
    spec = replace(call.spec, source=as_bytes(call.spec.source), outside=tuple(map(float, -offset / factor)))
    scale = at.scale_of(layer)
    weight = layer.weight.astype(np.float64) / scale
    bias = layer.bias / scale + np.einsum("oiyx,i->o", weight, offset)
    packed = at.add_weights(_packed(spec, weight * factor[:, None, None], bias))
    buffers = dict(zip((argument.name for argument in call.spec.arguments), call.buffers, strict=True))
    return at.made_call(spec, buffers | {"source": BufferRef("frame_bytes"), "weights": packed}, call.layer)


RULE = Rule("stem", _takes, _lower, reading_bytes=_reading_bytes)


def stem(name: str, spec: StemSpec) -> Any:
    """Write the kernel of a stem; returns its PrimFunc. For how its weights lie see :func:`_packed`."""
    with emit.kernel(name, spec) as kernel:
        memory = emit.shared((spec.taps + 1) * spec.block_channels)
        words = (spec.taps + 1) * spec.block_channels
        origin = kernel.block[2] * words
        for _, index, inside in emit.shares(words // VECTOR, spec.parallel.threads[0], kernel.thread):
            with emit.when_all(inside):
                value = emit.load(kernel.buffers["weights"], origin + index * VECTOR, VECTOR)
                emit.store(memory, index * VECTOR, value, VECTOR)
        emit.barrier()
        rest = div(kernel.thread, spec.row_threads)
        x = (kernel.block[0] * spec.row_threads + mod(kernel.thread, spec.row_threads)) * _THREAD_PIXELS
        y = kernel.block[1] * spec.rows + mod(rest, spec.rows)
        group = div(rest, spec.rows)
        inside = [
            (y < spec.target.height) if spec.target.height % spec.rows else True,
            (x < spec.target.width) if spec.across % spec.row_threads else True,
        ]
        with emit.when_all(*inside):
            sums = _sums(kernel, spec, memory, y, x, group)
            _finish(kernel, spec, sums, y, x, kernel.block[2] * spec.channel_groups + group)
    return kernel.function


def _sums(kernel: emit.Kernel, spec: StemSpec, memory: Any, y: Expr, x: Expr, group: Expr) -> Any:
    """The thread's sums with their bias, in registers."""
    image, (rows, columns) = spec.source, spec.size
    width = (_THREAD_PIXELS - 1) * spec.strides[1] + columns
    sums, row = emit.registers(_THREAD_CHANNELS * _THREAD_PIXELS), emit.registers(width)
    weights = emit.registers(_THREAD_CHANNELS)
    origin = group * ((spec.taps + 1) * _THREAD_CHANNELS)

    def load_weights(tap: Expr) -> None:
        for quad in range(0, _THREAD_CHANNELS, VECTOR):
            value = emit.load(memory, origin + tap * _THREAD_CHANNELS + quad, VECTOR)
            emit.store(weights, quad, value, VECTOR)

    load_weights(spec.taps)
    for channel in range(_THREAD_CHANNELS):
        for pixel in range(_THREAD_PIXELS):
            emit.store(sums, channel * _THREAD_PIXELS + pixel, weights[channel])
    last_y = (spec.target.height - 1) * spec.strides[0] - spec.pads[0]
    last_x = (spec.across - 1) * _THREAD_PIXELS * spec.strides[1] - spec.pads[1]

    def add_channel(channel: Expr) -> None:
        for ky in range(rows):
            iy = y * spec.strides[0] + (ky - spec.pads[0])
            in_rows = [
                iy >= 0 if ky < spec.pads[0] else True,
                iy < image.height if last_y + ky >= image.height else True,
            ]
            for column in range(width):
                at = x * spec.strides[1] + (column - spec.pads[1])
                conditions = [
                    *in_rows,
                    at >= 0 if column < spec.pads[1] else True,
                    at < image.width if last_x + column >= image.width else True,
                ]
                value = _value(kernel, spec, channel, iy, at)
                emit.store(row, column, emit.choose(conditions, value, outside=_outside(spec, channel)))
            for kx in range(columns):
                load_weights((channel * rows + ky) * columns + kx)
                _multiply(spec, sums, row, weights, kx)

    if rows * columns <= _MOST_UNROLLED:
        for channel in range(image.channels):
            add_channel(channel)
    else:  # written out for every channel it would be slow to compile
        with emit.loop(image.channels) as index:
            add_channel(index)
    return sums


def _value(kernel: emit.Kernel, spec: StemSpec, channel: Expr, y: Expr, x: Expr) -> Expr:
    """An element of the source."""
    image = spec.source
    found = kernel.buffers["source"][channel * image.channel + y * image.row + x * image.pixel]
    return found if image.dtype == "float32" else tirx.Cast("float32", found)


def _outside(spec: StemSpec, channel: Expr) -> Expr:
    """What lies around a channel."""
    if not spec.outside:
        return emit.splat(0.0)
    return emit.splat(spec.outside[channel]) if isinstance(channel, int) else emit.one_of(spec.outside, channel)


def _multiply(spec: StemSpec, sums: Any, row: Any, weights: Any, kx: int) -> None:
    for output in range(_THREAD_CHANNELS):
        for pixel in range(_THREAD_PIXELS):
            at = output * _THREAD_PIXELS + pixel
            emit.store(sums, at, sums[at] + row[pixel * spec.strides[1] + kx] * weights[output])


def _finish(kernel: emit.Kernel, spec: StemSpec, sums: Any, y: Expr, x: Expr, group: Expr) -> None:
    """Clamp and store."""
    for output in range(_THREAD_CHANNELS):
        channel = group * _THREAD_CHANNELS + output
        values = [
            emit.activate(sums[output * _THREAD_PIXELS + pixel], spec.activation, spec.low, spec.high)
            for pixel in range(_THREAD_PIXELS)
        ]
        with emit.when_all((channel < spec.target.channels) if spec.padded_channels != spec.target.channels else True):
            _store(kernel.buffers["target"], spec, channel, y, x, values)
            if spec.tap:
                with emit.when_all(channel < spec.tap):
                    _store(kernel.buffers["tap"], spec, channel, y, x, values)


def _store(buffer: Any, spec: StemSpec, channel: Expr, y: Expr, x: Expr, values: list[Expr]) -> None:
    image = spec.target
    at = channel * image.channel + y * image.row + x
    half = item_bytes(image.dtype) == 2
    if not spec.vectors:
        for pixel, value in enumerate(values):
            with emit.when_all(x + pixel < image.width):
                emit.store(buffer, at + pixel, emit.call("tsm_half", value, dtype="uint16") if half else value)
        return
    words = emit.registers(_THREAD_PIXELS // 2 if half else _THREAD_PIXELS, "uint32" if half else "float32")
    if half:
        for pixel in range(0, _THREAD_PIXELS, 2):
            emit.store(words, pixel // 2, emit.call("tsm_pack", values[pixel], values[pixel + 1], dtype="uint32"))
        emit.store(buffer, div(at, 2), emit.load(words, 0, 2), 2)
    else:
        for pixel, value in enumerate(values):
            emit.store(words, pixel, value)
        emit.store(buffer, at, emit.load(words, 0, VECTOR), VECTOR)
