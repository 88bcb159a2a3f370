"""The model of a program's time on a target card."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
from onnx_graphs import GraphBuilder, small_network

from tsm_edge.cards import CpuSpec, load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.backends.cpu.choose.roofline import bytes_per_cycle, bytes_per_cycle_together, level
from tsm_edge.compile.backends.cpu.lower import lower
from tsm_edge.compile.explain import KernelEstimate, explain
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.passes.fuse import fuse

BOARD = CpuSpec(
    "aarch64-unknown-linux-gnu",
    "cortex-a72",
    vector_lanes=4,
    vector_registers=32,
    l1d_kib=32,
    l2_kib=1024,
    cores=4,
    clock_mhz=1500,
    memory_gb_s=4.5,
    abilities=("multiply-by-lane",),
)


def lowered(model: onnx.ModelProto, folder: Path, cpu: CpuSpec = BOARD) -> Program:
    onnx.save(model, str(folder / "model.onnx"))
    graph = load_onnx(folder / "model.onnx")
    return lower(graph, fuse(graph), dataclasses.replace(load_target("raspberry-pi-4"), cpu=cpu), FP32)


def pooled_network() -> onnx.ModelProto:
    """One operator without a rule between operators with one."""
    graph = GraphBuilder()
    x = graph.relu(graph.conv(graph.frame, 6, 3, 2))
    x = graph.node("AveragePool", [x], graph.shapes[x], kernel_shape=[3, 3], pads=[1] * 4)
    return graph.model(graph.head(graph.node("Sigmoid", [x], graph.shapes[x]), 5))


def kernel(program: Program, cpu: CpuSpec, rule: str) -> KernelEstimate:
    return next(item for item in explain(program, cpu).kernels if item.rule == rule)


def test_the_level_is_the_smallest_cache_that_holds_the_data() -> None:
    sizes = (32 * 1024, 32 * 1024 + 1, 1024 * 1024, 1024 * 1024 + 1)
    assert [level(BOARD, size) for size in sizes] == ["L1", "L2", "L2", "memory"]
    with_l3 = dataclasses.replace(BOARD, l3_kib=2048)
    assert level(with_l3, sizes[-1]) == "L3"


def test_memory_bandwidth_comes_from_the_card_and_is_assumed_where_the_card_has_none() -> None:
    assert bytes_per_cycle(BOARD, "memory") == pytest.approx(4.5e9 / 1.5e9)
    unknown = dataclasses.replace(BOARD, memory_gb_s=0.0)
    assert 0 < bytes_per_cycle(unknown, "memory") < bytes_per_cycle(unknown, "L2")


def test_a_boards_memory_is_shared_by_its_cores_and_a_servers_grows_with_them() -> None:
    for board in (BOARD, dataclasses.replace(BOARD, memory_gb_s=0.0)):
        assert bytes_per_cycle_together(board, "memory") == bytes_per_cycle(board, "memory")
        assert bytes_per_cycle_together(board, "L2") == board.cores * bytes_per_cycle(board, "L2")
    server = load_target("x86-64-v4").cpu
    assert bytes_per_cycle_together(server, "memory") == server.cores * bytes_per_cycle(server, "memory")
    told = dataclasses.replace(server, memory_gb_s=80.0)
    assert bytes_per_cycle_together(told, "memory") == pytest.approx(80e9 / (told.clock_mhz * 1e6))


def test_a_dense_convolution_takes_its_arithmetic_at_the_cores_peak(tmp_path: Path) -> None:
    graph = GraphBuilder(32, 32)
    x = graph.relu(graph.conv(graph.frame, 64, 3, 2))
    program = lowered(graph.model(graph.head(graph.conv(x, 64, 3, 2), 5)), tmp_path)
    call = [item for item in explain(program, BOARD).kernels if item.rule == "conv3x3"][1]
    flops = 2 * 8 * 8 * 64 * 64 * 9
    assert call.flops == flops
    assert call.bound == "arithmetic"
    assert call.microseconds == pytest.approx(flops / (4 * 2 * 1500))  # lanes × (multiply + add) × MHz


def test_a_kernel_that_does_little_arithmetic_is_bound_by_where_its_weights_lie(tmp_path: Path) -> None:
    graph = GraphBuilder()
    x = graph.conv(graph.frame, 512, 1, 2)
    logits = graph.head(x, 1000)  # a dense layer: 2 MB of weights, each used once
    program = lowered(graph.model(logits), tmp_path)
    call = explain(program, BOARD).kernels[-1]
    assert call.bound == "memory"
    assert call.microseconds == pytest.approx(4 * 512 * 1000 / 4500, rel=0.05)
    large = dataclasses.replace(BOARD, l2_kib=8192)
    assert explain(program, large).kernels[-1].bound != "memory"


def test_every_call_is_explained_in_order(tmp_path: Path) -> None:
    program = lowered(small_network(), tmp_path)
    explanation = explain(program, BOARD)
    assert [item.layer for item in explanation.kernels] == [call.layer for call in program.calls]
    assert [item.items for item in explanation.kernels] == [call.items.count for call in program.calls]
    assert explanation.peak_gflops == pytest.approx(12.0)
    times = [item.microseconds for item in explanation.kernels if item.microseconds is not None]
    assert explanation.milliseconds == pytest.approx(sum(times) / 1e3)
    assert explanation.without_rule == ()


def test_what_the_generic_fallback_compiled_is_named_once(tmp_path: Path) -> None:
    explanation = explain(lowered(pooled_network(), tmp_path), BOARD)
    assert explanation.without_rule == ("AveragePool (averagepool_2)",)
    assert any(item.rule == "elementwise" and item.tile == "Sigmoid" for item in explanation.kernels)


def test_without_a_clock_there_is_no_time_but_all_else(tmp_path: Path) -> None:
    unclocked = dataclasses.replace(BOARD, clock_mhz=0)
    explanation = explain(lowered(small_network(), tmp_path, unclocked), unclocked)
    assert explanation.milliseconds is None
    assert explanation.peak_gflops is None
    assert all(item.microseconds is None and item.bound for item in explanation.kernels)


def test_the_tile_is_shown_in_output_channels(tmp_path: Path) -> None:
    call = kernel(lowered(small_network(), tmp_path), BOARD, "conv3x3")
    rows, _, channels = call.tile.partition("×")
    assert int(rows) > 0
    assert int(channels.split()[0]) % BOARD.vector_lanes == 0


def test_vectors_that_pixels_share_count_half(tmp_path: Path) -> None:
    graph = GraphBuilder(height=4, width=56)
    y = graph.relu(graph.depthwise(graph.relu(graph.conv(graph.frame, 144))))
    model = graph.model(graph.head(graph.conv(y, 24), 5))
    cpu = dataclasses.replace(load_target("x86-64-v4").cpu, cores=1, l1d_kib=1, l2_kib=64)
    call = kernel(lowered(model, tmp_path, cpu), cpu, "inverted_residual")
    assert call.tile.endswith("project 14×24")
