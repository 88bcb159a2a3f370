"""Tile sizes from the numbers of a target card: no search, no measurements.

A register tile of ``rows`` pixels × ``vectors`` output-channel vectors costs, for each step of the reduction,
``rows · vectors`` multiply-adds and ``rows + vectors`` loads. The best tile is the largest that fits the register
file, weighed against what it wastes at the edges of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tsm_edge.compile.backends.cpu.core import Core

MAX_TILE_VECTORS = 6
MAX_TILE_ROWS = 16
# Below this many items a kernel cannot be balanced over 8 threads.
MIN_ITEMS = 48
# A panel read for no more register tiles than this costs as much to fetch as to use: then each thread should fetch
# its own panels, and not all of them.
FEW_TILES = 8
# A block may leave the last one this much shorter, of all tiles: the threads' shares are counted in whole blocks.
MAX_UNEVEN = 0.04
BLOCK_COUNTS_TRIED = 8
LOOP_OVERHEAD_CYCLES = 12.0
# A block of the k loop has its weights in L1 beside those of the next, which are on their way, and a tile's pixels.
BLOCK_L1_SHARE = 0.5
LONGEST_RUN = 8


@dataclass(frozen=True)
class GemmTile:
    """Register tile and work split of a convolution.

    Attributes
    ----------
    rows : int
        Output pixels of a register tile.
    vectors : int
        Output-channel vectors of a register tile (of a full panel).
    tail_vectors : int
        Vectors of the last, narrower panel; 0: all panels are full.
    panels : int
        Panels, the narrower one included.
    block : int
        Register tiles of one panel done in a row: one work item. Where the k loop has blocks, the tiles that share
        their weights; then each of them is an item.
    panels_outside : bool
        Order of the items: all blocks of a panel (its weights stay in cache) before the next panel, or all panels
        of a block (its pixels stay in cache) before the next block. The second gives each thread a run of pixels,
        which it finds in its own caches if it made them in the layer before.
    cycles : float
        Modelled core cycles for the layer on one core, loads from cache included, memory traffic not.
    """

    rows: int
    vectors: int
    tail_vectors: int
    panels: int
    block: int
    panels_outside: bool
    cycles: float = field(default=0.0, compare=False)

    def describe(self, lanes: int) -> str:
        """Pixels × output channels, for people."""
        tail = f" (last {self.tail_vectors * lanes})" if self.tail_vectors and self.panels > 1 else ""
        vectors = self.vectors if self.panels > 1 or not self.tail_vectors else self.tail_vectors
        return f"{self.rows}×{vectors * lanes}{tail}"


def gemm_tile(
    core: Core,
    image_rows: int,
    image_columns: int,
    reduction: int,
    channels: int,
    even: bool = False,
    paired: bool = False,
) -> GemmTile:
    """Choose the register tile of a convolution.

    Parameters
    ----------
    core : Core
    image_rows, image_columns : int
        Output size; a register tile stays within an image row (a 1×1 convolution is one long row).
    reduction : int
        Multiply-adds an output: input channels × kernel height × kernel width.
    channels : int
        Output channels.
    even : bool
        All panels must be equally wide.
    paired : bool
        Two neighbouring pixels share a vector, with half of the channels each; then columns must be even.
    """
    tiles = gemm_tiles(core, image_rows, image_columns, reduction, channels, even, paired)
    return min(tiles, key=lambda tile: tile.cycles)


def gemm_tiles(
    core: Core,
    image_rows: int,
    image_columns: int,
    reduction: int,
    channels: int,
    even: bool = False,
    paired: bool = False,
) -> Iterator[GemmTile]:
    """All register tiles that a convolution can have, at least one; parameters as of :func:`gemm_tile`."""
    together = 2 if paired else 1  # to the k loop, a pair is a pixel with twice as many channels
    columns, total = image_columns // together, math.ceil(together * channels / core.lanes)
    for vectors in range(1, min(MAX_TILE_VECTORS, total) + 1):
        # Panels begin with whole vectors of a pixel's channels.
        if (even and total % vectors) or (vectors % together and vectors < total):
            continue
        for rows in range(1, min(MAX_TILE_ROWS, columns) + 1):
            if _fits(core, rows, vectors):
                tile = _modelled(core, rows, vectors, image_rows, columns, reduction, total)
                yield replace(tile, rows=together * rows)


def worth_pairing(core: Core, image_rows: int, image_columns: int, reduction: int, channels: int) -> bool:
    """Whether a pointwise convolution is faster with pixels that share a vector in pairs.

    It is where the last vector of channels would be half empty or more, and the k loop is long enough to pay for a
    shuffle of every vector that the layer before stores.
    """
    vacant = -channels % core.lanes
    if not k_loop(core).pairs or image_columns % 2 or vacant < core.lanes // 2:
        return False
    layer = (core, image_rows, image_columns, reduction, channels)
    shuffles = image_rows * image_columns * math.ceil(reduction / core.lanes)
    return gemm_tile(*layer, paired=True).cycles + shuffles < gemm_tile(*layer).cycles


def _fits(core: Core, rows: int, vectors: int) -> bool:
    """Accumulators, one step's weights and one broadcast value stay in registers.

    What LLVM takes beyond that was read off its code (tests/compile/test_assembly.py): 32-bit Arm has no multiply-add
    by element, so several broadcast values are alive and each pixel needs a pointer; for in-order cores it loads ahead.
    """
    if _loads_run_short(core):
        return rows * vectors <= 10 and rows <= 7
    if k_loop(core).pixel_lanes > 1:  # a vector of every pixel instead of the one value
        return rows * vectors + vectors + rows <= core.cpu.vector_registers - (4 if core.cpu.in_order else 1)
    return rows * vectors + vectors + 1 <= core.cpu.vector_registers


@dataclass(frozen=True)
class KLoop:
    """How the k loop reads pixels on a CPU.

    Attributes
    ----------
    pixel_lanes : int
        Values of a pixel loaded at once; more than 1 where multiply-adds can take one lane of a vector.
    steps : int
        k steps written out in a turn, where values are loaded one at a time.
    folds : bool
        Multiply-adds can broadcast a value from memory by themselves: that saves an instruction, at another load.
    pairs : bool
        A load can repeat two neighbouring values over a vector.
    """

    pixel_lanes: int = 1
    steps: int = 1
    folds: bool = False
    pairs: bool = False


def k_loop(core: Core) -> KLoop:
    """How the k loop is best written for a CPU.

    x86 issues as many instructions as the multiply-adds leave room for, and half as many where another thread runs on
    the same core: there, each one saved counts. On 32-bit Arm a longer turn would not find registers.
    """
    if core.can("multiply-by-lane"):
        return KLoop(pixel_lanes=core.lanes)
    if not core.can("memory-operands"):
        return KLoop()
    return KLoop(steps=4, folds=core.can("broadcast-operands"), pairs=core.can("broadcast-pairs"))


def k_block(core: Core, tile: GemmTile, positions: int, channels: int) -> int:
    """Input channels of a block of the k loop, so that the weights of one are in L1 for several register tiles.

    0: no blocks. A panel's weights stay in L1 as they are, or, where kernel positions follow each other, their
    channels cannot be parted evenly.
    """
    room, each = core.l1_bytes, core.bytes(tile.vectors * core.lanes)
    if each * positions * channels <= room:
        return 0
    most = max(1, int(room * BLOCK_L1_SHARE) // (each * core.line))
    lines, rest = divmod(channels, core.line)
    if positions == 1:
        blocks = math.ceil(channels / (most * core.line))
        return math.ceil(channels / blocks / core.line) * core.line if blocks > 1 else 0
    if rest:
        return 0
    return core.line * max(count for count in range(1, most + 1) if lines % count == 0)


def run_of_tiles(tiles: int) -> int:
    """Register tiles that share the weights of a block of the k loop: about as many in every run."""
    return math.ceil(tiles / math.ceil(tiles / LONGEST_RUN))


def _loads_run_short(core: Core) -> bool:
    """Whether every value passes through a register of its own and LLVM loads far ahead: 32-bit Arm."""
    return not core.can("multiply-by-lane") and not core.can("memory-operands")


def _modelled(
    core: Core, rows: int, vectors: int, image_rows: int, image_columns: int, reduction: int, total: int
) -> GemmTile:
    tiles = image_rows * math.ceil(image_columns / rows)
    full, tail = divmod(total, vectors)
    cycles = full * _tile_cycles(core, rows, vectors, reduction)
    cycles += _tile_cycles(core, rows, tail, reduction) if tail else 0.0
    panels = full + (1 if tail else 0)
    block = _block(core, tiles, panels, rows, reduction)
    weights = core.bytes(reduction * total * core.lanes)
    panels_outside = tiles <= FEW_TILES or weights > core.l2_bytes
    return GemmTile(rows, vectors, tail, panels, block, panels_outside, tiles * cycles)


def _tile_cycles(core: Core, rows: int, vectors: int, reduction: int) -> float:
    """Cycles of one register tile: the busier of the multiply-add and load pipes, or the multiply-add latency."""
    latency = 4.0
    arithmetic = rows * vectors / core.cpu.fma_per_cycle
    # Cores that issue two multiply-adds a cycle also load twice: x86 since Haswell, Cortex-A76; those before once.
    loads = (rows / k_loop(core).pixel_lanes + vectors) / max(1.0, core.cpu.fma_per_cycle)
    step = arithmetic + loads if core.cpu.in_order else max(arithmetic, loads, latency)
    return reduction * step + rows * vectors * 2.0 + LOOP_OVERHEAD_CYCLES


def _block(core: Core, tiles: int, panels: int, rows: int, reduction: int) -> int:
    """Tiles an item: their pixels fit in L1 with the panel streaming past, and there are items for every thread."""
    most = max(1, tiles * panels // MIN_ITEMS)
    fit = max(1, core.l1_bytes // 2 // core.bytes(rows * max(reduction, 1)))
    wanted = max(1, min(most, fit, 16))
    even = (block for block in range(wanted, 0, -1) if -tiles % block <= MAX_UNEVEN * tiles)
    return next(even)


@dataclass(frozen=True)
class WinogradTile:
    """Work split of a Winograd convolution.

    Attributes
    ----------
    outputs : int
        m of F(m×m, 3×3).
    block : int
        Tiles transformed together.
    product : GemmTile
        Register tile of one position's matrix product over a block.
    cycles : float
        Modelled core cycles of the layer on one core, memory traffic not included.
    weight_bytes : float
        Transformed weights that come from beyond the L2 cache, re-reading included.
    """

    outputs: int
    block: int
    product: GemmTile
    cycles: float = field(default=0.0, compare=False)
    weight_bytes: float = field(default=0.0, compare=False)


def winograd_tile(
    core: Core, height: int, width: int, in_channels: int, out_channels: int, outputs: int, frames: int = 1
) -> WinogradTile | None:
    """Choose the tiles of F(``outputs``×``outputs``, 3×3); None: not even one tile fits the L2 cache."""
    tiles = winograd_tiles(core, height, width, in_channels, out_channels, outputs, frames)
    return min(tiles, key=lambda tile: (tile.weight_bytes, tile.cycles), default=None)


def winograd_tiles(
    core: Core, height: int, width: int, in_channels: int, out_channels: int, outputs: int, frames: int = 1
) -> Iterator[WinogradTile]:
    """The splits of F(``outputs``×``outputs``, 3×3) worth a thought: the largest blocks first."""
    positions = (outputs + 2) ** 2
    tiles = frames * math.ceil(height / outputs) * math.ceil(width / outputs)
    room = core.own_l2_bytes * 0.625
    # A block is there once for every position and input channel; the products of a panel, two vectors or so, beside it.
    most = int(room // core.bytes(positions * (in_channels + 2 * core.lanes)))
    if most < 1:
        return
    weights = float(core.bytes(positions * in_channels * out_channels))
    vectors = math.ceil(in_channels / core.lanes), math.ceil(out_channels / core.lanes)
    # In vectors: loads and stores of both transforms, and their additions, two a cycle.
    transforms = positions * (vectors[0] * 4 + vectors[1] * 3.5) / 2
    fewest = math.ceil(tiles / most)
    for blocks in range(fewest, min(fewest + BLOCK_COUNTS_TRIED, tiles + 1)):
        block = math.ceil(tiles / blocks)
        product = gemm_tile(core, 1, block, in_channels, out_channels, even=True)
        cycles = blocks * (positions * product.cycles + block * transforms)
        far = weights * (blocks if weights > room else 1)
        yield WinogradTile(outputs, block, replace(product, panels_outside=blocks == 1), cycles, far)


@dataclass(frozen=True)
class DepthwiseTile:
    """Tile of a depthwise convolution: some outputs × one vector of channels in registers.

    Attributes
    ----------
    rows, columns : int
        Output rows and columns computed together; the last run of rows is moved back to end with the image.
    vectors : int
        Channel vectors of one work item.
    chunks : int
        Work items a run of rows.
    """

    rows: int
    columns: int
    vectors: int
    chunks: int

    def describe(self, lanes: int) -> str:
        """Output rows, if more than one, × columns × channels, for people."""
        return f"{self.rows}×{self.columns}×{lanes}" if self.rows > 1 else f"{self.columns}×{lanes}"


def depthwise_tile(
    core: Core,
    rows: int,
    columns: int,
    channels: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    paired: bool = False,
    frames: int = 1,
) -> DepthwiseTile:
    """Choose the tile of a depthwise convolution over ``rows`` × ``columns`` outputs; ``paired``: even columns only."""
    total = math.ceil(channels / core.lanes)
    # Two rows share the input rows between them, if there are any and their accumulators fit beside the weights.
    together = 2 if rows > 1 and kernel[0] > strides[0] == 1 and core.cpu.vector_registers == 32 else 1
    weights = kernel[1] * min(together, kernel[0])
    most = max(1, min(14, columns, (core.cpu.vector_registers - weights - 2) // together))
    if _loads_run_short(core):
        most = min(most, 2)  # LLVM loads so far ahead that more accumulators go to the stack
    widths = range(2, max(2, most) + 1, 2) if paired else range(1, most + 1)
    best = min(widths, key=lambda width: (math.ceil(columns / width) * (width + 2.0), -width))
    runs = frames * math.ceil(rows / together)
    chunks = 1
    while runs * chunks < MIN_ITEMS and chunks * 2 <= total:
        chunks *= 2
    vectors = math.ceil(total / chunks)
    return DepthwiseTile(together, best, vectors, math.ceil(total / vectors))
