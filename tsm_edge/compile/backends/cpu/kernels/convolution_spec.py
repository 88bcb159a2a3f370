"""What a convolution kernel is generated from, where a row's operands lie, and how its weights are packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tsm_edge.compile.backends.cpu.choose.tiles import GemmTile, KLoop
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layers import FrameRun
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class ConvolutionSpec(KernelSpec):
    """Everything a convolution kernel's code depends on; equal specs share one kernel.

    Attributes
    ----------
    source, target : Image
    kernel, strides : tuple of int
        Height, width.
    pad_top, pad_left : int
        Padding before the first row and column, pixels.
    reduction_channels : int
        Input channels each output sums over (input channels / groups).
    groups : int
        Groups of channels.
    group_vectors : int
        Vectors of output channels that share their input channels; 0: all do (no groups).
    low, high : float
        The clamp of the epilogue; infinite: none.
    residual : Image or None
        Added before the clamp.
    cache : Image or None
        Shift cache; its channels replace the first channels of ``source``.
    frame_runs : tuple of FrameRun
        Of a clip: the first channels, which come from other frames of ``source``. Where there is no such frame they are
        zeros, and left out of the k loop.
    tap : Image or None
        The next shift cache, filled with the first channels of the result.
    in_place : bool
        The result takes the residual's place: they are one buffer, ``target``.
    guarded : bool
        ``source`` has no border for the padding (the camera frame): rows outside it are skipped, columns outside it
        read as zero.
    prefetch : tuple of str
        The operands (``source``, ``weights``, ``target``, ``residual``, ``caches``: the shift's) that come from beyond
        the L2 cache and are asked for ahead of their use: weights a few k steps, pixels a register tile, outputs a k
        loop ahead.
    k_loop : KLoop
        How the k loop reads pixels.
    k_block : int
        Input channels of a block of the k loop, a multiple of a cache line; 0: no blocks. A block's weights stay in
        L1 for all register tiles of a run, and the tiles' sums wait in scratch memory for the next block.
    group : int
        Where panels are outside: blocks of register tiles that go through all panels together, as many pixels as stay
        in L2; 0: all.
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
    groups: int = 1
    group_vectors: int = 0
    residual: Image | None = None
    cache: Image | None = None
    tap: Image | None = None
    in_place: bool = False
    guarded: bool = False
    prefetch: tuple[str, ...] = ()
    k_loop: KLoop = field(default_factory=KLoop)
    k_block: int = 0
    frame_runs: tuple[FrameRun, ...] = ()
    group: int = 0

    @property
    def dtype(self) -> str:
        """Of everything it reads, sums and writes."""
        return self.source.dtype

    @property
    def reduction(self) -> int:
        """Steps of the k loop."""
        return self.reduction_channels * self.kernel[0] * self.kernel[1]

    @property
    def pixels_together(self) -> int:
        """Neighbouring pixels that share a vector, each with so many times fewer channels."""
        return 2 if self.source.paired else 1

    def channels(self, vectors: int) -> int:
        """Output channels of some vectors of a panel."""
        return vectors * self.lanes // self.pixels_together

    def first_channel(self, panel: Expr) -> Expr:
        """The first output channel of a panel."""
        return panel * self.channels(self.tile.vectors)

    @property
    def row_tiles(self) -> int:
        """Register tiles an image row; the last one is moved back to end with the row."""
        return ceil_div(self.target.width, self.tile.rows)

    @property
    def blocks(self) -> int:
        """Blocks of register tiles."""
        return ceil_div(self.tiles, self.tile.block)

    @property
    def group_blocks(self) -> int:
        """Blocks of a group."""
        return self.group or self.blocks

    @property
    def tile_groups(self) -> int:
        """Groups of blocks; the last one may have fewer."""
        return ceil_div(self.blocks, self.group_blocks)

    @property
    def tiles(self) -> int:
        """Register tiles of a panel."""
        return self.target.rows * self.row_tiles

    @property
    def shifted(self) -> int:
        """Channels that do not come from the same place as the others: the first ones."""
        return sum(run.channels for run in self.frame_runs) if self.cache is None else self.cache.channels

    @property
    def rule(self) -> str:
        """By the kernel's size, and whether there are groups."""
        if self.groups > 1:
            return "grouped"
        height, width = self.kernel
        return "pointwise" if (height, width) == (1, 1) else f"conv{height}x{width}"

    @property
    def parallel(self) -> Items:
        """(Block of register tiles, panel) pairs, or with blocks of the k loop, the tiles in them."""
        blocks = self.tile_groups * self.group_blocks
        return Items(blocks * self.tile.panels * (self.tile.block if self.k_block else 1))

    @property
    def weights(self) -> int:
        """Weights, as many as multiply-adds an output pixel."""
        return self.target.channels * (self.source.channels // self.groups) * self.kernel[0] * self.kernel[1]

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.target.rows * self.target.width * self.weights

    @property
    def bytes(self) -> int:
        """Image, weights, result, and the residual it is added to."""
        outputs = 2 if self.residual is not None else 1
        weights = self.weights * item_bytes(self.source.dtype)
        return self.source.value_bytes + weights + outputs * self.target.value_bytes

    def describe(self) -> str:
        """Pixels × output channels of a register tile."""
        blocks = f", k by {self.k_block}" if self.k_block else ""
        return self.tile.describe(self.lanes // self.pixels_together) + blocks

    def write(self, name: str) -> Any:
        """See ``convolution.py``."""
        from tsm_edge.compile.backends.cpu.kernels.convolution import convolution

        return convolution(name, self)

    @property
    def tile_elements(self) -> int:
        """Sums of a register tile."""
        return self.tile.rows * self.tile.vectors * self.lanes

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread: the sums of a run of register tiles between two blocks of the k loop."""
        return self.tile.block * self.tile_elements * item_bytes(self.target.dtype) if self.k_block else 0

    @property
    def full_panels(self) -> int:
        """Panels of ``tile.vectors`` vectors; the rest is one narrower panel."""
        return self.tile.panels - (1 if self.tile.tail_vectors else 0)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        optional = (
            (Argument("residual", "input", self.dtype), self.residual is not None and not self.in_place),
            (Argument("cache", "cache", self.dtype), self.cache is not None),
            (Argument("tap", "next_cache", self.dtype), self.tap is not None),
            (Argument("scratch", "scratch", self.dtype), self.k_block > 0),
        )
        fixed = (
            Argument("source", "input", self.dtype),
            Argument("weights", "weights", self.dtype),
            Argument("target", "output", self.dtype),
        )
        return (*fixed, *(argument for argument, there in optional if there))


@dataclass(frozen=True)
class Row:
    """Where one output row's operands start in their buffers (offset of column 0, channel 0).

    Attributes
    ----------
    source : callable
        Kernel row → offset of the input row it reads.
    kernel_rows : tuple of (Expr, Expr)
        First and last + 1 kernel row inside the image; all of them but for a guarded source.
    target, residual, cache, tap : Expr
        Offsets of the row in the other images; 0 where there is none.
    frame : Expr
        Of a clip: which frame it is in.
    """

    source: Callable[[Expr], Expr]
    kernel_rows: tuple[Expr, Expr]
    target: Expr
    residual: Expr = 0
    cache: Expr = 0
    tap: Expr = 0
    frame: Expr = 0


@dataclass(frozen=True)
class KBlock:
    """A part of the k loop.

    Attributes
    ----------
    position : Expr
        Kernel position: row × kernel width + column.
    first : Expr
        First input channel; those that are shifted are all in the first block.
    channels : int
        Input channels.
    opens, closes : bool
        Whether it is the first, the last.
    """

    position: Expr
    first: Expr
    channels: int
    opens: bool
    closes: bool


@dataclass(frozen=True)
class RegisterTile:
    """One register tile, and the part of its k loop to do.

    Attributes
    ----------
    row : Row
        The output row.
    x : Expr
        Its first column.
    panel : Expr
    vectors : int
        Vectors of the panel: the last one may be narrower.
    number : Expr or None
        Its number among the tiles of the panel, or of the run that shares a block of the k loop, where they follow each
        other and share the asking for weights; None: they do not.
    block : KBlock or None
        None: the whole k loop.
    """

    row: Row
    x: Expr
    panel: Expr
    vectors: int
    number: Expr = None
    block: KBlock | None = None

    @property
    def opens(self) -> bool:
        """Whether its sums begin here, with the bias."""
        return self.block is None or self.block.opens

    @property
    def closes(self) -> bool:
        """Whether its sums are complete at the end."""
        return self.block is None or self.block.closes


def row_of(spec: ConvolutionSpec, y: Expr, frame: Expr = 0) -> Row:
    """The operands of output row ``y`` of a frame where all images are whole."""
    source = spec.source
    top = y * spec.strides[0] - spec.pad_top
    kernel_rows: tuple[Expr, Expr] = (0, spec.kernel[0])
    if spec.guarded:
        kernel_rows = (emit.larger(0 - top, 0), emit.smaller(source.height - top, spec.kernel[0]))

    def start(image: Image | None, at: Expr) -> Expr:
        return 0 if image is None else emit.start_of(image, frame) + at * image.row

    return Row(
        source=lambda ky: emit.start_of(source, frame) + (top + ky) * source.row,
        kernel_rows=kernel_rows,
        target=start(spec.target, y),
        residual=start(spec.residual, y),
        cache=start(spec.cache, y * spec.strides[0]),
        tap=start(spec.tap, y),
        frame=frame,
    )


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
        Of the source's element type, 1-D: for each panel ``[1 + reduction][vectors · lanes]``; lanes beyond the last
        channel are zero.
        Where pixels share a vector, every output channel is there once for each of them.
    """
    weight, bias = (np.repeat(values, spec.pixels_together, axis=0) for values in (weight, bias))
    outputs = weight.shape[0]
    per_group_out, per_group_in = outputs // groups, weight.shape[1]
    total = sum(_panel_widths(spec))
    matrix = np.zeros((spec.kernel[0], spec.kernel[1], spec.reduction_channels, total), spec.source.dtype)
    for group in range(groups):
        rows = slice(group * per_group_out, (group + 1) * per_group_out)
        # Groups narrower than a vector share it; their input channels then lie side by side in the reduction.
        start = (group * per_group_in) % spec.reduction_channels
        matrix[:, :, start : start + per_group_in, rows] = weight[rows].transpose(2, 3, 1, 0)
    columns = np.zeros((1 + spec.reduction, total), spec.source.dtype)
    columns[0, :outputs] = bias
    columns[1:] = matrix.reshape(spec.reduction, total)
    edges = np.cumsum([0, *_panel_widths(spec)])
    panels = [columns[:, edges[i] : edges[i + 1]].reshape(-1) for i in range(spec.tile.panels)]
    return np.ascontiguousarray(np.concatenate(panels))


def _panel_widths(spec: ConvolutionSpec) -> list[int]:
    tail = [spec.tile.tail_vectors * spec.lanes] if spec.tile.tail_vectors else []
    return [spec.tile.vectors * spec.lanes] * spec.full_panels + tail
