"""Register tile and work split of a convolution on levels, from a target card's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions
from tsm_edge.compile.ir.element import ceil_div

MOST_VECTORS, MOST_ROWS = 6, 16
# Below this many items a kernel cannot be balanced over 8 threads.
MIN_ITEMS = 48
FEW_TILES = 8
# A panel's tiles done in a row, where its pixels are to stay in cache.
TILES_TOGETHER = 8
# What a tile's loads cost beside its dot products, and narrow stores beside packed ones (measured on Sapphire Rapids;
# modelled by llvm-mca for Cortex-A76).
LOADS_COST, NARROW_COST, NARROW_COST_ARM = 0.25, 1.02, 1.05
# A panel this much larger than the L1 cache is read from L2 for every tile: its loads cost so much more.
LARGE_PANEL, LARGE_PANEL_COST = 1.25, 3.0


def register_tile(
    instructions: Instructions,
    height: int,
    width: int,
    vectors: int,
    in_quads: bool,
    steps: int = 0,
    l1_bytes: int = 0,
) -> tuple[int, int]:
    """Pixels and vectors of output channels whose sums stay in registers.

    Parameters
    ----------
    instructions : Instructions
    height, width : int
        Of the result; a tile stays within a row.
    vectors : int
        Of output channels.
    in_quads : bool
        Tiles are whole quads of columns.
    steps : int
        Of the k loop.
    l1_bytes : int
        The L1 cache; 0: all panels fit.
    """
    tiles = register_tiles(instructions, height, width, vectors, in_quads, steps, l1_bytes)
    best = min(tiles, key=lambda tile: tile[0], default=None)
    if best is None:
        raise ValueError("no register tile fits: a quad of one vector must always do")
    return best[1], best[2]


def register_tiles(
    instructions: Instructions,
    height: int,
    width: int,
    vectors: int,
    in_quads: bool,
    steps: int = 0,
    l1_bytes: int = 0,
) -> Iterator[tuple[float, int, int]]:
    """All register tiles, with their modelled cost before them; parameters as of :func:`register_tile`."""
    columns = ceil_div(width, 4) * 4 if in_quads else width
    for across in range(1, min(MOST_VECTORS, vectors) + 1):
        for rows in range(4 if in_quads else 1, min(MOST_ROWS, columns) + 1, 4 if in_quads else 1):
            if not _fits(instructions, rows, across):
                continue
            large = l1_bytes and steps * across * instructions.vector_bytes > LARGE_PANEL * l1_bytes
            weights = LARGE_PANEL_COST if large else 1.0
            cost = height * ceil_div(columns, rows) * _cost(instructions, rows, across, vectors, in_quads, weights)
            yield cost, rows, across


def _fits(instructions: Instructions, rows: int, vectors: int) -> bool:
    """Sums, a step's weights and pixels stay in registers; without dot products, their products too."""
    sums, registers = rows * vectors, instructions.registers
    if instructions.kind == "sdot":
        return sums + vectors + rows <= registers - 1
    if instructions.kind == "mlal":
        return sums + 2 * vectors + rows + 3 <= registers
    return sums + vectors + 1 <= registers


def _cost(instructions: Instructions, rows: int, across: int, vectors: int, in_quads: bool, weights: float) -> float:
    """Of a tile of every panel, in dot products a step; ``weights``: of a load of weights, in loads of pixels."""
    full, tail = divmod(vectors, across)
    parts, waits = [across] * full + [tail] * bool(tail), instructions.under_way
    cost = float(sum(max(rows * part, rows + part, waits) for part in parts))
    if not in_quads and across % 4:
        cost *= NARROW_COST_ARM if instructions.arm else NARROW_COST
    return cost * (1 + LOADS_COST * (rows + weights * across) / (rows * across))


def work_split(
    core: Core, tiles: int, panels: int, source_bytes: int, panel_bytes: int, weights: int
) -> tuple[int, bool]:
    """Register tiles of an item, and whether all items of a panel come before the next panel (see ``GemmTile``)."""
    outside = (
        panels == 1
        or source_bytes <= core.l1_bytes
        or tiles <= FEW_TILES
        or weights > core.l2_bytes
        or (panel_bytes > core.l1_bytes // 2 and source_bytes < core.l2_bytes // 2)
    )
    if outside:
        return max(1, math.ceil(tiles / max(1, math.ceil(MIN_ITEMS / panels)))), True
    return max(1, min(TILES_TOGETHER, math.ceil(tiles * panels / MIN_ITEMS))), False
