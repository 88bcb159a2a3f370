"""The inner loops LLVM makes of the kernels: for Arm boards, which cannot be timed here, and for AVX-512."""

from __future__ import annotations

import dataclasses
import re

import pytest
from assembly import STORE, blocks

from tsm_edge.cards import CpuSpec, load_target
from tsm_edge.compile.backends.cpu.choose.tiles import depthwise_tile, gemm_tile, k_block, k_loop, run_of_tiles
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.int8.convolution import convolution as int8_convolution
from tsm_edge.compile.backends.cpu.int8.convolution_spec import Int8ConvolutionSpec, Int8Tile, Requantised
from tsm_edge.compile.backends.cpu.int8.images import byte_image
from tsm_edge.compile.backends.cpu.int8.instructions import instructions_of
from tsm_edge.compile.backends.cpu.int8.tiles import register_tile
from tsm_edge.compile.backends.cpu.kernels.convolution import convolution
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import ConvolutionSpec
from tsm_edge.compile.backends.cpu.kernels.depthwise import DepthwiseSpec, depthwise
from tsm_edge.compile.backends.cpu.llvm import build_kernels
from tsm_edge.compile.ir.layout import Border, nhwc

FMA = r"(fmla|vfma\.f32)\b"
BOARDS = ["raspberry-pi-4", "raspberry-pi-3", "raspberry-pi-5", "raspberry-pi-3-32bit"]


def pointwise(
    cpu: CpuSpec, pixels: int = 14 * 14, channels: int = 64, out: int = 384, dtype: str = "float32"
) -> ConvolutionSpec:
    """By default the expansion of a 14×14 block of MobileNet-V2."""
    core = Core(cpu, dtype)
    return ConvolutionSpec(
        source=nhwc(1, pixels, channels, core.lanes, dtype=dtype),
        target=nhwc(1, pixels, out, core.lanes, dtype=dtype),
        kernel=(1, 1),
        strides=(1, 1),
        pad_top=0,
        pad_left=0,
        reduction_channels=channels,
        tile=gemm_tile(core, 1, pixels, channels, out),
        lanes=core.lanes,
        low=0.0,
        high=6.0,
        k_loop=k_loop(core),
    )


def depthwise3x3(cpu: CpuSpec) -> DepthwiseSpec:
    """The middle of the same block."""
    size, channels = 14, 384
    return DepthwiseSpec(
        source=nhwc(size, size, channels, cpu.vector_lanes, Border(1, 1, 1, 1)),
        target=nhwc(size, size, channels, cpu.vector_lanes),
        kernel=(3, 3),
        strides=(1, 1),
        pad_top=1,
        pad_left=1,
        tile=depthwise_tile(Core(cpu, "float32"), size, size, channels, (3, 3), (1, 1)),
        lanes=cpu.vector_lanes,
        low=0.0,
        high=6.0,
    )


@pytest.mark.parametrize(("board", "dtype"), [*((board, "float32") for board in BOARDS), ("raspberry-pi-5", "float16")])
def test_the_k_loop_of_a_pointwise_convolution_is_multiply_adds_and_loads(board: str, dtype: str) -> None:
    cpu = load_target(board).cpu
    spec = pointwise(cpu, dtype=dtype)
    assembly = build_kernels({"kernel": convolution("kernel", spec)}, cpu).inspect_source("asm")
    k_loops = [block for block in blocks(assembly, "kernel") if block.loops and block.count(FMA)]
    assert k_loops, "no loop multiplies"
    accumulators = spec.tile.rows * spec.tile.vectors
    for loop in k_loops:
        multiplies = loop.count(FMA)
        assert multiplies % accumulators == 0, "a multiply-add for each accumulator and k"
        assert loop.count(STORE) == 0, "accumulators are spilled"
        assert loop.count(r"(fmul|fadd|vmul|vadd)\b") == 0, "not fused"
        # By-element multiply-adds on 64-bit Arm; on 32-bit every pixel is broadcast by a load of its own.
        assert multiplies >= (0.8 if cpu.vector_registers == 32 else 0.38) * len(loop.body)


@pytest.mark.parametrize("target", [*BOARDS, "x86-64-v3", "x86-64-v4"])
def test_a_clamp_is_two_instructions_a_vector(target: str) -> None:
    """Though it lets NaN through: on Arm by instructions that do, on x86 by the order of their operands."""
    cpu = load_target(target).cpu
    spec = dataclasses.replace(depthwise3x3(cpu), low=-0.5)
    assembly = build_kernels({"kernel": depthwise("kernel", spec)}, cpu).inspect_source("asm")
    tile = max(blocks(assembly, "kernel"), key=lambda block: block.count(f"{FMA}|vfmadd"))
    outputs = tile.count(f"{FMA}|vfmadd") // 9
    assert tile.count(r"(fmax|vmax\.f32|vmaxps)\s") == tile.count(r"(fmin|vmin\.f32|vminps)\s") == outputs
    assert tile.count(r"v?fcm|vcmp|vc[eg]|v?bi[ft]|v?bsl|vblend|f(max|min)nm|v(max|min)nm") == 0


@pytest.mark.parametrize("board", BOARDS)
def test_a_depthwise_tile_is_multiply_adds_on_registers(board: str) -> None:
    cpu = load_target(board).cpu
    spec = depthwise3x3(cpu)
    assembly = build_kernels({"kernel": depthwise("kernel", spec)}, cpu).inspect_source("asm")
    tile = max(blocks(assembly, "kernel"), key=lambda block: block.count(FMA))
    outputs = spec.tile.rows * spec.tile.columns
    repeats, rest = divmod(tile.count(FMA), 9 * outputs)
    assert repeats >= 1
    assert rest == 0
    # The results, and nothing else: no accumulator goes to the stack and back.
    assert tile.count(STORE) <= outputs * repeats
    assert tile.count(r"(fmul|fadd|vmul|vadd)\b") == 0
    assert tile.count(FMA) >= (0.4 if cpu.vector_registers == 32 else 0.3) * len(tile.body)


def test_half_of_the_pixels_are_broadcast_by_avx512_multiply_adds_themselves() -> None:
    cpu = load_target("x86-64-v4").cpu
    spec = pointwise(cpu)
    assert (spec.tile.rows, spec.tile.vectors) == (14, 2)
    assembly = build_kernels({"kernel": convolution("kernel", spec)}, cpu).inspect_source("asm")
    loop = max((block for block in blocks(assembly, "kernel") if block.loops), key=lambda block: block.count("vfmadd"))
    steps, rest = divmod(loop.count("vfmadd"), 28)
    assert (steps, rest) == (spec.k_loop.steps, 0)
    folded = [line for line in loop.body if "{1to16}" in line]
    assert len(folded) == 14 * steps
    # With an index beside the base it would be two instructions again.
    assert all(re.search(r"\(%r\w+\)\{1to16\}", line) for line in folded)
    assert loop.count("vbroadcastss") == 7 * steps
    assert not any("%rsp" in line for line in loop.body), "accumulators are spilled"
    # Beside these a step loads two vectors of weights; counters and the jump are for all steps together.
    assert len(loop.body) <= (28 + 7 + 2) * steps + 6


def test_pairs_of_pixels_are_repeated_by_their_load() -> None:
    cpu = load_target("x86-64-v4").cpu
    plain = pointwise(cpu, 56, 144, 24)
    tile = gemm_tile(Core(cpu, "float32"), 1, 56, 144, 24, paired=True)
    assert (tile.rows, tile.vectors, tile.panels) == (14, 3, 1)
    spec = dataclasses.replace(plain, source=dataclasses.replace(plain.source, paired=True), tile=tile)
    assembly = build_kernels({"kernel": convolution("kernel", spec)}, cpu).inspect_source("asm")
    (loop,) = [block for block in blocks(assembly, "kernel") if block.loops and block.count("vfmadd")]
    # Seven pairs against three vectors of weights, none of whose lanes is empty.
    assert loop.count("vfmadd") == 21 * spec.k_loop.steps
    assert loop.count(r"vbroadcastsd -?\d*\(") == 7 * spec.k_loop.steps
    assert len(loop.body) <= (21 + 7 + 3) * spec.k_loop.steps + 6
    assert not any("%rsp" in line for line in loop.body), "accumulators are spilled"


def test_a_loop_is_found_by_its_jump() -> None:
    body = "fmla v0.4s, v1.4s, v2.s[0]\n.Ltmp1:\n\tstr q0, [sp]\n\tb.ne\t.LBB0_1\n\tret"
    text = f"k:\n\tmov x0, #4\n.LBB0_1: // loop\n\t{body}\n.size k\n"
    (loop,) = [block for block in blocks(text, "k") if block.loops]
    assert (loop.count(FMA), loop.count(STORE), len(loop.body)) == (1, 1, 3)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
def test_every_block_of_the_k_loop_keeps_its_sums_in_registers(target: str) -> None:
    cpu = load_target(target).cpu
    spec = pointwise(cpu, pixels=49, channels=960, out=160)
    size = k_block(Core(cpu, "float32"), spec.tile, 1, 960)
    assert 0 < size < 960, "a panel of 960 channels would stay in L1"
    tile = dataclasses.replace(spec.tile, block=run_of_tiles(spec.tiles))
    blocked = dataclasses.replace(spec, k_block=size, tile=tile)
    assembly = build_kernels({"kernel": convolution("kernel", blocked)}, cpu).inspect_source("asm")
    k_loops = [block for block in blocks(assembly, "kernel") if block.loops and block.count("vfmadd")]
    assert len(k_loops) >= 3, "the first, one in the middle, the last"
    for loop in k_loops:
        assert loop.count("vfmadd") % (spec.tile.rows * spec.tile.vectors) == 0
        assert not [line for line in loop.body if re.match(r"vmov\w+ %[xyz]mm\d+, ", line) and "(" in line], "spilled"


# Of each target: the last instruction of a dot product, how many vectors of pixels may go to the stack in a turn of 64
# of them (sums never), and what of the loop they are at least.
INT8_TARGETS = [
    ("x86-64-v4-vnni", r"vpdpbusd", 0, 0.45),
    ("x86-64-v3-vnni", r"(\{vex\} )?vpdpbusd", 0, 0.45),
    ("raspberry-pi-5", r"sdot\b", 0, 0.75),
    ("raspberry-pi-4", r"sadalp\b", 2, 0.25),
]


@pytest.mark.parametrize(("name", "pattern", "stores", "share"), INT8_TARGETS)
def test_the_k_loop_on_levels_is_dot_products_and_loads(name: str, pattern: str, stores: int, share: float) -> None:
    """The expansion of a 14×14 block of MobileNet-V2."""
    target = load_target(name)
    instructions = instructions_of(target.cpu, name)
    lanes = instructions.lanes
    rows, vectors = register_tile(instructions, 1, 196, 384 // lanes, in_quads=False)
    spec = Int8ConvolutionSpec(
        instructions=instructions,
        source=byte_image(1, 196, 64, 0, lanes),
        target=byte_image(1, 196, 384, 0, lanes),
        kernel=(1, 1),
        strides=(1, 1),
        pad_top=0,
        pad_left=0,
        channels=64,
        outputs=384,
        tile=Int8Tile(rows, vectors, 8, panels_outside=True),
        made=Requantised(magic=True),
    )
    assembly = build_kernels({"kernel": int8_convolution("kernel", spec)}, target.cpu).inspect_source("asm")
    loops = [block for block in blocks(assembly, "kernel") if block.loops and block.count(pattern)]
    assert loops, "no loop multiplies"
    for loop in loops:
        dots = loop.count(pattern)
        assert dots % (rows * vectors) == 0, "a dot product for each sum and step"
        assert loop.count(STORE) <= stores, "sums are spilled"
        assert not [line for line in loop.body if re.search(r"\((%rsp|%rbp)", line)], "sums are spilled"
        assert dots >= share * len(loop.body)
