"""Depthwise convolution over NHWC: vectors of channels, a run of output columns in registers.

The input carries its zero padding as a border, so the inner code has no conditions; one kernel row of weights stays
in registers while the columns of that row are read once each and used by every output they belong to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsm_edge.compile.schedules import emit
from tsm_edge.compile.schedules.border import zero_border
from tsm_edge.compile.schedules.emit import Expr
from tsm_edge.compile.schedules.geometry import Image
from tsm_edge.compile.schedules.tiles import DepthwiseTile


@dataclass(frozen=True)
class DepthwiseSpec:
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
    def items(self) -> int:
        """Work items: (image row, chunk of channels) pairs, the chunk running fastest."""
        return self.target.height * self.tile.chunks

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the kernel's pointer arguments, in order."""
        return ("source", "weights", "target")


def pack_depthwise(spec: DepthwiseSpec, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Pack float32 [channels, 1, kh, kw] as ``[vector][1 + kh · kw][lanes]``, the bias first."""
    channels = weight.shape[0]
    vectors = -(-channels // spec.lanes)
    packed = np.zeros((1 + spec.kernel[0] * spec.kernel[1], vectors * spec.lanes), np.float32)
    packed[0, :channels] = bias
    packed[1:, :channels] = weight.reshape(channels, -1).T
    return np.ascontiguousarray(packed.reshape(-1, vectors, spec.lanes).transpose(1, 0, 2)).reshape(-1)


def depthwise(name: str, spec: DepthwiseSpec) -> Any:
    """Write the kernel of a depthwise convolution; returns its PrimFunc."""
    image, tile = spec.source, spec.tile
    total = spec.target.pixel // spec.lanes
    with emit.kernel(name, spec.buffers) as kernel:
        source, weights, target = kernel.buffers
        with emit.loop(kernel.end, kernel.begin) as item:
            y = emit.div(item, tile.chunks)
            first = emit.mod(item, tile.chunks) * tile.vectors
            last = emit.smaller(first + tile.vectors, total)
            top = image.origin + (y * spec.strides[0] - spec.pad_top) * image.row
            row = DepthwiseRow(lambda ky: top + ky * image.row, spec.target.origin + y * spec.target.row)
            with column_tiles(spec) as x:
                with emit.loop(last, first) as vector:
                    column_run(spec, source, weights, target, row, x, vector)
                channel, channels = first * spec.lanes, (last - first) * spec.lanes
                many = spec.target.width > tile.columns
                zero_border(target, spec.target, y, x, tile.columns, channel, channels, spec.lanes, many)
    return kernel.function


@dataclass(frozen=True)
class DepthwiseRow:
    """Offsets of the input row of each kernel row, and of the output row (column 0, channel 0)."""

    source: Callable[[int], Expr]
    target: Expr


def column_tiles(spec: DepthwiseSpec) -> Any:
    """A loop over the first columns of a row's tiles; the last tile is moved back to end with the row."""
    return emit.tiled_loop(spec.target.width, spec.tile.columns)


def column_run(
    spec: DepthwiseSpec, source: Any, weights: Any, target: Any, row: DepthwiseRow, x: Expr, vector: Expr
) -> None:
    """``columns`` outputs of one row for one vector of channels."""
    lanes, columns = spec.lanes, spec.tile.columns
    kernel_height, kernel_width = spec.kernel
    base = vector * ((1 + kernel_height * kernel_width) * lanes)
    accumulators = emit.Registers(columns, lanes)
    bias = emit.load(weights, base, lanes)
    for column in range(columns):
        accumulators.set(column, bias)
    left = (x * spec.strides[1] - spec.pad_left) * spec.source.pixel + vector * lanes
    for ky in range(kernel_height):
        for read in range((columns - 1) * spec.strides[1] + kernel_width):
            value = emit.load(source, row.source(ky) + left + read * spec.source.pixel, lanes)
            for kx in range(kernel_width):
                column, rest = divmod(read - kx, spec.strides[1])
                if rest == 0 and 0 <= column < columns:
                    weight = emit.load(weights, base + (1 + ky * kernel_width + kx) * lanes, lanes)
                    accumulators.add(column, value * weight)
    for column in range(columns):
        value = emit.clamp(accumulators.get(column), spec.low, spec.high, lanes)
        emit.store(target, row.target + (x + column) * spec.target.pixel + vector * lanes, value, lanes)
