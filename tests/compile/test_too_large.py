"""Weights that are no numbers any more where they are stored in half precision: never compiled, always named."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import PRECISIONS
from tsm_edge.compile.backends.cpu.lower import lower as lower_for_cpu
from tsm_edge.compile.backends.cuda.lower import lower as lower_for_gpu
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.errors import CompileError

Lower = Callable[[OnlineGraph, list[ir.Layer]], Program]


def lower(target: str, precision: str) -> Lower:
    card = load_target(target)
    backend = lower_for_gpu if card.gpu else lower_for_cpu
    return lambda graph, layers: backend(graph, layers, card, PRECISIONS[precision])


def network() -> onnx.ModelProto:
    """Blocks of MobileNet and ResNet: every rule whose weights are stored in halfs."""
    graph = GraphBuilder(32, 32)
    x = graph.clip(graph.conv(graph.frame, 16, 3, 2), 0, 6)
    y = graph.clip(graph.conv(graph.shift(x, 3), 40), 0, 6)
    y = graph.clip(graph.depthwise(graph.clip(graph.depthwise(y), 0, 6), 3, 2), 0, 6)
    x = graph.relu(graph.conv(graph.conv(y, 64), 64, 3))
    x = graph.relu(graph.conv(x, 16, 3, 2))
    x = graph.relu(graph.conv(x, 32, 3, groups=2))
    x = graph.node("Mul", [x, graph.random(1, 32, 1, 1)], graph.shapes[x])
    return graph.model(graph.head(graph.node("Sigmoid", [x], graph.shapes[x]), 5))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnlineGraph:
    path = tmp_path_factory.mktemp("too_large") / "model.onnx"
    onnx.save(network(), str(path))
    return load_onnx(path)


def with_one_large(layer: ir.Layer) -> ir.Layer | None:
    """The same layer with a weight of 100 000, or all of its constants; None: it has none."""
    if isinstance(layer, ir.Convolution):
        weight = layer.weight.copy()
        weight.flat[-1] = 1e5
        return dataclasses.replace(layer, weight=weight)
    if isinstance(layer, ir.Elementwise) and not all(isinstance(each, str) for each in layer.operands):
        large = (each if isinstance(each, str) else np.full_like(each, 1e5) for each in layer.operands)
        return dataclasses.replace(layer, operands=tuple(large))
    return None


def refusal(lowering: Callable[[], Program]) -> CompileError | None:
    """What is said, and nothing else; None: it is a program of finite weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            program = lowering()
        except CompileError as error:
            return error
    assert all(np.isfinite(weights).all() for weights in program.weights)
    return None


@pytest.mark.parametrize(
    ("target", "precision", "in_halfs"),
    [
        ("raspberry-pi-5", "fp16", 10),
        ("jetson-nano", "fp16", 4),
        ("jetson-nano", "fp16-fp32", 3),
        ("jetson-nano", "fp32", 0),
        ("raspberry-pi-5", "fp32", 0),
    ],
)
def test_no_weight_becomes_infinite_unnoticed(target: str, precision: str, in_halfs: int, graph: OnlineGraph) -> None:
    layers = fuse(graph)
    names, refused = ir.layer_names(graph, layers), 0
    for index, layer in enumerate(layers):
        large = with_one_large(layer)
        if large is None:
            continue
        changed = [*layers[:index], large, *layers[index + 1 :]]
        error = refusal(lambda changed=changed: lower(target, precision)(graph, changed))
        if error is not None:
            refused += 1
            assert error.problem.endswith(": its weights are too large for float16, expected 65504 at most")
            assert names[layer.output].split(" ")[0] in error.problem
            assert error.hint == "compile in fp32: leave --precision out"
    assert refused >= in_halfs
    assert (refused == 0) == (precision == "fp32")


def test_a_bound_that_is_infinite_in_the_network_may_be_so_in_halfs(tmp_path: Path) -> None:
    builder = GraphBuilder(16, 16)
    x = builder.conv(builder.frame, 8, 3, 2)
    bounds = builder.constant(np.array([np.inf, 1.0] * 4, np.float32).reshape(1, 8, 1, 1))
    x = builder.node("Min", [x, bounds], builder.shapes[x])
    onnx.save(builder.model(builder.head(x, 5)), str(tmp_path / "model.onnx"))
    bounded = load_onnx(tmp_path / "model.onnx")
    for target in ("raspberry-pi-5", "jetson-nano"):
        assert lower(target, "fp16")(bounded, fuse(bounded)).calls
