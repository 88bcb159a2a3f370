"""The inner loops LLVM makes of kernels on 8-bit levels, on Arm boards, which cannot be timed here."""

from __future__ import annotations

import re

import pytest
from assembly import STORE, Block, blocks

from tsm_edge.cards import load_target
from tsm_edge.compile.backends.cpu.int8.convolution import convolution
from tsm_edge.compile.backends.cpu.int8.convolution_spec import Int8ConvolutionSpec, Int8Tile, Requantised
from tsm_edge.compile.backends.cpu.int8.depthwise import Int8DepthwiseSpec, depthwise
from tsm_edge.compile.backends.cpu.int8.images import byte_image, quad_image
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions, instructions_of
from tsm_edge.compile.backends.cpu.int8.tiles import register_tile
from tsm_edge.compile.backends.cpu.llvm import build_kernels
from tsm_edge.compile.ir.layout import Border

# A dot product of four bytes is one instruction, or the last of three.
DOT = {"sdot": r"sdot\b", "mlal": r"sadalp\b"}
WIDENING = r"(smull|smlal)2?\b"
# LLVM begins a Pi 4's expansion with so many products at once that two pixels and two masks wait on the stack: 5 of the
# loop's 233 instructions. They cost nothing there: its 128 multiplications take a cycle each, and llvm-mca 19 says 128
# cycles with them and without (Cortex-A72 and A57). One mask for all, or pixels spread by DUP: more instructions.
PI_4_EXPANSION = 5
MAGIC = Requantised(low=0, high=255, magic=True)


def pointwise(instructions: Instructions, size: int, channels: int, out: int, in_quads: bool) -> Int8ConvolutionSpec:
    """A pointwise convolution, for a depthwise one or for another pointwise one."""
    lanes = instructions.lanes
    target = quad_image(size, size, out, 0, instructions, Border(1, 0, 1, 0)) if in_quads else None
    rows, vectors = register_tile(instructions, size, size, out // lanes, in_quads)
    return Int8ConvolutionSpec(
        instructions=instructions,
        source=byte_image(size, size, channels, 0, 16),
        target=target or byte_image(size, size, out, 0, lanes),
        kernel=(1, 1),
        strides=(1, 1),
        pad_top=0,
        pad_left=0,
        channels=channels,
        outputs=out,
        tile=Int8Tile(rows, vectors, 4, panels_outside=True),
        made=MAGIC,
    )


def on_stack(block: Block) -> list[str]:
    """Instructions that move vectors to the stack or back."""
    return [line for line in block.body if re.match(r"(st|ld)[rpu]\w* [qd]\d+", line) and re.search(r"\[sp\b", line)]


@pytest.mark.parametrize(
    ("board", "in_quads", "most_on_stack"),
    [
        pytest.param("raspberry-pi-5", True, 0, id="raspberry-pi-5, expansion"),
        pytest.param("raspberry-pi-5", False, 0, id="raspberry-pi-5, projection"),
        pytest.param("raspberry-pi-4", True, PI_4_EXPANSION, id="raspberry-pi-4, expansion"),
        pytest.param("raspberry-pi-4", False, 0, id="raspberry-pi-4, projection"),
    ],
)
def test_the_k_loop_is_dot_products_and_loads(board: str, in_quads: bool, most_on_stack: int) -> None:
    cpu = load_target(board).cpu
    instructions = instructions_of(cpu, board)
    spec = pointwise(instructions, 14, *((64, 384) if in_quads else (384, 64)), in_quads)
    assembly = build_kernels({"kernel": convolution("kernel", spec)}, cpu).inspect_source("asm")
    dot = DOT[instructions.kind]
    k_loops = [block for block in blocks(assembly, "kernel") if block.loops and block.count(dot)]
    assert k_loops, "no loop multiplies"
    for loop in k_loops:
        dots = loop.count(dot)
        # A panel of the vectors left over has loops of its own.
        assert dots % spec.tile.rows == 0, "a dot product for each sum and quad"
        kept = on_stack(loop)
        assert len(kept) <= most_on_stack, "sums are spilled"
        assert loop.count(STORE) == sum(line.startswith("st") for line in kept), "something else is stored"
        if instructions.kind == "mlal":
            assert loop.count(r"smull\b") == loop.count(r"smlal2\b") == dots, "two halves in 16 bits, then one sum"
        work = dots + loop.count(WIDENING)
        assert work >= 0.65 * len(loop.body), loop.body


@pytest.mark.parametrize("board", ["raspberry-pi-5", "raspberry-pi-4"])
def test_a_depthwise_tile_keeps_its_sums_in_registers(board: str) -> None:
    cpu = load_target(board).cpu
    instructions = instructions_of(cpu, board)
    source = quad_image(14, 14, 384, 0, instructions, Border(1, 0, 1, 0))
    spec = Int8DepthwiseSpec(instructions, source, byte_image(14, 14, 384, 0, 16), 1, MAGIC)
    assembly = build_kernels({"kernel": depthwise("kernel", spec)}, cpu).inspect_source("asm")
    dot = DOT[instructions.kind]
    tiles = [block for block in blocks(assembly, "kernel") if block.count(dot)]
    assert tiles
    for tile in tiles:
        # Three rows of a filter for each of four columns; without dot products a row is a block of its own.
        assert tile.count(dot) % (12 if instructions.kind == "sdot" else 4) == 0
        assert not on_stack(tile), "sums are spilled"
