"""Tile sizes from the numbers of a card."""

from __future__ import annotations

import dataclasses

import pytest

from tsm_edge.cards import load_target
from tsm_edge.compile.backends.cpu.choose.tiles import (
    GemmTile,
    depthwise_tile,
    gemm_tile,
    k_block,
    run_of_tiles,
    worth_pairing,
)
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.int8.instructions import instructions_of
from tsm_edge.compile.backends.cpu.int8.tiles import register_tile

LINE_ELEMENTS = 16
CPU = dataclasses.replace(load_target("x86-64-v4").cpu, l1d_kib=48, l2_kib=2048, cores=2)
TILE = GemmTile(7, 2, 0, panels=5, block=1, panels_outside=True, cycles=0.0)


@pytest.mark.parametrize(
    ("positions", "channels", "expected"),
    [
        pytest.param(1, 384, 0, id="48 KiB of weights stay in L1"),
        pytest.param(1, 960, 192, id="24 KiB a block"),
        pytest.param(1, 1000, 176, id="blocks of about the same size, whole cache lines"),
        pytest.param(9, 512, 128, id="as many blocks for every kernel position"),
        pytest.param(9, 320, 160, id="the largest even part"),
        pytest.param(9, 100, 0, id="channels that are not whole cache lines, and kernel positions"),
    ],
)
def test_a_block_of_weights_fills_half_of_l1(positions: int, channels: int, expected: int) -> None:
    assert k_block(Core(CPU, "float32"), TILE, positions, channels) == expected


@pytest.mark.parametrize("channels", range(16, 2049, 112))
@pytest.mark.parametrize("l1d_kib", [1, 16, 32, 48])
def test_blocks_are_whole_lines_and_more_than_one(channels: int, l1d_kib: int) -> None:
    size = k_block(Core(dataclasses.replace(CPU, l1d_kib=l1d_kib), "float32"), TILE, 1, channels)
    assert size % LINE_ELEMENTS == 0
    assert size == 0 or LINE_ELEMENTS <= size < channels


@pytest.mark.parametrize(("tiles", "expected"), [(1, 1), (7, 7), (8, 8), (9, 5), (14, 7), (49, 7), (224, 8)])
def test_tiles_are_shared_out_evenly_over_runs(tiles: int, expected: int) -> None:
    assert run_of_tiles(tiles) == expected


@pytest.mark.parametrize("board", ["x86-64-v3", "raspberry-pi-4", "raspberry-pi-3-32bit"])
def test_the_sums_of_a_register_tile_fit_the_registers(board: str) -> None:
    cpu = load_target(board).cpu
    for pixels, reduction, channels in ((3136, 24, 144), (49, 960, 160), (1, 1280, 27)):
        tile = gemm_tile(Core(cpu, "float32"), 1, pixels, reduction, channels)
        assert tile.rows * tile.vectors < cpu.vector_registers
        assert tile.panels == -(-channels // (tile.vectors * cpu.vector_lanes))


@pytest.mark.parametrize(
    ("board", "columns", "channels", "expected"),
    [
        pytest.param("x86-64-v4", 56, 24, True, id="half of the last vector is empty"),
        pytest.param("x86-64-v4", 56, 26, False, id="less than half is empty"),
        pytest.param("x86-64-v4", 56, 32, False, id="vectors are full"),
        pytest.param("x86-64-v4", 57, 24, False, id="a pixel has no neighbour"),
        pytest.param("x86-64-v3", 56, 24, False, id="three full vectors of 8"),
        pytest.param("x86-64-v3", 56, 20, True, id="half of the last vector of 8"),
        pytest.param("raspberry-pi-4", 56, 2, False, id="no such load on Arm"),
    ],
)
def test_pixels_share_vectors_that_would_be_half_empty(board: str, columns: int, channels: int, expected: bool) -> None:
    assert worth_pairing(Core(load_target(board).cpu, "float32"), 56, columns, 144, channels) is expected


@pytest.mark.parametrize("board", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("channels", [4, 12, 20, 24, 36, 40, 72, 88, 104, 120, 136])
def test_pairs_of_pixels_are_tiled_in_whole_pairs(board: str, channels: int) -> None:
    cpu = load_target(board).cpu
    for columns in (2, 14, 28, 56, 112):
        tile = gemm_tile(Core(cpu, "float32"), columns, columns, 96, channels, paired=True)
        assert tile.rows % 2 == 0
        assert tile.rows <= columns
        assert tile.panels == 1 or tile.vectors % 2 == 0, "a panel begins within a vector of a pixel's channels"
        assert depthwise_tile(Core(cpu, "float32"), 1, columns, 96, (3, 3), (1, 1), paired=True).columns % 2 == 0


@pytest.mark.parametrize("target", ["x86-64-v3-vnni", "x86-64-v4-vnni"])
@pytest.mark.parametrize("side", [56, 28, 14, 7])
@pytest.mark.parametrize("channels", [64, 256, 2048])
def test_sums_on_levels_are_enough_for_the_latency(target: str, side: int, channels: int) -> None:
    """A tile of 2 × 2 sums in 14 columns wastes no pixel, and took twice as long: the dot products waited."""
    cpu = load_target(target).cpu
    instructions = instructions_of(cpu, target)
    vectors = channels // cpu.vector_lanes
    rows, across = register_tile(instructions, side, side, vectors, False, 576, cpu.l1d_kib * 1024)
    assert rows * across >= 5 * cpu.fma_per_cycle
