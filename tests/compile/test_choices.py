"""What rules decide, written down and used instead of them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.backends.cpu.lower import lower
from tsm_edge.compile.backends.cpu.rules import settings_of_rules
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.errors import CompileError


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnlineGraph:
    """An inverted residual by rows, one by panels, a 3×3 convolution for Winograd, a pointwise and a dense one."""
    builder = GraphBuilder(56, 56)
    x = builder.relu(builder.conv(builder.frame, 64, 3, 2))
    x = builder.relu(builder.conv(x, 64, 3))
    y = builder.clip(builder.depthwise(builder.clip(builder.conv(builder.shift(x, 8), 384), 0, 6)), 0, 6)
    x = builder.add(builder.conv(y, 64), x)
    x = builder.max_pool(x, 2, 2)
    y = builder.clip(builder.depthwise(builder.clip(builder.conv(builder.shift(x, 8), 192), 0, 6)), 0, 6)
    x = builder.add(builder.conv(builder.relu(builder.conv(y, 64)), 64), x)
    path = tmp_path_factory.mktemp("choices") / "model.onnx"
    onnx.save(builder.model(builder.head(builder.depthwise(x), 5)), str(path))
    return load_onnx(path, {})


def renamed(graph: OnlineGraph, *names: str) -> OnlineGraph:
    """The same graph, its convolutions called that."""
    called = iter(names)
    nodes = [dataclasses.replace(node, name=next(called) if node.op == "Conv" else "") for node in graph.nodes]
    return dataclasses.replace(graph, nodes=tuple(nodes))


def compiled(graph: OnlineGraph, target: str, choices: Choices | None = None) -> Program:
    return lower(graph, fuse(graph), load_target(target), FP32, choices)


def tables(program: Program) -> list[dict[str, Any]]:
    """Through JSON, as a record file would hold them."""
    read: list[dict[str, Any]] = json.loads(json.dumps([choice.to_table() for choice in program.choices]))
    return read


def read(found: list[dict[str, Any]]) -> Choices:
    return Choices.from_tables(found, settings_of_rules())


@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64", "raspberry-pi-4", "raspberry-pi-3-32bit"])
def test_choices_that_are_written_and_read_make_the_same_program(graph: OnlineGraph, target: str) -> None:
    program = compiled(graph, target)
    again = compiled(graph, target, read(tables(program)))
    assert [(call.spec, call.buffers) for call in again.calls] == [(call.spec, call.buffers) for call in program.calls]
    assert again.choices == program.choices


def test_a_choice_replaces_what_the_rule_would_do(graph: OnlineGraph) -> None:
    program = compiled(graph, "raspberry-pi-4")
    found = tables(program)
    pointwise = next(table for table in found if table["rule"] == "convolution")
    pointwise["settings"]["tile"]["block"] = 1
    changed = [call.spec for call in compiled(graph, "raspberry-pi-4", read([pointwise])).calls]
    pairs = [(one.spec, other) for one, other in zip(program.calls, changed, strict=True) if one.spec != other]
    assert [dataclasses.replace(other, tile=one.tile) for one, other in pairs] == [one for one, _ in pairs]
    assert [other.tile.block for _, other in pairs] == [1]


def test_fusion_and_algorithm_are_choices_too(graph: OnlineGraph) -> None:
    """A board's own choices on another board, whose rules would fuse and compute otherwise."""
    server, board = compiled(graph, "x86-64-v4"), compiled(graph, "raspberry-pi-3")
    assert [choice.layers for choice in server.choices] != [choice.layers for choice in board.choices]
    plan = [choice for choice in tables(board) if len(choice["layers"]) > 1 or choice["rule"] == "winograd"]
    for other in (plan, [table for table in tables(board) if table not in plan]):
        forced = compiled(graph, "x86-64-v4", read(other))
        assert {tuple(table["layers"]) for table in other} <= {choice.layers for choice in forced.choices}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "magic"}, "'magic' is missing or unknown"),
        ({"layers": ["nowhere"]}, "the model has no layer 'nowhere'"),
        ({"layers": []}, "there is no layer"),
        ({"settings": {"tile": {"rows": "seven"}}}, "cannot be read"),
        ({"settings": {"speed": 11}}, "cannot be read"),
        ({"rule": "inverted_residual", "settings": {}}, "cannot be read"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(graph: OnlineGraph, change: dict[str, Any], message: str) -> None:
    table = next(table for table in tables(compiled(graph, "x86-64")) if table["rule"] == "convolution")
    with pytest.raises(CompileError, match=message):
        compiled(graph, "x86-64", read([{**table, **change}]))


def test_layers_have_the_networks_own_names(graph: OnlineGraph) -> None:
    """What was chosen is written down by the names of modules, not by those an exporter gives tensors."""
    names = [f"stage.{index} conv" for index in range(len([node for node in graph.nodes if node.op == "Conv"]))]
    program = compiled(renamed(graph, *names), "raspberry-pi-4")
    assert [name for choice in program.choices for name in choice.layers if name.startswith("stage")] == names


def test_layers_of_one_name_are_told_apart_by_their_tensors(graph: OnlineGraph) -> None:
    convolutions = [node.outputs[0] for node in graph.nodes if node.op == "Conv"]
    made = {layer.output for layer in fuse(graph)}
    names = ["twice", "twice", "once", *["" for _ in convolutions[3:]]]
    choices = list(compiled(renamed(graph, *names), "raspberry-pi-4").choices)
    found = [name for choice in choices for name in choice.layers]
    assert "once" in found
    assert "twice" not in found
    assert set(found) - {"once"} <= made
    assert len(set(found)) == len(found)


def test_a_layer_is_chosen_for_once(graph: OnlineGraph) -> None:
    choice = next(iter(compiled(graph, "x86-64").choices))
    with pytest.raises(CompileError, match="is in two kernels"):
        Choices((choice, dataclasses.replace(choice)))
