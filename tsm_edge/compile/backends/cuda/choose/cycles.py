"""How long the instructions of a kernel take on the whole GPU.

The model counts the issue slots of a block's warps, how many warps a multiprocessor holds at a time (the fewer, the
more of their latency shows), and the waves in which the blocks run. Its constants are fitted to a cycle-level model of
ptxas's code for sm_53 (``benchmarks/jetson_model.py``).
"""

from __future__ import annotations

import math

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.large import fused_cycles, is_large, product_cycles
from tsm_edge.compile.backends.cuda.choose.occupancy import WARP
from tsm_edge.compile.backends.cuda.kernels.expand_depthwise import ExpandDepthwiseSpec
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Grid, KernelSpec

_WARPS_TO_HIDE = 2.5  # a scheduler's, for its pipeline to be full
_PEAK = 0.9
_WAVE_CYCLES = 900  # latency at a wave's start and end
# Of a kernel whose issue slots nobody counts: the share of the peak that its arithmetic reaches between loads, stores
# and addresses.
_SHARE_OF_PEAK = 0.5
# Arithmetic and memory hide each other but for this share of the shorter.
_NOT_HIDDEN = 0.3


def kernel_cycles(gpu: GpuSpec, spec: KernelSpec, resident: int) -> float:
    """Cycles of a kernel's instructions, by the model that knows most of it; infinite where no block fits.

    Parameters
    ----------
    gpu : GpuSpec
    spec : KernelSpec
        Parted into a grid.
    resident : int
        Thread blocks of a multiprocessor at a time.
    """
    if is_large(gpu) and isinstance(spec, GemmSpec):
        return product_cycles(gpu, spec, resident)
    if is_large(gpu) and isinstance(spec, ExpandDepthwiseSpec):
        return fused_cycles(gpu, spec, resident)
    if spec.warp_slots and isinstance(spec.parallel, Grid):
        return modelled_cycles(gpu, spec.parallel, spec.warp_slots, resident)
    return cycles_by_flops(gpu, spec.flops)


def modelled_cycles(gpu: GpuSpec, grid: Grid, warp_slots: float, resident: int) -> float:
    """Cycles of a kernel's instructions; infinite where no block fits.

    Parameters
    ----------
    gpu : GpuSpec
    grid : Grid
    warp_slots : float
        Issue slots of a warp.
    resident : int
        Thread blocks of a multiprocessor at a time.
    """
    if not resident:
        return float("inf")
    warps = ceil_div(math.prod(grid.threads), WARP)
    slots = warp_slots * warps
    schedulers = gpu.lanes // WARP
    left, cycles = math.prod(grid.blocks), 0.0
    while left > 0:
        whole = left // (resident * gpu.multiprocessors)
        blocks = resident * gpu.multiprocessors if whole else left
        waves = max(whole, 1)
        filled = blocks * warps / gpu.multiprocessors / schedulers
        rate = min(1.0, filled / _WARPS_TO_HIDE) * _PEAK
        cycles += waves * (slots * ceil_div(blocks, gpu.multiprocessors) / schedulers / rate + _WAVE_CYCLES)
        left -= blocks * waves
    return cycles


def cycles_by_flops(gpu: GpuSpec, flops: int) -> float:
    """Cycles of a kernel whose issue slots nobody counts."""
    return flops / 2 / (gpu.lanes * gpu.multiprocessors) / _SHARE_OF_PEAK


def elapsed(gpu: GpuSpec, cycles: float, size: int) -> float:
    """Microseconds of a launch by the cycles of its instructions and the bytes that it moves."""
    arithmetic, memory = cycles / gpu.clock_mhz, size / gpu.memory_gb_s / 1e3
    return max(arithmetic, memory) + _NOT_HIDDEN * min(arithmetic, memory) + gpu.launch_us
