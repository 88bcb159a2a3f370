"""The tile of a depthwise convolution: the one that is taken, and what a tuner tries instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.cycles import elapsed, modelled_cycles
from tsm_edge.compile.backends.cuda.choose.occupancy import resident_blocks
from tsm_edge.compile.backends.cuda.choose.ranking import best_first
from tsm_edge.compile.backends.cuda.kernels.depthwise import DepthwiseSpec, DepthwiseTile
from tsm_edge.compile.ir.element import WORD_BYTES, ceil_div, item_bytes
from tsm_edge.compile.ir.layout import GPU_VECTOR_BYTES, Image

_SHARED_BYTES = 12_544  # of a block with whole planes: five of them fit a multiprocessor
MOST_THREADS = 256
_BAND_PLANES = 2
# What a tuner tries.
_RUNS, _MOST_ROWS, _THREADS_DOWN, _PLANES = (4, 2, 1), 8, (1, 2, 4), (1, 2, 4, 8, 16, 32)
_MOST_OTHERS = 16
# Issue slots: a vector on its way to shared memory (halfs become floats), a window's pixel, a multiply-add, a row of
# outputs, and a warp at its start. But for the first two those of a fused kernel's depthwise half.
_SLOTS_VECTOR, _SLOTS_HALF_VECTOR = 4, 16
_SLOTS_PIXEL, _SLOTS_MULTIPLY, _SLOTS_OUTPUT_ROW, _SLOTS_START = 1.5, 1.1, 10, 260
# Registers of a thread beside its window, its weights and its sums.
_OTHER_REGISTERS = 24


def depthwise_tile(
    gpu: GpuSpec, source: Image, target: Image, size: tuple[int, int], strides: tuple[int, int]
) -> DepthwiseTile:
    """The tile: few blocks of whole planes where planes are small, bands of large ones."""
    run = next(run for run in (4, 2, 1) if target.width % run == 0)
    rows = 4 if strides[0] > 1 and target.height >= 28 else 7
    rows = min(rows, target.height)
    items = (target.width // run) * ceil_div(target.height, rows)
    plane_bytes = WORD_BYTES * source.height * source.width
    if (plane_bytes > _SHARED_BYTES or items > MOST_THREADS) and source.width % _vector(source) == 0:
        bands = 1 if strides[0] > 1 else 2
        row_threads = target.width // run
        planes = max(1, min(_BAND_PLANES, target.channels, MOST_THREADS // (row_threads * bands)))
        return DepthwiseTile(run, rows, planes, rows * bands)
    share = ceil_div(target.channels, gpu.multiprocessors)
    planes = max(1, min(_SHARED_BYTES // plane_bytes, MOST_THREADS // items, 32, share))
    return DepthwiseTile(run, rows, planes, ceil_div(target.height, rows) * rows)


def is_legal(gpu: GpuSpec, spec: DepthwiseSpec) -> bool:
    """Whether a tile is one that the kernel can be written for, and a block of it fits the GPU."""
    tile, width = spec.tile, spec.target.width
    if min(tile.run, tile.rows, tile.planes, tile.band) < 1 or width % tile.run or tile.band % tile.rows:
        return False
    if tile.rows > spec.target.height or tile.planes > spec.target.channels:
        return False
    if spec.bands > 1 and spec.source.width % _vector(spec.source):
        return False  # a band would begin within a vector
    return spec.shared_bytes <= gpu.shared_kib * 1024 and spec.parallel.threads[0] <= MOST_THREADS


def other_tiles(gpu: GpuSpec, spec: DepthwiseSpec) -> Iterator[DepthwiseTile]:
    """The best tiles by the model, best first; the one that is taken may be among them."""
    legal = [tile for tile in _candidates(spec) if is_legal(gpu, replace(spec, tile=tile))]
    yield from best_first(legal, lambda tile: microseconds(gpu, replace(spec, tile=tile)))[:_MOST_OTHERS]


def microseconds(gpu: GpuSpec, spec: DepthwiseSpec) -> float:
    """How long it takes, with its launch; registers are estimated: a model that orders tiles."""
    (rows, columns), (down, across), tile = spec.size, spec.strides, spec.tile
    width = (tile.run - 1) * across + columns
    threads = spec.parallel.threads[0]
    vectors = ceil_div(tile.planes * spec.pitch, _vector(spec.source) * threads)
    staged = vectors * (_SLOTS_HALF_VECTOR if item_bytes(spec.source.dtype) == 2 else _SLOTS_VECTOR)
    window = ((tile.rows - 1) * down + rows) * width
    outputs = tile.rows * (tile.run * rows * columns * _SLOTS_MULTIPLY + _SLOTS_OUTPUT_ROW)
    slots = staged + window * _SLOTS_PIXEL + outputs + _SLOTS_START
    registers = rows * width + spec.weight_row + tile.run + _OTHER_REGISTERS
    resident = resident_blocks(gpu, registers, spec.shared_bytes, threads)
    read_again = spec.source.value_bytes * (spec.bands * spec.band_rows / spec.source.height - 1.0)
    return elapsed(gpu, modelled_cycles(gpu, spec.parallel, slots, resident), spec.bytes + int(read_again))


def _candidates(spec: DepthwiseSpec) -> Iterator[DepthwiseTile]:
    height = spec.target.height
    for run in _RUNS:
        for rows in range(1, min(_MOST_ROWS, height) + 1):
            whole = ceil_div(height, rows) * rows
            for band in dict.fromkeys((whole, *(rows * down for down in _THREADS_DOWN if rows * down < whole))):
                for planes in _PLANES:
                    yield DepthwiseTile(run, rows, planes, band)


def _vector(image: Image) -> int:
    """Elements of the widest load."""
    return GPU_VECTOR_BYTES // item_bytes(image.dtype)
