"""The tile of a matrix product, by the card's numbers alone: every candidate's time is modelled, the least wins."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.cycles import elapsed, kernel_cycles
from tsm_edge.compile.backends.cuda.choose.large import LEAST_THREADS, is_large
from tsm_edge.compile.backends.cuda.choose.occupancy import resident_blocks
from tsm_edge.compile.backends.cuda.choose.ranking import best_first
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile
from tsm_edge.compile.ir.element import WORD_BYTES
from tsm_edge.errors import CompileError

_CHANNELS = (8, 16, 24, 32, 40, 48, 64, 72, 80, 96, 128, 160)
_PIXELS = (8, 16, 28, 32, 40, 52, 56, 64, 100, 104, 112, 128, 200, 256)
_SLICES: tuple[int, ...] = (1, 2, 3, 4, 6, 8)
# Channels × pixels of a thread → registers that ptxas takes for it; one more block fits where it takes fewer.
_REGISTERS = {(8, 8): 136, (8, 4): 88, (4, 8): 88}
_REGISTERS_HALF = {(8, 8): 96}
# On a large GPU: more slices, and smaller sums of a thread, so that more of its threads take part.
_MORE_SLICES = (12, 16, 24)
_REGISTERS_SMALL = {(4, 4): 64}
_REGISTERS_HALF_SMALL = {(8, 4): 80, (4, 8): 80, (4, 4): 64}
# Sums of halfs that go to a total now and then need registers for both.
_REGISTERS_FLUSHED = {(8, 8): 128}
_MOST_THREADS = 256
# Products that are summed in halfs, of a slice: their sums meet in fp32.
MOST_HALF_PRODUCTS = 256
# Slices that a reduction of halfs may be parted into without harm to the rest of the tile.
_SLICES_OF_HALFS = 4
# Channels, pixels, slices for which ptxas 11.8 spills a few registers, whatever it may use: gathered, or of halfs.
_SPILLING = {(128, 28, 2)}
_SPILLING_HALFS = {(128, 32, 4)}
_MOST_SHARED_BYTES = 40_000
# A short reduction gains nothing from a last step of its own.
_SHORT_REDUCTION = 64
# Of a product a tuner tries so many tiles, and of the best few variations, among them these rows between two barriers.
_MOST_OTHERS, _VARIED = 16, 3
_DEPTHS = (4, 8, 16)
# More for the addresses of a gathered convolution, and for a residual.
_EXTRA_REGISTERS = 8


def flush_of(products: int) -> int:
    """Products of halfs that are summed before the sum goes to a total, of a reduction; 0: all of them.

    Sums of halfs are short: where slices cannot make them so, they go to a total on the way.
    """
    return 0 if products <= MOST_HALF_PRODUCTS * _SLICES_OF_HALFS else MOST_HALF_PRODUCTS


def gemm_tile(gpu: GpuSpec, spec: GemmSpec) -> GemmTile:
    """The tile for a matrix product; ``spec``'s own is a placeholder.

    Raises
    ------
    CompileError
        None fits the GPU.
    """
    # What decides is in fewer fields than the spec has.
    plain = replace(spec, activation="", low=0.0, high=0.0, tap=0)
    return _best(gpu, plain)


@functools.lru_cache(maxsize=4096)
def _best(gpu: GpuSpec, spec: GemmSpec) -> GemmTile:
    ranked = _ranked(gpu, spec, _candidates(gpu, spec))
    if not ranked:
        raise CompileError(
            f"no tile of a convolution fits {gpu.arch}", "correct registers and shared_kib of the target card"
        )
    return ranked[0]


def other_tiles(gpu: GpuSpec, spec: GemmSpec) -> Iterator[GemmTile]:
    """The best tiles by the model, best first: what a tuner tries; the one that is taken may be among them.

    With them the best for every other split of the reduction. Of the very best there are more: with more or fewer rows
    between two barriers, and with the last step in the loop.
    """
    ranked = _ranked(gpu, spec, _candidates(gpu, spec))
    best = ranked[:_MOST_OTHERS]
    splits = {tile.slices: tile for tile in reversed(ranked)}
    varied = [one for tile in best[:_VARIED] for one in _variations(tile) if _fits(replace(spec, tile=one))]
    yield from _ranked(gpu, spec, (*best, *splits.values(), *varied))


def is_legal(spec: GemmSpec) -> bool:
    """Whether a tile is one that the kernel can be written for. How many registers it takes ptxas alone knows."""
    tile = spec.tile
    sums = (tile.thread_channels, tile.thread_pixels)
    if sums not in _register_table(spec) | _small_register_table(spec) or tile.depth not in _DEPTHS:
        return False
    if min(tile.channels, tile.pixels, tile.slices) < 1:
        return False
    return not (tile.channels % tile.thread_channels or tile.pixels % tile.thread_pixels) and _fits(spec)


def _ranked(gpu: GpuSpec, spec: GemmSpec, tiles: Iterable[GemmTile]) -> list[GemmTile]:
    """Those that fit the GPU, the least time first."""
    return best_first(tiles, lambda tile: _cycles(gpu, replace(spec, tile=tile)))


def _variations(tile: GemmTile) -> Iterator[GemmTile]:
    yield from (replace(tile, depth=depth) for depth in _DEPTHS if depth != tile.depth)
    yield replace(tile, last_apart=not tile.last_apart)


def _candidates(gpu: GpuSpec, spec: GemmSpec) -> Iterator[GemmTile]:
    last_apart = spec.inputs * spec.positions > _SHORT_REDUCTION
    table, all_slices, least_threads = _register_table(spec), _SLICES, 1
    if is_large(gpu):
        table, all_slices = table | _small_register_table(spec), (*_SLICES, *_MORE_SLICES)
        least_threads = LEAST_THREADS
    for thread_channels, thread_pixels in table:
        for channels in _CHANNELS:
            if channels % thread_channels or channels - spec.outputs >= thread_channels:
                continue
            for pixels in _PIXELS:
                if pixels % thread_pixels:
                    continue
                for slices in all_slices:
                    tile = GemmTile(channels, pixels, thread_channels, thread_pixels, slices, last_apart=last_apart)
                    if tile.threads >= least_threads and _fits(replace(spec, tile=tile)):
                        yield tile


def _fits(spec: GemmSpec) -> bool:
    tile, per_word = spec.tile, spec.word_elements
    if tile.threads > _MOST_THREADS or spec.shared_words * WORD_BYTES > _MOST_SHARED_BYTES:
        return False
    kind = (tile.channels, tile.pixels, tile.slices)
    if (spec.window and kind in _SPILLING) or (spec.half and kind in _SPILLING_HALFS):
        return False
    if tile.channels // per_word % 4 or tile.pixels // per_word % 4:
        return False
    if spec.half and not spec.flush and spec.steps * tile.depth > MOST_HALF_PRODUCTS:
        return False
    if spec.window is None:
        return tile.slices == 1 or spec.inputs >= tile.rows
    columns = tile.pixels // per_word
    return tile.threads % columns == 0 and tile.rows % (tile.threads // columns) == 0


def _register_table(spec: GemmSpec) -> dict[tuple[int, int], int]:
    if not spec.half:
        return _REGISTERS
    return _REGISTERS_FLUSHED if spec.flush else _REGISTERS_HALF


def _small_register_table(spec: GemmSpec) -> dict[tuple[int, int], int]:
    if spec.flush:
        return {}
    return _REGISTERS_HALF_SMALL if spec.half else _REGISTERS_SMALL


def registers_of(spec: GemmSpec) -> int:
    """Registers that a thread will take, more or less."""
    table = _register_table(spec) | _small_register_table(spec)
    extra = _EXTRA_REGISTERS * ((spec.window is not None) + spec.residual)
    return table[spec.tile.thread_channels, spec.tile.thread_pixels] + extra


def most_registers(gpu: GpuSpec, threads: int) -> int:
    """Registers that ptxas gives a thread before it spills: it takes the block for the next power of two."""
    return min(255, gpu.registers // (1 << (threads - 1).bit_length()))


def _cycles(gpu: GpuSpec, spec: GemmSpec) -> float:
    registers = registers_of(spec)
    if registers > most_registers(gpu, spec.tile.threads):
        return float("inf")
    resident = resident_blocks(gpu, registers, spec.shared_words * WORD_BYTES, spec.tile.threads)
    return kernel_cycles(gpu, spec, resident)


def microseconds(gpu: GpuSpec, spec: GemmSpec) -> float:
    """How long a product takes, with its launch; registers are estimated."""
    return elapsed(gpu, _cycles(gpu, spec), spec.bytes)
