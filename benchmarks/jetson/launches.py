"""A program's launches → modelled times: how often each loop of a kernel runs, and what of its loads misses the L2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.jetson.sass import Instruction, Kernel
from benchmarks.jetson.simulator import MACHINE, Machine, Missed, cycles, trace_of
from tsm_edge.cards import GpuSpec
from tsm_edge.compile.backends.cuda.choose.occupancy import resident_blocks
from tsm_edge.compile.backends.cuda.kernels.average_pool import AveragePoolSpec
from tsm_edge.compile.backends.cuda.kernels.dense import DenseSpec
from tsm_edge.compile.backends.cuda.kernels.depthwise import DepthwiseSpec
from tsm_edge.compile.backends.cuda.kernels.expand_depthwise import AHEAD, ExpandDepthwiseSpec
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec
from tsm_edge.compile.backends.cuda.kernels.patches_spec import PatchesSpec
from tsm_edge.compile.backends.cuda.kernels.stem import StemSpec
from tsm_edge.compile.backends.cuda.kernels.stem_halfs import HalfStemSpec
from tsm_edge.compile.backends.cuda.kernels.winograd_transforms import WinogradSourceSpec
from tsm_edge.compile.ir.device_code import KernelResources
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.program import KernelCall

Loop = tuple[int, int]
# Of loads that bring what a neighbour has just brought.
_MOSTLY_CACHED = 0.02
_POOL_THREADS, _DENSE_THREADS = 8, 128


@dataclass(frozen=True)
class Modelled:
    """A launch's modelled time, and its floors.

    Attributes
    ----------
    microseconds : float
        Without the launch itself.
    arithmetic_us, memory_us : float
        At the card's peak, and at its bandwidth with everything moved once.
    """

    microseconds: float
    arithmetic_us: float
    memory_us: float


def model(
    call: KernelCall, kernel: Kernel, used: KernelResources, gpu: GpuSpec, machine: Machine = MACHINE
) -> Modelled:
    """Simulate a call."""
    spec, threads = call.spec, call.grid.threads[0]
    x, y, z = call.grid.blocks
    resident = resident_blocks(gpu, used.registers, used.shared_bytes, threads)
    trace = trace_of(kernel, _trips(spec, kernel))
    found = cycles(kernel, trace, threads, x * y * z, resident, gpu, _missed(spec), machine)
    halfs = isinstance(spec, HalfStemSpec) or (isinstance(spec, GemmSpec) and spec.half)
    rate = gpu.half_rate if halfs else 1.0
    return Modelled(
        microseconds=found / gpu.clock_mhz,
        arithmetic_us=spec.flops / 2e3 / gpu.multiply_adds_gs / rate,
        memory_us=spec.bytes / 1e3 / gpu.memory_gb_s,
    )


def _trips(spec: object, kernel: Kernel) -> Mapping[Loop, int]:
    loops = kernel.loops()
    if isinstance(spec, GemmSpec):
        return _trips_of_product(spec, kernel, loops)
    if isinstance(spec, AveragePoolSpec):
        return dict.fromkeys(loops, ceil_div(spec.source.height * spec.source.width, _POOL_THREADS))
    if isinstance(spec, DenseSpec):
        lanes = 4 if spec.inputs % 4 == 0 else 1
        return dict.fromkeys(loops, ceil_div(spec.inputs // lanes, _DENSE_THREADS))
    if isinstance(spec, ExpandDepthwiseSpec):
        return _trips_of_pair(spec, kernel, loops)
    if isinstance(spec, HalfStemSpec):
        return _trips_of_half_stem(spec, kernel, loops)
    return dict.fromkeys(loops, 3 if isinstance(spec, StemSpec) else 1)


def _trips_of_half_stem(spec: HalfStemSpec, kernel: Kernel, loops: list[Loop]) -> dict[Loop, int]:
    """The one loop makes all products, a word at a time."""
    products = spec.taps * spec.target.values // (2 * spec.parallel.blocks[0] * spec.parallel.blocks[1] * spec.threads)
    return {loop: max(1, round(products / max(1, _multiplies(kernel, loop)))) for loop in loops}


def _trips_of_product(spec: GemmSpec, kernel: Kernel, loops: list[Loop]) -> dict[Loop, int]:
    tile = spec.tile
    apart = tile.last_apart or spec.steps == 1
    steps = spec.steps - 1 if apart else spec.steps
    body = tile.thread_channels * tile.thread_pixels * tile.depth // spec.word_elements
    main = [loop for loop in loops if _multiplies(kernel, loop) >= 0.9 * body]
    vectors = tile.channels // spec.pieces * tile.pixels // (4 * spec.word_elements)
    trips = {loop: ceil_div(vectors, tile.threads) if tile.slices > 1 else 1 for loop in loops if loop not in main}
    run = max(1, spec.flush // tile.depth) if spec.flush else 0
    for loop in main:
        inner = any(other != loop and other[0] <= loop[0] and loop[1] <= other[1] for other in main)
        outer = any(other != loop and loop[0] <= other[0] and other[1] <= loop[1] for other in main)
        if not run:
            trips[loop] = steps
        else:
            trips[loop] = run if inner else steps // run if outer else steps % run or steps // run
    return trips


def _trips_of_pair(spec: ExpandDepthwiseSpec, kernel: Kernel, loops: list[Loop]) -> dict[Loop, int]:
    """The expansion's loop is the one without stores."""
    rounds = ceil_div(spec.depthwise.items, spec.threads)
    stores = {loop: any(item.base == "STG" for item in kernel.instructions[loop[0] : loop[1] + 1]) for loop in loops}
    return {loop: rounds if stores[loop] else spec.source.channels // AHEAD for loop in loops}


def _multiplies(kernel: Kernel, loop: Loop) -> int:
    return sum(item.base in ("FFMA", "HFMA2") for item in kernel.instructions[loop[0] : loop[1] + 1])


def _missed(spec: object) -> Missed:
    """Every input and weight comes from DRAM once, and from L2 after that; every output goes there."""
    first, others = 1.0, 1.0
    if isinstance(spec, GemmSpec):
        size = item_bytes(spec.source.dtype)
        across, down, groups = spec.parallel.blocks
        rows = spec.positions * spec.padded_inputs
        moved = groups * across * down * rows * (spec.tile.pixels + spec.tile.channels) * size
        once = spec.source.value_bytes + spec.inputs * spec.positions * spec.target.channels * size
        first = others = min(1.0, once / moved)
    elif isinstance(spec, ExpandDepthwiseSpec):  # a band's rows come once for all of its expanded channels
        loads = spec.parallel.blocks[0] * spec.parallel.blocks[1] * spec.depthwise.pitch * spec.source.channels
        first, others = spec.source.values / loads, _MOSTLY_CACHED
    elif isinstance(spec, DepthwiseSpec):
        first, others = spec.source.height / (spec.band_rows * spec.bands), _MOSTLY_CACHED
    elif isinstance(spec, DenseSpec):  # every block reads the vector, which is in L2 after the first time
        first = others = (1 + spec.outputs) / (2 * spec.outputs)
    elif isinstance(spec, StemSpec):
        first, others = 0.35, 0.35 / 9
    elif isinstance(spec, HalfStemSpec):  # blocks share weights, and rows
        loads = spec.parallel.blocks[0] * 2 * spec.pixel_words
        first, others = 1 / spec.parallel.blocks[0], min(1.0, spec.source.values / loads)
    elif isinstance(spec, WinogradSourceSpec):  # pixels that tiles share come from L1 or L2 after the first time
        first = others = min(1.0, spec.source.value_bytes / spec.target.value_bytes)
    elif isinstance(spec, PatchesSpec):
        first = others = min(1.0, spec.source.value_bytes / spec.loaded_bytes)

    def share(_: int, item: Instruction) -> float:
        if item.base == "STG":
            return 1.0
        return first if item.width == 16 else others

    return share
