"""What a step on a GPU is made of, launch by launch: what ptxas says of each kernel, and a modelled time.

Nothing is run; ``tsm-edge profile`` measures on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.estimate import estimate
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.device_code import DeviceCode
from tsm_edge.compile.ir.kernel import FALLBACK_RULE
from tsm_edge.compile.ir.program import KernelCall, Program


@dataclass(frozen=True)
class LaunchEstimate:
    """One launch, what its kernel uses, and its modelled time.

    Attributes
    ----------
    kernel, rule, layer, tile : str
        Symbol, schedule rule, the network's name of what it computes, what the rule chose.
    blocks, threads : int
        Thread blocks of the launch, threads of a block.
    registers, spill_bytes, shared_bytes : int
        Of a thread; of a thread; of a block.
    resident_blocks, resident_warps : int
        That a multiprocessor holds at a time.
    flops, bytes : int
        Floating-point operations; bytes of inputs, weights and outputs, each moved once.
    bound : str
        ``arithmetic``, ``memory`` or ``launch``.
    microseconds : float
        Modelled.
    """

    kernel: str
    rule: str
    layer: str
    tile: str
    blocks: int
    threads: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    resident_blocks: int
    resident_warps: int
    flops: int
    bytes: int
    bound: str
    microseconds: float


@dataclass(frozen=True)
class GpuExplanation:
    """A step's launches with the GPU they were modelled on.

    Attributes
    ----------
    kernels : tuple of LaunchEstimate
        In execution order.
    gpu : GpuSpec
    compiler : str
        Versions of NVRTC and ptxas.
    choices : Choices
        What the rules chose.
    """

    kernels: tuple[LaunchEstimate, ...]
    gpu: GpuSpec
    compiler: str
    choices: Choices

    @property
    def milliseconds(self) -> float:
        """Modelled time of a frame."""
        return sum(kernel.microseconds for kernel in self.kernels) / 1e3

    @property
    def without_rule(self) -> tuple[str, ...]:
        """``operator (layer)`` of everything that was compiled by the generic fallback."""
        names = [f"{item.tile} ({item.layer})" for item in self.kernels if item.rule == FALLBACK_RULE]
        return tuple(dict.fromkeys(names))


def explain_gpu(program: Program, code: DeviceCode, gpu: GpuSpec) -> GpuExplanation:
    """Model every launch of a program on a GPU."""
    launches = tuple(_launch(call, code, gpu) for call in program.calls)
    return GpuExplanation(launches, gpu, code.compiler, program.choices)


def _launch(call: KernelCall, code: DeviceCode, gpu: GpuSpec) -> LaunchEstimate:
    used, spec = code.resources[call.kernel], call.spec
    modelled = estimate(call, used, gpu)
    x, y, z = call.grid.blocks
    return LaunchEstimate(
        kernel=call.kernel,
        rule=spec.rule,
        layer=call.layer,
        tile=spec.describe(),
        blocks=x * y * z,
        threads=call.grid.threads[0],
        registers=used.registers,
        spill_bytes=used.spill_bytes,
        shared_bytes=used.shared_bytes,
        resident_blocks=modelled.blocks,
        resident_warps=modelled.warps,
        flops=spec.flops,
        bytes=spec.bytes,
        bound=modelled.bound,
        microseconds=modelled.microseconds,
    )
