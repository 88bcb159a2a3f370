"""Depthwise convolution over NHWC: vectors of channels, a run of output columns in registers.

The input carries its zero padding as a border, so the inner code has no conditions; one kernel row of weights stays
in registers while the columns of that row are read once each and used by every output they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tsm_edge.compile.backends.cpu.choose.tiles import DepthwiseTile, depthwise_tile
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Part, zero_border
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image
from tsm_edge.errors import CompileError


@dataclass(frozen=True)
class DepthwiseSpec(KernelSpec):
    """Everything a depthwise kernel's code depends on; fields as in ``ConvolutionSpec``."""

    source: Image
    target: Image
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pad_top: int
    pad_left: int
    tile: DepthwiseTile
    lanes: int
    low: float
    high: float

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "depthwise"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        dtype = self.source.dtype
        return (
            Argument("source", "input", dtype),
            Argument("weights", "weights", dtype),
            Argument("target", "output", dtype),
        )

    @property
    def parallel(self) -> Items:
        """(Run of rows, chunk of channels) pairs of every frame, the chunk running fastest."""
        return Items(self.target.frames * self.runs * self.tile.chunks)

    @property
    def runs(self) -> int:
        """Runs of rows of a frame."""
        return ceil_div(self.target.height, self.tile.rows)

    @property
    def weights(self) -> int:
        """Weights, as many as multiply-adds an output pixel."""
        return self.target.channels * self.kernel[0] * self.kernel[1]

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.target.rows * self.target.width * self.weights

    @property
    def bytes(self) -> int:
        """Image, weights and result."""
        return self.source.value_bytes + self.weights * item_bytes(self.source.dtype) + self.target.value_bytes

    def describe(self) -> str:
        """Output columns × channels of a tile."""
        return self.tile.describe(self.lanes)

    def write(self, name: str) -> Any:
        """See :func:`depthwise`."""
        return depthwise(name, self)


def pack_depthwise(spec: DepthwiseSpec, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Pack float32 [channels, 1, kh, kw] as ``[vector][1 + kh · kw][lanes]``, the bias first."""
    channels = weight.shape[0]
    vectors = ceil_div(channels, spec.lanes)
    packed = np.zeros((1 + spec.kernel[0] * spec.kernel[1], vectors * spec.lanes), spec.source.dtype)
    packed[0, :channels] = bias
    packed[1:, :channels] = weight.reshape(channels, -1).T
    return np.ascontiguousarray(packed.reshape(-1, vectors, spec.lanes).transpose(1, 0, 2)).reshape(-1)


@dataclass(frozen=True)
class DepthwiseSettings:
    """What is chosen for a depthwise convolution."""

    tile: DepthwiseTile


def depthwise_settings(at: Lowering, layer: ir.Convolution, target: Image) -> DepthwiseSettings:
    """The tile by the card's numbers."""
    channels, _, height, width = layer.weight.shape
    size, kernel = (target.height, target.width), (height, width)
    tile = depthwise_tile(at.core, *size, channels, kernel, layer.strides, target.paired, target.frames)
    return DepthwiseSettings(tile)


def other_depthwise_settings(
    at: Lowering, layer: ir.Convolution, target: Image, settings: DepthwiseSettings
) -> Iterator[DepthwiseSettings]:
    """What may be faster than what was chosen, the likeliest first: rows together, columns, chunks of channels."""
    tile, total = settings.tile, ceil_div(target.channels, at.lanes)
    step = 2 if target.paired else 1
    accumulators = at.core.cpu.vector_registers
    if tile.rows == 2:
        yield replace(settings, tile=replace(tile, rows=1))
    elif target.height > 1 and layer.weight.shape[2] > layer.strides[0] == 1:
        yield replace(settings, tile=replace(tile, rows=2))
    for columns in (tile.columns - step, tile.columns + step, tile.columns - 2 * step, tile.columns + 2 * step):
        if step <= columns <= target.width and columns * tile.rows < accumulators:
            yield replace(settings, tile=replace(tile, columns=columns))
    for chunks in (tile.chunks * 2, tile.chunks // 2):
        if 1 <= chunks <= total:
            vectors = ceil_div(total, chunks)
            yield replace(settings, tile=replace(tile, vectors=vectors, chunks=ceil_div(total, vectors)))


def depthwise_spec(
    at: Lowering, layer: ir.Convolution, source: Image, target: Image, settings: DepthwiseSettings
) -> DepthwiseSpec:
    """The kernel of a layer between two images."""
    _, _, height, width = layer.weight.shape
    return DepthwiseSpec(
        source=source,
        target=target,
        kernel=(height, width),
        strides=layer.strides,
        pad_top=layer.pads[0],
        pad_left=layer.pads[1],
        tile=settings.tile,
        lanes=at.lanes,
        low=layer.clamp.low,
        high=layer.clamp.high,
    )


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    if layer.residual is not None:
        raise CompileError(
            f"depthwise convolution {layer.output!r} has a residual, which no rule covers",
            "export the model with the addition after another operator",
        )
    source = at.tensors.vectors(layer.source, at.border_of(layer))
    target = at.tensors.output(layer.output)
    settings = at.given((layer,), DepthwiseSettings) or depthwise_settings(at, layer, target.image)
    at.chose(RULE.name, (layer,), settings, other_depthwise_settings(at, layer, target.image, settings))
    spec = depthwise_spec(at, layer, source.image, target.image, settings)
    buffers = {
        "source": source.buffer,
        "target": target.buffer,
        "weights": at.add_packed(pack_depthwise, spec, layer.weight, layer.bias),
    }
    at.call(spec, buffers, at.label((layer,)))


RULE = Rule("depthwise", lambda unit: isinstance(unit, ir.Convolution) and unit.depthwise, _lower, DepthwiseSettings)


def depthwise(name: str, spec: DepthwiseSpec) -> Any:
    """Write the kernel of a depthwise convolution; returns its PrimFunc."""
    target, tile = spec.target, spec.tile
    total = target.pixel // spec.lanes
    with emit.kernel(name, spec) as kernel, emit.loop(kernel.end, kernel.begin) as item:
        frame, run = emit.in_frame(emit.div(item, tile.chunks), spec.runs, target.frames)
        y = emit.smaller(run * tile.rows, target.height - tile.rows)
        first = emit.mod(item, tile.chunks) * tile.vectors
        last = emit.smaller(first + tile.vectors, total)
        row_run(spec, kernel.buffers, row_of(spec, y, frame), y, first, last - first)
    return kernel.function


@dataclass(frozen=True)
class DepthwiseRow:
    """Offsets of the input rows, by their distance from the first, and of the output row (column 0, channel 0).

    ``frame``, of a clip: which one the output row is in.
    """

    source: Callable[[int], Expr]
    target: Expr
    frame: Expr = 0


def row_of(spec: DepthwiseSpec, y: Expr, frame: Expr = 0) -> DepthwiseRow:
    """Output row ``y`` of a frame where both images are whole."""
    image, target = spec.source, spec.target
    top = emit.start_of(image, frame) + (y * spec.strides[0] - spec.pad_top) * image.row
    return DepthwiseRow(lambda ky: top + ky * image.row, emit.start_of(target, frame) + y * target.row, frame)


def row_run(spec: DepthwiseSpec, buffers: Buffers, row: DepthwiseRow, y: Expr, first: Expr, vectors: Expr) -> None:
    """Rows ``y …`` of the output, as many as a tile has, for some vectors of channels; with the border beside them."""
    with emit.tiled_loop(spec.target.width, spec.tile.columns) as x:
        with emit.loop(vectors) as vector:
            _column_run(spec, buffers, row, x, first + vector)
        channels = first * spec.lanes, vectors * spec.lanes
        for below in range(spec.tile.rows):
            part = Part(y + below, x, row.frame, spec.tile.columns, channels)
            zero_border(buffers["target"], spec.target, part, spec.lanes)


def _column_run(spec: DepthwiseSpec, buffers: Buffers, row: DepthwiseRow, x: Expr, vector: Expr) -> None:
    """A tile's outputs for one vector of channels; ``row`` is the first row's place."""
    source, weights, target = buffers["source"], buffers["weights"], buffers["target"]
    lanes, rows, columns, (down, right) = spec.lanes, spec.tile.rows, spec.tile.columns, spec.strides
    kernel_height, kernel_width = spec.kernel
    base = vector * ((1 + kernel_height * kernel_width) * lanes)
    accumulators = emit.Registers(rows * columns, lanes, spec.source.dtype)
    bias = emit.load(weights, base, lanes)
    for index in range(rows * columns):
        accumulators.set(index, bias)
    left = (x * right - spec.pad_left) * spec.source.pixel + vector * lanes
    for read_row in range((rows - 1) * down + kernel_height):
        for read in range((columns - 1) * right + kernel_width):
            value = emit.load(source, row.source(read_row) + left + read * spec.source.pixel, lanes)
            for y in range(rows):
                for column in range(columns):
                    ky, kx = read_row - y * down, read - column * right
                    if 0 <= ky < kernel_height and 0 <= kx < kernel_width:
                        weight = emit.load(weights, base + (1 + ky * kernel_width + kx) * lanes, lanes)
                        accumulators.add(y * columns + column, value * weight)
    together = 2 if spec.target.paired else 1
    for y in range(rows):
        for column in range(0, columns, together):
            values = [
                emit.clamp(accumulators.get(y * columns + column + index), spec.low, spec.high, lanes)
                for index in range(together)
            ]
            if spec.target.paired:
                values = emit.interleave(values[0], values[1], lanes)
            at = row.target + y * spec.target.row + (x + column) * spec.target.pixel + vector * (together * lanes)
            for index, value in enumerate(values):
                emit.store(target, at + index * lanes, value, lanes)
