"""How long a kernel takes, by the card's numbers and what ptxas says that it uses: a model, nothing is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.cycles import elapsed, kernel_cycles
from tsm_edge.compile.backends.cuda.choose.occupancy import WARP, resident_blocks
from tsm_edge.compile.ir.device_code import KernelResources
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.program import KernelCall


@dataclass(frozen=True)
class Estimate:
    """A call's modelled time.

    Attributes
    ----------
    microseconds : float
        With the launch.
    bound : str
        ``arithmetic`` (with all its instructions), ``memory``, or ``launch`` where both are shorter than that.
    blocks, warps : int
        Thread blocks and warps of a multiprocessor at a time.
    """

    microseconds: float
    bound: Literal["arithmetic", "memory", "launch"]
    blocks: int
    warps: int


def estimate(call: KernelCall, used: KernelResources, gpu: GpuSpec) -> Estimate:
    """Model a call."""
    spec, threads = call.spec, call.grid.threads[0]
    blocks = resident_blocks(gpu, used.registers, used.shared_bytes, threads)
    cycles = kernel_cycles(gpu, spec, blocks)
    arithmetic, memory = cycles / gpu.clock_mhz, spec.bytes / gpu.memory_gb_s / 1e3
    bound: Literal["arithmetic", "memory", "launch"] = "arithmetic" if arithmetic >= memory else "memory"
    return Estimate(
        microseconds=elapsed(gpu, cycles, spec.bytes),
        bound="launch" if gpu.launch_us > max(arithmetic, memory) else bound,
        blocks=blocks,
        warps=blocks * ceil_div(threads, WARP),
    )
