"""What a compiled step is made of, kernel by kernel, and how long the target card's numbers say each takes.

The time is a model, a roofline: a kernel takes as long as the slower of its arithmetic (at the core's peak) and its
memory traffic (at the bandwidth of the cache that holds it). Nothing is run; ``tsm-edge profile`` measures.
"""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.cards import CpuSpec
from tsm_edge.compile.program import KernelCall, Program
from tsm_edge.compile.roofline import bytes_per_cycle, level
from tsm_edge.compile.schedules.convolution_spec import ConvolutionSpec
from tsm_edge.compile.schedules.depthwise import DepthwiseSpec
from tsm_edge.compile.schedules.elementwise import ElementwiseSpec
from tsm_edge.compile.schedules.expand_depthwise import ExpandDepthwiseSpec
from tsm_edge.compile.schedules.generic import GenericSpec
from tsm_edge.compile.schedules.inverted_residual import InvertedResidualSpec
from tsm_edge.compile.schedules.tiles import DepthwiseTile, GemmTile
from tsm_edge.compile.schedules.winograd import WinogradSpec

GENERIC_RULE = "generic"


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
    """

    kernels: tuple[KernelEstimate, ...]
    peak_gflops: float | None
    clock_mhz: int

    @property
    def milliseconds(self) -> float | None:
        """Modelled time of a frame on one core."""
        times = [kernel.microseconds for kernel in self.kernels]
        return None if None in times else sum(time for time in times if time is not None) / 1e3

    @property
    def without_rule(self) -> tuple[str, ...]:
        """``operator (layer)`` of everything that was compiled by the generic fallback."""
        names = [f"{item.tile} ({item.layer})" for item in self.kernels if item.rule == GENERIC_RULE]
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
    peak = cpu.vector_lanes * 2 * cpu.fma_per_cycle * cpu.clock_mhz / 1e3
    weights_from = level(cpu, sum(array.nbytes for array in program.weights))
    kernels = tuple(_estimate(program, call, cpu, weights_from) for call in program.calls)
    return Explanation(kernels, peak if cpu.clock_mhz else None, cpu.clock_mhz)


def _estimate(program: Program, call: KernelCall, cpu: CpuSpec, weights_from: str) -> KernelEstimate:
    weights = sum(program.weights[ref.index].nbytes for ref in call.buffers if ref.space == "weights")
    activations = max(0, call.bytes - weights)
    activations_from = level(cpu, activations)
    traffic = {weights_from: 0.0}
    for where, size in ((weights_from, weights), (activations_from, activations)):
        traffic[where] = traffic.get(where, 0.0) + size / bytes_per_cycle(cpu, where)
    arithmetic = call.flops / (2 * cpu.vector_lanes * cpu.fma_per_cycle)
    moving = sum(traffic.values())
    cycles = max(arithmetic, moving)
    return KernelEstimate(
        kernel=call.kernel,
        rule=call.rule,
        layer=call.layer,
        tile=tile_text(call),
        items=call.items,
        flops=call.flops,
        bytes=call.bytes,
        bound="arithmetic" if arithmetic >= moving else max(traffic, key=lambda where: traffic[where]),
        microseconds=cycles / cpu.clock_mhz if cpu.clock_mhz else None,
    )


def tile_text(call: KernelCall) -> str:
    """What the rule chose, for people: pixels × output channels of a register tile; for other rules, the operator."""
    spec = call.spec
    if isinstance(spec, (InvertedResidualSpec, ExpandDepthwiseSpec)):
        return ", ".join(f"{name} {_stage_tile(getattr(spec, name))}" for name in spec.stages)
    if isinstance(spec, WinogradSpec):
        return f"F({spec.outputs}×{spec.outputs}, 3×3) of {spec.block}, {_tile(spec.product.tile, spec.lanes)}"
    if isinstance(spec, GenericSpec):
        return spec.operator
    if isinstance(spec, ElementwiseSpec):
        return spec.operation
    tile = getattr(spec, "tile", None)
    if tile is None:
        return ""
    blocks = f", k by {spec.k_block}" if getattr(spec, "k_block", 0) else ""
    return _tile(tile, spec.lanes) + blocks


def _stage_tile(spec: ConvolutionSpec | DepthwiseSpec) -> str:
    together = spec.pixels_together if isinstance(spec, ConvolutionSpec) else 1
    return _tile(spec.tile, spec.lanes // together)


def _tile(tile: GemmTile | DepthwiseTile, lanes: int) -> str:
    if isinstance(tile, DepthwiseTile):
        return f"{tile.rows}×{tile.columns}×{lanes}" if tile.rows > 1 else f"{tile.columns}×{lanes}"
    tail = f" (last {tile.tail_vectors * lanes})" if tile.tail_vectors and tile.panels > 1 else ""
    vectors = tile.vectors if tile.panels > 1 or not tile.tail_vectors else tile.tail_vectors
    return f"{tile.rows}×{vectors * lanes}{tail}"
