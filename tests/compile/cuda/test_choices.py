"""What the rules of GPUs decide, written down by the layers' names and used instead of them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.backends.cuda.lower import lower
from tsm_edge.compile.backends.cuda.rules import settings_of_rules
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.errors import CompileError

NAMES = ("stem", "block expand", "block depthwise", "block project", "twice", "twice")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnlineGraph:
    builder = GraphBuilder(32, 32)
    x = builder.relu(builder.conv(builder.frame, 16, 3, 2))
    y = builder.clip(builder.depthwise(builder.clip(builder.conv(builder.shift(x, 2), 48), 0, 6)), 0, 6)
    x = builder.add(builder.conv(y, 16), x)
    x = builder.conv(builder.relu(builder.conv(x, 32)), 24)
    path = tmp_path_factory.mktemp("choices") / "model.onnx"
    onnx.save(builder.model(builder.head(x, 5)), str(path))
    made = load_onnx(path, {})
    called = iter(NAMES)
    nodes = [dataclasses.replace(node, name=next(called, "") if node.op == "Conv" else "") for node in made.nodes]
    return dataclasses.replace(made, nodes=tuple(nodes))


def compiled(graph: OnlineGraph, choices: Choices | None = None) -> Program:
    return lower(graph, fuse(graph), load_target("jetson-nano"), FP32, choices)


def tables(program: Program) -> list[dict[str, Any]]:
    """Through JSON, as a record file would hold them."""
    read: list[dict[str, Any]] = json.loads(json.dumps([choice.to_table() for choice in program.choices]))
    return read


def read(found: list[dict[str, Any]]) -> Choices:
    return Choices.from_tables(found, settings_of_rules())


def test_choices_that_are_written_and_read_make_the_same_program(graph: OnlineGraph) -> None:
    program = compiled(graph)
    again = compiled(graph, read(tables(program)))
    assert [(call.spec, call.buffers) for call in again.calls] == [(call.spec, call.buffers) for call in program.calls]
    assert again.choices == program.choices


def test_they_are_of_layers_by_their_names(graph: OnlineGraph) -> None:
    names = [name for choice in compiled(graph).choices for name in choice.layers]
    assert {"stem", "block expand", "block depthwise", "block project"} <= set(names)
    assert "twice" not in names  # two layers have it: they are told apart by their tensors
    assert len(set(names)) == len(names)


def test_a_choice_replaces_what_the_rule_would_do(graph: OnlineGraph) -> None:
    program = compiled(graph)
    table = next(table for table in tables(program) if table["layers"] == ["block project"])
    table["settings"]["last_apart"] = not table["settings"]["last_apart"]
    changed = compiled(graph, read([table]))
    assert [
        call.layer for call, other in zip(program.calls, changed.calls, strict=True) if call.spec != other.spec
    ] == ["block project"]


def test_a_choice_for_no_layer_is_refused(graph: OnlineGraph) -> None:
    table = tables(compiled(graph))[0]
    with pytest.raises(CompileError, match="the model has no layer 'nowhere'"):
        compiled(graph, read([{**table, "layers": ["nowhere"]}]))
