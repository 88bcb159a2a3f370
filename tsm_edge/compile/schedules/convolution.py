"""Convolution as a register-tiled GEMM over NHWC: pointwise, k×k, strided, grouped and dense layers.

``y[pixel, n] = clamp(Σ_k x[pixel + offset(k), k] · w[k, n] + bias[n] + residual[pixel, n])``

Weights are packed at compile time in panels of whole vectors, ``[panel][1 + K][vectors · lanes]``, the bias first.
The k loop is innermost but for the register tile, whose ``rows × vectors`` accumulators never leave registers.

The temporal shift is two ranges of the k loop with different sources: channels below ``shift_channels`` come from
the shift cache, the others from the current frame. Nothing is concatenated.
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
from tsm_edge.compile.schedules.tiles import GemmTile

# One step of the reduction: source buffer and layout, offset of the tile's first pixel, channel, row of the weights.
_Step = Callable[[Any, Image, Expr, Expr, Expr], None]


@dataclass(frozen=True)
class ConvolutionSpec:
    """Everything a convolution kernel's code depends on; equal specs share one kernel.

    Attributes
    ----------
    source, target : Image
        ``source`` has a border at least as wide as the padding.
    kernel, strides : tuple of int
        Height, width.
    pad_top, pad_left : int
        Padding before the first row and column, pixels.
    reduction_channels : int
        Input channels each output sums over (input channels / groups).
    group_vectors : int
        Vectors of output channels that share their input channels; 0: all do (no groups).
    low, high : float
        The clamp of the epilogue; infinite: none.
    residual : Image or None
        Added before the clamp.
    cache : Image or None
        Shift cache; its channels replace the first channels of ``source``.
    tap : Image or None
        The next shift cache, filled with the first channels of the result.
    """

    source: Image
    target: Image
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pad_top: int
    pad_left: int
    reduction_channels: int
    tile: GemmTile
    lanes: int
    low: float
    high: float
    group_vectors: int = 0
    residual: Image | None = None
    cache: Image | None = None
    tap: Image | None = None

    @property
    def reduction(self) -> int:
        """Steps of the k loop."""
        return self.reduction_channels * self.kernel[0] * self.kernel[1]

    @property
    def row_tiles(self) -> int:
        """Register tiles an image row; the last one is moved back to end with the row."""
        return -(-self.target.width // self.tile.rows)

    @property
    def items(self) -> int:
        """Work items: (block of register tiles, panel) pairs, the panel running fastest."""
        return -(-self.target.height * self.row_tiles // self.tile.block) * self.tile.panels

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the kernel's pointer arguments, in order."""
        optional = (("residual", self.residual), ("cache", self.cache), ("tap", self.tap))
        return ("source", "weights", "target", *(name for name, image in optional if image is not None))


def pack_weights(spec: ConvolutionSpec, weight: np.ndarray, bias: np.ndarray, groups: int) -> np.ndarray:
    """Pack a weight tensor for :func:`convolution`.

    Parameters
    ----------
    weight : numpy.ndarray
        float32 [out, in / groups, kh, kw].
    bias : numpy.ndarray
        float32 [out].

    Returns
    -------
    numpy.ndarray
        float32, 1-D: for each panel ``[1 + reduction][vectors · lanes]``; lanes beyond the last channel are zero.
    """
    outputs = weight.shape[0]
    per_group_out, per_group_in = outputs // groups, weight.shape[1]
    total = sum(_panel_widths(spec))
    matrix = np.zeros((spec.kernel[0], spec.kernel[1], spec.reduction_channels, total), np.float32)
    for group in range(groups):
        rows = slice(group * per_group_out, (group + 1) * per_group_out)
        # Groups narrower than a vector share it; their input channels then lie side by side in the reduction.
        start = (group * per_group_in) % spec.reduction_channels
        matrix[:, :, start : start + per_group_in, rows] = weight[rows].transpose(2, 3, 1, 0)
    columns = np.zeros((1 + spec.reduction, total), np.float32)
    columns[0, :outputs] = bias
    columns[1:] = matrix.reshape(spec.reduction, total)
    edges = np.cumsum([0, *_panel_widths(spec)])
    panels = [columns[:, edges[i] : edges[i + 1]].reshape(-1) for i in range(spec.tile.panels)]
    return np.ascontiguousarray(np.concatenate(panels))


def _panel_widths(spec: ConvolutionSpec) -> list[int]:
    full = spec.tile.panels - (1 if spec.tile.tail_vectors else 0)
    tail = [spec.tile.tail_vectors * spec.lanes] if spec.tile.tail_vectors else []
    return [spec.tile.vectors * spec.lanes] * full + tail


def convolution(name: str, spec: ConvolutionSpec) -> Any:
    """Write the kernel of a convolution; returns its PrimFunc."""
    tile = spec.tile
    tiles = spec.target.height * spec.row_tiles
    full_panels = tile.panels - (1 if tile.tail_vectors else 0)
    with emit.kernel(name, spec.buffers) as kernel:
        buffers = dict(zip(spec.buffers, kernel.buffers, strict=True))
        with emit.loop(kernel.end, kernel.begin) as item:
            panel = emit.mod(item, tile.panels)
            first = emit.div(item, tile.panels) * tile.block
            last = emit.smaller(first + tile.block, tiles) if tiles % tile.block else first + tile.block
            if full_panels and tile.tail_vectors:
                with emit.when(panel < full_panels):
                    _tiles(spec, buffers, first, last, panel, tile.vectors)
                with emit.when(panel >= full_panels):
                    _tiles(spec, buffers, first, last, full_panels, tile.tail_vectors)
            else:
                _tiles(spec, buffers, first, last, panel, tile.vectors if full_panels else tile.tail_vectors)
    return kernel.function


def _tiles(spec: ConvolutionSpec, buffers: dict[str, Any], first: Expr, last: Expr, panel: Expr, vectors: int) -> None:
    """The register tiles of one work item."""
    panel_base = panel * ((1 + spec.reduction) * spec.tile.vectors * spec.lanes)
    channel = panel * (spec.tile.vectors * spec.lanes)
    rows = spec.tile.rows
    with emit.loop(last, first) as index:
        y = emit.div(index, spec.row_tiles) if spec.target.height > 1 else 0
        x = emit.mod(index, spec.row_tiles) * rows if spec.row_tiles > 1 else 0
        if spec.target.width % rows:
            x = emit.smaller(x, spec.target.width - rows)
        _register_tile(spec, buffers, y, x, panel_base, channel, vectors)
        _tap(spec, buffers, y, x, channel, vectors)
        zero_border(
            buffers["target"], spec.target, y, x, rows, channel, vectors * spec.lanes, spec.lanes, spec.row_tiles > 1
        )


def _register_tile(
    spec: ConvolutionSpec, buffers: dict[str, Any], y: Expr, x: Expr, panel_base: Expr, channel: Expr, vectors: int
) -> None:
    lanes, rows, width = spec.lanes, spec.tile.rows, vectors * spec.lanes
    weights, target = buffers["weights"], buffers["target"]
    accumulators = emit.Registers(rows * vectors, lanes)
    for vector in range(vectors):
        bias = emit.load(weights, panel_base + vector * lanes, lanes)
        for row in range(rows):
            accumulators.set(row * vectors + vector, bias)

    def step(source: Any, image: Image, base: Expr, k: Expr, weight_row: Expr) -> None:
        """One k of the reduction: ``rows`` broadcasts against ``vectors`` weight vectors."""
        for row in range(rows):
            value = emit.load(source, base + row * spec.strides[1] * image.pixel + k * image.channel)
            for vector in range(vectors):
                weight = emit.load(weights, panel_base + (1 + weight_row) * width + vector * lanes, lanes)
                accumulators.add(row * vectors + vector, emit.splat(value, lanes) * weight)

    _reduce(spec, buffers, y, x, channel, step)

    for row in range(rows):
        for vector in range(vectors):
            value = accumulators.get(row * vectors + vector)
            offset = channel + vector * lanes
            if spec.residual is not None:
                value = value + emit.load(buffers["residual"], _at(spec.residual, y, x + row) + offset, lanes)
            value = emit.clamp(value, spec.low, spec.high, lanes)
            emit.store(target, _at(spec.target, y, x + row) + offset, value, lanes)


def _reduce(spec: ConvolutionSpec, buffers: dict[str, Any], y: Expr, x: Expr, channel: Expr, step: _Step) -> None:
    """The k loop: kernel rows, kernel columns, channels; the cache's channels first where there is a shift."""
    kernel_height, kernel_width = spec.kernel
    source, channels = spec.source, spec.reduction_channels
    corner = _at(source, y * spec.strides[0] - spec.pad_top, x * spec.strides[1] - spec.pad_left)
    if spec.group_vectors:
        corner = corner + emit.div(channel, spec.group_vectors * spec.lanes) * channels
    shifted = 0
    if spec.cache is not None:
        shifted = spec.cache.channels
        cached = _at(spec.cache, y * spec.strides[0], x * spec.strides[1])
        with emit.loop(shifted) as k:
            step(buffers["cache"], spec.cache, cached, k, k)
    if (kernel_height, kernel_width) == (1, 1):
        with emit.loop(channels, shifted) as k:
            step(buffers["source"], source, corner, k, k)
        return
    with emit.loop(kernel_height) as ky:
        if kernel_width * channels <= 12:  # a stem: too short for a loop
            for kx in range(kernel_width):
                for k in range(channels):
                    base = corner + ky * source.row + kx * source.pixel
                    step(buffers["source"], source, base, k, (ky * kernel_width + kx) * channels + k)
            return
        with emit.loop(kernel_width) as kx:
            base = corner + ky * source.row + kx * source.pixel
            tap = (ky * kernel_width + kx) * channels
            if channels <= 4:
                for k in range(channels):
                    step(buffers["source"], source, base, k, tap + k)
                return
            with emit.loop(channels) as k:
                step(buffers["source"], source, base, k, tap + k)


def _tap(spec: ConvolutionSpec, buffers: dict[str, Any], y: Expr, x: Expr, channel: Expr, vectors: int) -> None:
    """Copy the first channels of the finished tile, still in L1, to the next shift cache."""
    if spec.tap is None or (isinstance(channel, int) and channel >= spec.tap.pixel):
        return
    # Quads of channels of the cache that this panel holds; panels beyond the cache loop zero times.
    first = emit.div(channel, 4)
    last = emit.smaller(first + vectors * spec.lanes // 4, spec.tap.pixel // 4)
    with emit.loop(spec.tile.rows) as row, emit.loop(last, first) as quad:
        value = emit.load(buffers["target"], _at(spec.target, y, x + row) + quad * 4, 4)
        emit.store(buffers["tap"], _at(spec.tap, y, x + row) + quad * 4, value, 4)


def _at(image: Image, y: Expr, x: Expr) -> Expr:
    return image.origin + y * image.row + x * image.pixel
