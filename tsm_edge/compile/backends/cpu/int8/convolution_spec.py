"""What a convolution on levels is generated from, and how its weights are packed.

Weights lie in panels of whole vectors, ``[panel][bias, multiplier, constant][step][vector][lane][4]``: a step of the
k loop is four channels of one kernel position, the constant is there where sums need no conversion (``Magic``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsm_edge.compile.backends.cpu.int8.images import ByteImage
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.quantisation import MAGIC_BITS, IntegerConvolution
from tsm_edge.compile.ir.scale import LEVELS

WORD = 4  # bytes of a sum, a multiplier, and the channels of a step


@dataclass(frozen=True)
class Int8Tile:
    """Register tile and work split of a convolution on levels; fields as in ``GemmTile``."""

    rows: int
    vectors: int
    block: int
    panels_outside: bool


@dataclass(frozen=True)
class Requantised:
    """How sums become levels.

    Attributes
    ----------
    zero, low, high : int
        The level of zero, and the bounds.
    magic : bool
        By one ``fma`` without conversions.
    residual : ByteImage or None
        Added first.
    residual_multiplier : float
    """

    zero: int = 0
    low: int = 0
    high: int = LEVELS
    magic: bool = False
    residual: ByteImage | None = None
    residual_multiplier: float = 0.0


@dataclass(frozen=True)
class RegisterTile:
    """Where a register tile reads and writes.

    Attributes
    ----------
    y, x : Expr
        Row and first column of the result, as it reads its source.
    row : Expr
        Row that it writes: of the target, the residual and the next cache. A ring of rows has others than the source.
    panel : Expr
        Of output channels.
    vectors : int
        Of the panel.
    cell : Expr
        The panel's first vector in a target in quads.
    """

    y: Expr
    x: Expr
    row: Expr
    panel: Expr
    vectors: int
    cell: Expr


@dataclass(frozen=True)
class Int8ConvolutionSpec(KernelSpec):
    """Everything a convolution kernel's code depends on.

    Attributes
    ----------
    instructions : Instructions
    source : ByteImage
    target : ByteImage or Image
        float32: the results are not quantised.
    kernel, strides : tuple of int
        Height, width.
    pad_top, pad_left : int
    channels, outputs : int
        Input and output channels.
    tile : Int8Tile
    made : Requantised
    cache : ByteImage or None
        Shift cache; its channels replace the first channels of ``source``.
    tap : ByteImage or None
        The next shift cache, cut from the result's first channels on the way.
    far : bool
        Weights come from beyond the L2 cache and are asked for ahead.
    low, high : float
        The clamp of float32 results.
    """

    instructions: Instructions
    source: ByteImage
    target: Image
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pad_top: int
    pad_left: int
    channels: int
    outputs: int
    tile: Int8Tile
    made: Requantised
    cache: ByteImage | None = None
    tap: ByteImage | None = None
    far: bool = False
    low: float = -math.inf
    high: float = math.inf

    @property
    def quads(self) -> int:
        """Steps of a kernel position."""
        return ceil_div(self.channels, WORD)

    @property
    def cache_quads(self) -> int:
        """Steps of the cache's channels."""
        return 0 if self.cache is None else ceil_div(self.cache.channels, WORD)

    @property
    def first_quad(self) -> int:
        """First step of the source's own channels."""
        return 0 if self.cache is None else self.cache.channels // WORD

    @property
    def steps(self) -> int:
        """Of the k loop."""
        if self.cache is not None:
            return self.cache_quads + self.quads - self.first_quad
        return self.kernel[0] * self.kernel[1] * self.quads

    @property
    def in_float(self) -> bool:
        """Whether results are float32."""
        return self.target.dtype == "float32"

    @property
    def in_quads(self) -> bool:
        """Whether the result is for a depthwise convolution."""
        return isinstance(self.target, ByteImage) and self.target.quads

    @property
    def total_vectors(self) -> int:
        """Vectors of output channels."""
        return ceil_div(self.outputs, self.instructions.lanes)

    @property
    def panels(self) -> int:
        """Panels, the narrower last one included."""
        return ceil_div(self.total_vectors, self.tile.vectors)

    @property
    def tail_vectors(self) -> int:
        """Vectors of the last panel where it is narrower; else 0."""
        return self.total_vectors % self.tile.vectors

    def header_bytes(self, vectors: int) -> int:
        """Bytes before a panel's weights."""
        return (3 if self.made.magic else 2) * vectors * self.instructions.vector_bytes

    def panel_bytes(self, vectors: int) -> int:
        """Bytes of a panel."""
        return self.header_bytes(vectors) + self.steps * vectors * self.instructions.vector_bytes

    @property
    def panel_channels(self) -> int:
        """Output channels of a panel."""
        return self.tile.vectors * self.instructions.lanes

    def first_channel(self, panel: Expr) -> Expr:
        """The first output channel of a panel."""
        return panel * self.panel_channels

    @property
    def columns(self) -> int:
        """Columns that are made: whole quads, where there are any."""
        return ceil_div(self.target.width, WORD) * WORD if self.in_quads else self.target.width

    @property
    def row_tiles(self) -> int:
        """Register tiles a row; the last one is moved back to end with it."""
        return ceil_div(self.columns, self.tile.rows)

    @property
    def tiles(self) -> int:
        """Register tiles of a panel."""
        return self.target.height * self.row_tiles

    @property
    def blocks(self) -> int:
        """Blocks of register tiles."""
        return ceil_div(self.tiles, self.tile.block)

    @property
    def rule(self) -> str:
        """By the kernel's size."""
        height, width = self.kernel
        return "pointwise" if (height, width) == (1, 1) else f"conv{height}x{width}"

    @property
    def parallel(self) -> Items:
        """(Block of register tiles, panel) pairs."""
        return Items(self.blocks * self.panels)

    @property
    def weights(self) -> int:
        """Weights, as many as multiply-adds an output pixel."""
        return self.outputs * self.channels * self.kernel[0] * self.kernel[1]

    @property
    def row_flops(self) -> int:
        """Of a row of the result."""
        return 2 * self.target.width * self.weights

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return self.target.height * self.row_flops

    @property
    def bytes(self) -> int:
        """Image, weights, result, and the residual it is added to."""
        outputs = 2 if self.made.residual is not None else 1
        return self.source.value_bytes + self.weights + outputs * self.target.value_bytes

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order; bytes, whatever lies in them."""
        optional = (
            (Argument("residual", "input", "uint8"), self.made.residual is not None),
            (Argument("cache", "cache", "uint8"), self.cache is not None),
            (Argument("tap", "next_cache", "uint8"), self.tap is not None),
        )
        return (
            Argument("source", "input", "uint8"),
            Argument("weights", "weights", "uint8"),
            Argument("target", "output", "uint8"),
            *(argument for argument, there in optional if there),
        )

    def describe(self) -> str:
        """Pixels × output channels of a register tile."""
        how = ", float32" if self.in_float else ", no conversion" if self.made.magic else ""
        return f"int8 {self.tile.rows}×{self.tile.vectors * self.instructions.lanes}{how}"

    def write(self, name: str) -> Any:
        """See ``convolution.py``."""
        from tsm_edge.compile.backends.cpu.int8.convolution import convolution

        return convolution(name, self)


def tapped_panels(cache: ByteImage, channels: int) -> int:
    """Panels of some channels that a cache is cut from; 0: it ends inside one that is not the first."""
    if cache.pixel <= channels:
        return 1
    return 0 if cache.pixel % channels else cache.pixel // channels


def channel_order(vectors: int, lanes: int) -> np.ndarray:
    """Channel of every lane of some vectors: int [vector][lane].

    Those of every four whole vectors are such that ``Instructions.pack`` leaves them in order.
    """
    order = np.arange(vectors * lanes).reshape(vectors, lanes)
    whole, lane = vectors // 4 * 4, np.arange(lanes)
    for vector in range(whole):
        order[vector] = vector // 4 * (4 * lanes) + 16 * (lane // 4) + 4 * (vector % 4) + lane % 4
    return order


def panel_channels(spec: Int8ConvolutionSpec, panel: int) -> np.ndarray:
    """Output channel of every lane of a panel, beyond the last where there is none: int [vector][lane]."""
    lanes = spec.instructions.lanes
    first = panel * spec.tile.vectors
    vectors = min(spec.tile.vectors, spec.total_vectors - first)
    if spec.in_quads:  # packed by the depthwise convolution, four vectors of the whole image at a time
        return channel_order(spec.total_vectors, lanes)[first : first + vectors]
    if spec.in_float:
        return np.arange(first * lanes, (first + vectors) * lanes).reshape(vectors, lanes)
    return first * lanes + channel_order(vectors, lanes)


def starting_sums(integers: IntegerConvolution, instructions: Instructions) -> np.ndarray:
    """What sums of stored bytes begin with: int64 [out]."""
    weights = integers.weight.astype(np.int64).reshape(len(integers.bias), -1).sum(1)
    start: np.ndarray = integers.bias + (instructions.offset - integers.source.zero) * weights
    return start if integers.magic is None else start + integers.magic.correction + MAGIC_BITS


def constants_of(integers: IntegerConvolution, instructions: Instructions) -> np.ndarray | None:
    """The addend of the ``fma`` that needs no conversion: float32 [out]; None: there is none."""
    if integers.magic is None or integers.target is None:
        return None
    return (integers.magic.constant + integers.target.zero - instructions.offset).astype(np.float32)


def pack_convolution(spec: Int8ConvolutionSpec, integers: IntegerConvolution) -> np.ndarray:
    """Bytes of all panels."""
    order = spec.instructions.weight_order
    weight = _by_steps(spec, integers.weight)
    parts = []
    for panel in range(spec.panels):
        channels = panel_channels(spec, panel)
        inside = channels < spec.outputs
        at = np.where(inside, channels, 0)
        parts += headers(integers, spec.instructions, at, inside)
        body = np.where(inside[..., None, None], weight[at], 0).transpose(2, 0, 1, 3)  # [step][vector][lane][4]
        parts.append(np.stack([body[:, :, lane, term] for lane, term in order], -1).astype(np.int8).tobytes())
    return np.frombuffer(b"".join(parts), np.uint8)


def headers(
    integers: IntegerConvolution, instructions: Instructions, channels: np.ndarray, inside: np.ndarray
) -> list[bytes]:
    """Starting sums, multipliers and constants of some lanes."""
    start, constants = starting_sums(integers, instructions), constants_of(integers, instructions)
    found = [
        np.where(inside, start[channels], 0).astype("<i4").tobytes(),
        np.where(inside, integers.multiplier[channels], 0).astype("<f4").tobytes(),
    ]
    if constants is not None:
        found.append(np.where(inside, constants[channels], 0).astype("<f4").tobytes())
    return found


def _by_steps(spec: Int8ConvolutionSpec, weight: np.ndarray) -> np.ndarray:
    """int8 [out][step][4], zero where a step has less than four channels of its own."""
    positions = spec.kernel[0] * spec.kernel[1]
    padded = np.zeros((spec.outputs, positions, spec.quads * WORD), np.int8)
    padded[:, :, : spec.channels] = weight.transpose(0, 2, 3, 1).reshape(spec.outputs, positions, spec.channels)
    if spec.cache is not None:
        shifted, start = spec.cache.channels, spec.first_quad * WORD
        cached = np.zeros((spec.outputs, 1, spec.cache_quads * WORD), np.int8)
        cached[:, :, :shifted] = padded[:, :, :shifted]
        rest = padded[:, :, start:].copy()
        rest[:, :, : shifted - start] = 0
        padded = np.concatenate([cached, rest], 2)
    return padded.reshape(spec.outputs, spec.steps, WORD)
