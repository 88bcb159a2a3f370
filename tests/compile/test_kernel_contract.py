"""What every rule's kernel promises (``compile/ir/kernel.py``), asked of every kind of kernel there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_graphs import GraphBuilder, small_network

from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.precision import FP32, Precision, precision_named
from tsm_edge.compile.backends.cpu.int8.lower import lower_int8
from tsm_edge.compile.backends.cpu.lower import lower
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.compile.quantize.calibrate import calibrate

RULES = {
    "average_pool",
    "conv3x3",
    "copy",
    "depthwise",
    "elementwise",
    "expand_depthwise",
    "generic",
    "grouped",
    "inverted_residual",
    "max_pool",
    "pointwise",
    "shift",
    "winograd",
}


def every_kind() -> onnx.ModelProto:
    """A layer for every rule that :func:`small_network` has none for."""
    graph = GraphBuilder(56, 56)
    x = graph.relu(graph.conv(graph.frame, 64, 3, 2))
    x = graph.relu(graph.conv(x, 64, 3))
    x = graph.relu(graph.conv(x, 64, 3, groups=4))
    y = graph.clip(graph.conv(graph.shift(x, 8), 384), 0, 6)
    y = graph.clip(graph.depthwise(y), 0, 6)
    x = graph.add(graph.conv(y, 64), x)
    x = graph.depthwise(graph.max_pool(x, 2, 2))
    x = graph.node("Erf", [x], graph.shapes[x])
    x = graph.add(x, graph.node("Sigmoid", [x], graph.shapes[x]))
    return graph.model(graph.head(x, 5))


def programs(folder: Path, target: TargetCard, precision: Precision) -> Iterator[Program]:
    for name, model in (("small", small_network()), ("every", every_kind())):
        path = folder / f"{name}.onnx"
        onnx.save(model, str(path))
        graph = load_onnx(path, {})
        yield lower(graph, fuse(graph), target, precision)


def int8_programs(folder: Path, target: TargetCard) -> Iterator[Program]:
    for name in ("small", "every"):
        graph = load_onnx(folder / f"{name}.onnx", {})
        layers = fuse(graph)
        frames = np.random.default_rng(0).standard_normal((2, *graph.shapes[graph.frame][1:]), np.float32)
        yield lower_int8(graph, layers, target, precision_named("int8"), calibrate(graph, layers, [frames], "noise"))


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[KernelSpec]:
    folder = tmp_path_factory.mktemp("contract")
    half = precision_named("fp16")
    runs = (("x86-64-v4", FP32), ("raspberry-pi-4", FP32), ("raspberry-pi-5", half))
    made = [programs(folder, load_target(name), precision) for name, precision in runs]
    made += [int8_programs(folder, load_target(name)) for name in ("x86-64-v4-vnni", "raspberry-pi-4")]
    return [call.spec for found in made for program in found for call in program.calls]


def test_the_cases_cover_every_rule(specs: list[KernelSpec]) -> None:
    assert {spec.rule for spec in specs} >= RULES


def test_a_spec_is_a_value(specs: list[KernelSpec]) -> None:
    assert len(set(specs)) <= len(specs)
    for spec in specs:
        assert {spec: True}[spec]


def test_rules_can_be_part_of_a_symbol(specs: list[KernelSpec]) -> None:
    assert all(re.fullmatch("[a-z][a-z0-9_]*", spec.rule) for spec in specs)


def test_arguments_have_names_of_their_own_and_something_is_written(specs: list[KernelSpec]) -> None:
    for spec in specs:
        names = [argument.name for argument in spec.arguments]
        assert len(set(names)) == len(names)
        assert any(argument.role in ("output", "next_cache") for argument in spec.arguments)
        assert (spec.scratch_bytes > 0) == any(argument.role == "scratch" for argument in spec.arguments)


def test_stages_do_all_of_the_arithmetic(specs: list[KernelSpec]) -> None:
    fused = [spec for spec in specs if spec.stages]
    assert {spec.rule for spec in fused} == {"inverted_residual", "expand_depthwise"}
    assert all(sum(stage.flops for stage in spec.stages) == spec.flops for spec in fused)


def test_the_code_depends_on_nothing_but_the_spec(specs: list[KernelSpec]) -> None:
    by_rule = {spec.rule: spec for spec in specs}
    for rule, spec in by_rule.items():
        texts = [spec.write(name).script() for name in ("one", "other", "one")]
        assert texts[0] == texts[2], rule
        assert texts[0] == texts[1].replace("other", "one"), rule
