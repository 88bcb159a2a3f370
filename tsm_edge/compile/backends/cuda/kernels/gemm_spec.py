"""What a convolution as a matrix product over planes depends on, and its block of threads.

``C[n][p] = act(Σ W[k][n] X[k][p] + b[n] + R[n][p])``: n are output channels, p pixels of the output, k input channels
(of every position of the kernel, channel fastest). Rows of both operands lie as a warp reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.compile.ir.element import WORD_BYTES, ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image

_LEAST_SUM_BYTES = 16384
_USUAL_DEPTH = 8
# Issue slots a multiply-add with what stands around it, of a sum at the end, and of a warp at its start.
_SLOTS_MULTIPLY, _SLOTS_SUM, _SLOTS_START = 1.12, 3, 300
# Of a vector of floats from memory to shared memory (one of halfs hides between products, whose registers conflict), of
# a gathered element, of where a step's pixels are, and of where two of halfs are and whether they are in the image.
_SLOTS_VECTOR, _SLOTS_GATHERED, _SLOTS_POSITION, _SLOTS_TWO_POSITIONS = 2, 6, 30, 150


@dataclass(frozen=True)
class GemmTile:
    """What is chosen for a matrix product.

    Attributes
    ----------
    channels, pixels : int
        Of a block of threads.
    thread_channels, thread_pixels : int
        Of a thread: their sums stay in registers.
    slices : int
        Groups of the block's threads that share out the reduction; their sums meet in shared memory.
    depth : int
        Rows of the reduction that a slice takes between two barriers.
    last_apart : bool
        The last step is written out again without its loads; else the loop's last loads are idle.
    """

    channels: int
    pixels: int
    thread_channels: int
    thread_pixels: int
    slices: int = 1
    depth: int = _USUAL_DEPTH
    last_apart: bool = True

    @property
    def slice_threads(self) -> int:
        """Threads of a slice."""
        return (self.channels // self.thread_channels) * (self.pixels // self.thread_pixels)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.slice_threads * self.slices

    @property
    def rows(self) -> int:
        """Rows of the reduction that the block takes between two barriers."""
        return self.depth * self.slices

    def __str__(self) -> str:
        slices = f", {self.slices} slices" if self.slices > 1 else ""
        depth = f", {self.depth} rows a step" if self.depth != _USUAL_DEPTH else ""
        return (
            f"{self.channels} channels × {self.pixels} pixels, a thread {self.thread_channels} × "
            f"{self.thread_pixels}{slices}{depth}"
        )


def word_type(elements: int) -> str:
    """How a word of one float or two halfs is declared."""
    return "uint32" if elements == 2 else "float32"


@dataclass(frozen=True)
class Window:
    """How a convolution that is more than 1×1 reads its source.

    Attributes
    ----------
    size, strides : (int, int)
        Rows, columns.
    pads : (int, int)
        Rows above, columns left.
    groups : int
    """

    size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    groups: int = 1

    @property
    def positions(self) -> int:
        """Of the kernel."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class GemmSpec(KernelSpec):
    """Everything the code of a matrix product depends on.

    Attributes
    ----------
    source, target : Image
        Planes, of fp32 or of halfs; a residual and a tap lie as the target does, weights are as the source is.
    tile : GemmTile
    window : Window or None
        None: 1×1, stride 1, one group.
    activation : str
        See :func:`emit.activate`; ``low`` and ``high`` are of ``clamp``.
    shift : int
        Source channels that come from a shift cache.
    residual : bool
        An image of the target's size is added.
    tap : int
        Target channels that are also the next value of a shift cache.
    flush : int
        Of halfs: products that are summed before the sum is added to a total, a half, too; 0: as many as the
        reduction has.
    arithmetic : str
        Element type of products and sums: float32 of halfs, too; empty: as the source is stored.
    batch : int
        Products of the same size in one launch, without a window: the images hold one after the other.
    """

    source: Image
    target: Image
    tile: GemmTile
    window: Window | None = None
    activation: str = ""
    low: float = 0.0
    high: float = 0.0
    shift: int = 0
    residual: bool = False
    tap: int = 0
    flush: int = 0
    arithmetic: str = ""
    batch: int = 1

    @property
    def rule(self) -> str:
        """The rules that use it."""
        if self.window is not None:
            return "convolution"
        return "pointwise" if self.batch == 1 else "winograd"

    @property
    def groups(self) -> int:
        """Of the convolution, or of the batch: sets of channels that have nothing to do with each other."""
        return self.window.groups if self.window else self.batch

    @property
    def inputs(self) -> int:
        """Source channels of a group."""
        return self.source.channels // self.groups

    @property
    def outputs(self) -> int:
        """Target channels of a group."""
        return self.target.channels // self.groups

    @property
    def pixels(self) -> int:
        """Of the target."""
        return self.target.height * self.target.width

    @property
    def half(self) -> bool:
        """Whether halfs are multiplied and summed, two in a word."""
        return (self.arithmetic or self.source.dtype) == "float16"

    @property
    def source_elements(self) -> int:
        """Elements of a word of the source, as it lies in memory."""
        return WORD_BYTES // item_bytes(self.source.dtype)

    @property
    def target_elements(self) -> int:
        """Elements of a word of the target, as it lies in memory."""
        return WORD_BYTES // item_bytes(self.target.dtype)

    @property
    def ends_in_halfs(self) -> bool:
        """Whether a thread's sums stay halfs to the end: begun with the bias, the residual added, clamped."""
        return self.half and self.tile.slices == 1 and self.activation in ("", "relu", "saturate")

    @property
    def word_elements(self) -> int:
        """Elements of a word of shared memory, and of a register."""
        return WORD_BYTES // item_bytes(self.arithmetic or self.source.dtype)

    @property
    def padded_inputs(self) -> int:
        """Rows of a kernel position, a multiple of what a step takes."""
        return ceil_div(self.inputs, self.tile.rows) * self.tile.rows

    @property
    def padded_outputs(self) -> int:
        """Columns of the packed weights of a group."""
        return ceil_div(self.outputs, self.tile.channels) * self.tile.channels

    @property
    def positions(self) -> int:
        """Of the kernel."""
        return self.window.positions if self.window else 1

    @property
    def steps(self) -> int:
        """Of the main loop."""
        return self.positions * self.padded_inputs // self.tile.rows

    @property
    def parallel(self) -> Grid:
        """Pixels, output channels, groups."""
        blocks = (ceil_div(self.pixels, self.tile.pixels), ceil_div(self.outputs, self.tile.channels), self.groups)
        return Grid(blocks, (self.tile.threads, 1, 1))

    @property
    def tile_words(self) -> int:
        """Shared memory of both operands' tiles, twice."""
        return 2 * self.tile.rows * (self.tile.pixels + self.tile.channels) // self.word_elements

    @property
    def pieces(self) -> int:
        """Rounds in which the slices' sums meet: so many that they need no more memory than the tiles, or 16 KiB."""
        tile, pieces = self.tile, 1
        room = max(self.tile_words * WORD_BYTES, _LEAST_SUM_BYTES)
        while tile.slices * tile.channels * tile.pixels * WORD_BYTES // pieces > room and pieces < tile.thread_channels:
            pieces *= 2
        return pieces if tile.slices > 1 else 1

    @property
    def shared_words(self) -> int:
        """Shared memory of a block."""
        tile = self.tile
        sums = tile.slices * tile.channels * tile.pixels // self.pieces if tile.slices > 1 else 0
        return max(self.tile_words, sums)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        read, written = (word_type(elements) for elements in (self.source_elements, self.target_elements))
        gathered = "uint16" if self.source_elements == 2 and self.window else read
        return (
            Argument("source", "input", gathered),
            Argument("weights", "weights", read),
            Argument("bias", "weights"),
            Argument("target", "output", written),
            *((Argument("cache", "cache", gathered),) if self.shift else ()),
            *((Argument("residual", "input", written),) if self.residual else ()),
            *((Argument("tap", "next_cache", written),) if self.tap else ()),
        )

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.pixels * self.target.channels * self.inputs * self.positions

    @property
    def warp_slots(self) -> float:
        """Multiply-adds, operands on their way, sums and what a warp does before its loop."""
        sums = self.tile.thread_channels * self.tile.thread_pixels
        products = self.tile.depth * sums / self.word_elements
        step = products * _SLOTS_MULTIPLY + self._load_slots
        return self.steps * step + _SLOTS_SUM * sums + _SLOTS_START

    @property
    def _load_slots(self) -> float:
        """Issue slots of a thread that bring a step's operands."""
        tile, per_word = self.tile, self.word_elements
        vector = 0 if self.half else _SLOTS_VECTOR
        weights = vector * ceil_div(tile.rows * tile.channels // per_word, 4 * tile.threads)
        words = tile.rows * tile.pixels // per_word
        if self.window is None:
            return weights + vector * ceil_div(words, 4 * tile.threads)
        position = _SLOTS_TWO_POSITIONS if self.half and self.positions > 1 else _SLOTS_POSITION
        return weights + _SLOTS_GATHERED * per_word * ceil_div(words, tile.threads) + position

    @property
    def bytes(self) -> int:
        """Images and weights, each moved once."""
        weights = self.inputs * self.target.channels * self.positions * item_bytes(self.source.dtype)
        images = self.source.value_bytes + self.target.value_bytes * (2 if self.residual else 1)
        tapped = self.tap * self.pixels * item_bytes(self.target.dtype)
        return images + weights + WORD_BYTES * self.target.channels + tapped

    def describe(self) -> str:
        """The tile."""
        return str(self.tile)

    def write(self, name: str) -> object:
        """See :func:`tsm_edge.compile.backends.cuda.kernels.gemm.gemm`."""
        from tsm_edge.compile.backends.cuda.kernels.gemm import gemm

        return gemm(name, self)
