"""How many thread blocks a multiprocessor holds at a time, by what each of them uses.

The granularities are those of the CUDA occupancy calculator for compute capability 5.x and 6.x; newer ones differ by
less than a block.
"""

from __future__ import annotations

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.ir.element import ceil_div

WARP = 32
_REGISTER_UNIT = 256  # registers of a warp are given out in these
_SHARED_UNIT = 256  # bytes


def resident_blocks(gpu: GpuSpec, registers: int, shared_bytes: int, threads: int) -> int:
    """Thread blocks of a multiprocessor at a time; 0: not even one fits.

    Parameters
    ----------
    gpu : GpuSpec
    registers : int
        Of a thread.
    shared_bytes, threads : int
        Of a block.
    """
    warps = ceil_div(threads, WARP)
    block_registers = ceil_div(max(registers, 1) * WARP, _REGISTER_UNIT) * _REGISTER_UNIT * warps
    if registers * threads > gpu.registers or shared_bytes > gpu.shared_kib * 1024:
        return 0
    limits = [gpu.sm_blocks, gpu.sm_warps // warps, gpu.sm_registers // block_registers]
    if shared_bytes:
        limits.append(gpu.sm_shared_kib * 1024 // (ceil_div(shared_bytes, _SHARED_UNIT) * _SHARED_UNIT))
    return min(limits)
