"""How long kernels take on a GPU of many multiprocessors, which the products of small images do not fill.

There what a thread waits for counts, and what every block loads: many small blocks load the same rows again and again.
The constants were fitted to kernels of MobileNet-V2 at 224 px on an NVIDIA H200 (driver 580.159, 27 November 2026): 230
matrix products of 38 sizes in fp32 and fp16, and 27 expansions with their depthwise convolutions, each in a CUDA graph
of 24 launches whose operands were in the L2 cache. Of the products the mean error is 11 %; the tile that is taken for a
size is 4 % slower than the best of those measured, on average. ``tests/compile/cuda/h200_products.json`` has the times.
"""

from __future__ import annotations

import math

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.occupancy import WARP
from tsm_edge.compile.backends.cuda.kernels.expand_depthwise import ExpandDepthwiseSpec
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec
from tsm_edge.compile.ir.element import ceil_div, item_bytes

_MANY_MULTIPROCESSORS = 16
# Cycles from asking for operands until they are used and the block has met.
_WAIT = 423.0
# Of an issue slot of a multiprocessor's busiest scheduler; the same of a fused kernel, and of a slot of one warp of it.
_SLOT, _FUSED_SLOT, _FUSED_WARP_SLOT = 0.91, 0.4, 1.8
# Bytes that a multiprocessor loads in a cycle.
_LOADED = 22.0
# Of a vector of sums that a thread reads where the slices of a block meet.
_MEETING = 123.0
_VECTOR = 4
# Of a block of a product: smaller ones are slower than this says.
LEAST_THREADS = 64


def is_large(gpu: GpuSpec) -> bool:
    """Whether it has so many multiprocessors that kernels of small images leave some without a block."""
    return gpu.multiprocessors >= _MANY_MULTIPROCESSORS


def product_cycles(gpu: GpuSpec, spec: GemmSpec, resident: int) -> float:
    """Cycles of a matrix product; infinite where no block fits.

    Parameters
    ----------
    gpu : GpuSpec
        A large one.
    spec : GemmSpec
    resident : int
        Thread blocks of a multiprocessor at a time.
    """
    if not resident:
        return float("inf")
    tile, blocks = spec.tile, math.prod(spec.parallel.blocks)
    loaded = blocks * spec.steps * tile.rows * (tile.channels + tile.pixels) * item_bytes(spec.source.dtype)
    met = tile.slices * max(1, tile.channels * tile.pixels // _VECTOR // tile.threads) if tile.slices > 1 else 0
    waves = ceil_div(ceil_div(blocks, gpu.multiprocessors), resident)
    return (
        waves * spec.steps * _WAIT
        + _issued(gpu, spec) * _SLOT
        + loaded / gpu.multiprocessors / _LOADED
        + waves * met * _MEETING
    )


def fused_cycles(gpu: GpuSpec, spec: ExpandDepthwiseSpec, resident: int) -> float:
    """The same of an expansion with its depthwise convolution."""
    if not resident:
        return float("inf")
    waves = ceil_div(ceil_div(math.prod(spec.parallel.blocks), gpu.multiprocessors), resident)
    alone = spec.waits * _WAIT + spec.warp_slots * _FUSED_WARP_SLOT
    return waves * alone + _issued(gpu, spec) * _FUSED_SLOT


def _issued(gpu: GpuSpec, spec: GemmSpec | ExpandDepthwiseSpec) -> float:
    """Issue slots of the busiest scheduler of the multiprocessor that has the most blocks."""
    grid = spec.parallel
    warps = ceil_div(math.prod(grid.threads), WARP) * ceil_div(math.prod(grid.blocks), gpu.multiprocessors)
    return spec.warp_slots * ceil_div(warps, gpu.lanes // WARP)
