"""Whether a network makes probabilities of its logits itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.compile.frontend.activation import output_activation
from tsm_edge.compile.frontend.onnx_reader import load_onnx

SHAPE = (1, 5)


def written_out(graph: GraphBuilder, logits: str, summed: str = "") -> str:
    """exp(x - max) / sum, as some exporters write a softmax; ``summed``: of something else."""
    largest = graph.node("ReduceMax", [logits, graph.constant([1], np.int64)], (1, 1), keepdims=1)
    powers = graph.node("Exp", [graph.node("Sub", [logits, largest], SHAPE)], SHAPE)
    total = graph.node("ReduceSum", [summed or powers, graph.constant([1], np.int64)], (1, 1), keepdims=1)
    return graph.node("Div", [powers, total], SHAPE)


def unsqueezed(graph: GraphBuilder, logits: str) -> str:
    wide = graph.node("Reshape", [logits, graph.constant([1, 5, 1, 1], np.int64)], (1, 5, 1, 1))
    return graph.node("Flatten", [graph.node("Softmax", [wide], (1, 5, 1, 1), axis=1)], SHAPE, axis=1)


ENDS: dict[str, tuple[str, Callable[[GraphBuilder, str], str]]] = {
    "logits": ("", lambda graph, x: x),
    "relu": ("", lambda graph, x: graph.relu(x)),
    "softmax": ("softmax", lambda graph, x: graph.node("Softmax", [x], SHAPE, axis=1)),
    "softmax, last axis": ("softmax", lambda graph, x: graph.node("Softmax", [x], SHAPE, axis=-1)),
    "softmax over the batch": ("", lambda graph, x: graph.node("Softmax", [x], SHAPE, axis=0)),
    "softmax, then a shape": ("softmax", unsqueezed),
    "softmax, then more": ("", lambda graph, x: graph.dense(graph.node("Softmax", [x], SHAPE, axis=1), 5)),
    "softmax written out": ("softmax", written_out),
    "another quotient": ("", lambda graph, x: written_out(graph, x, x)),
    "exp of log-softmax": (
        "softmax",
        lambda graph, x: graph.node("Exp", [graph.node("LogSoftmax", [x], SHAPE, axis=1)], SHAPE),
    ),
    "log-softmax": ("", lambda graph, x: graph.node("LogSoftmax", [x], SHAPE, axis=1)),
    "sigmoid": ("sigmoid", lambda graph, x: graph.node("Sigmoid", [x], SHAPE)),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_network_tells(end: str, tmp_path: Path) -> None:
    expected, finish = ENDS[end]
    graph = GraphBuilder(6, 8)
    model = graph.model(finish(graph, graph.head(graph.conv(graph.frame, 4), 5)))
    onnx.save(model, str(tmp_path / "model.onnx"))
    assert output_activation(load_onnx(tmp_path / "model.onnx")) == expected
