"""What a compiled step is made of, kernel by kernel, and how long the target card's numbers say each takes.

The time is a model, a roofline: a kernel takes as long as the slower of its arithmetic (at the core's peak) and its
memory traffic (at the bandwidth of the cache that holds it). Nothing is run; ``tsm-edge profile`` measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tsm_edge.cards import CpuSpec
from tsm_edge.compile.backends.cpu.choose.roofline import bytes_per_cycle, level
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.kernel import FALLBACK_RULE
from tsm_edge.compile.ir.program import KernelCall, Program


@dataclass(frozen=True)
class KernelEstimate:
    """One kernel call and its modelled time.

    Attributes
    ----------
    kernel, rule, layer, tile : str
        Symbol, schedule rule, the tensor it makes, what the rule chose.
    items : int
        Work items it may be split into over threads.
    flops, bytes : int
        Floating-point operations; bytes of inputs, weights and outputs, each moved once.
    bound : str
        What limits it: ``arithmetic``, or the level its data comes from (``L1``, ``L2``, ``L3``, ``memory``).
    microseconds : float or None
        On one core; None when the card has no clock.
    """

    kernel: str
    rule: str
    layer: str
    tile: str
    items: int
    flops: int
    bytes: int
    bound: str
    microseconds: float | None

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOP a byte."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class Explanation:
    """A step's kernels with the machine they were modelled on.

    Attributes
    ----------
    kernels : tuple of KernelEstimate
        In execution order.
    peak_gflops : float or None
        Of one core; None when the card has no clock.
    clock_mhz : int
    choices : Choices
        What the rules chose.
    noise_db : dict of str to float
        Of integers that were calibrated: the signal-to-noise ratio after each layer, dB.
    in_float : tuple of str
        Of integers: ``operator (layer)`` of everything that computes in float32, between conversions.
    """

    kernels: tuple[KernelEstimate, ...]
    peak_gflops: float | None
    clock_mhz: int
    choices: Choices = field(default_factory=Choices)
    noise_db: Mapping[str, float] = field(default_factory=dict)
    in_float: tuple[str, ...] = ()

    @property
    def milliseconds(self) -> float | None:
        """Modelled time of a frame on one core."""
        times = [kernel.microseconds for kernel in self.kernels]
        return None if None in times else sum(time for time in times if time is not None) / 1e3

    @property
    def without_rule(self) -> tuple[str, ...]:
        """``operator (layer)`` of everything that was compiled by the generic fallback."""
        names = [f"{item.tile} ({item.layer})" for item in self.kernels if item.rule == FALLBACK_RULE]
        return tuple(dict.fromkeys(names))


def explain(program: Program, cpu: CpuSpec) -> Explanation:
    """Model every kernel call of a program on a CPU.

    Weights are read once a frame, so they come from the level that holds the weights of the whole network;
    activations come from the level that holds those of the call, which the call before has just written.

    Parameters
    ----------
    program : Program
    cpu : CpuSpec
        Clock in MHz, caches in KiB, vector lanes and multiply-adds a cycle decide the model.
    """
    core = Core(cpu, program.precision.storage)
    peak = core.lanes * 2 * cpu.fma_per_cycle * cpu.clock_mhz / 1e3
    weights_from = level(cpu, sum(array.nbytes for array in program.weights))
    kernels = tuple(_estimate(program, call, core, weights_from) for call in program.calls)
    return Explanation(
        kernels, peak if cpu.clock_mhz else None, cpu.clock_mhz, program.choices, program.noise_db, program.in_float
    )


def _estimate(program: Program, call: KernelCall, core: Core, weights_from: str) -> KernelEstimate:
    cpu = core.cpu
    weights = sum(program.weights[ref.index].nbytes for ref in call.buffers if ref.space == "weights")
    activations = max(0, call.spec.bytes - weights)
    activations_from = level(cpu, activations)
    traffic = {weights_from: 0.0}
    for where, size in ((weights_from, weights), (activations_from, activations)):
        traffic[where] = traffic.get(where, 0.0) + size / bytes_per_cycle(cpu, where)
    arithmetic = call.spec.flops / (2 * core.lanes * cpu.fma_per_cycle)
    moving = sum(traffic.values())
    cycles = max(arithmetic, moving)
    return KernelEstimate(
        kernel=call.kernel,
        rule=call.spec.rule,
        layer=call.layer,
        tile=call.spec.describe(),
        items=call.items.count,
        flops=call.spec.flops,
        bytes=call.spec.bytes,
        bound="arithmetic" if arithmetic >= moving else max(traffic, key=lambda where: traffic[where]),
        microseconds=cycles / cpu.clock_mhz if cpu.clock_mhz else None,
    )
