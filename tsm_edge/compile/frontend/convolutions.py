"""Checks the channels of convolutions, which ONNX Runtime does only when it runs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tsm_edge.compile.ir.graph import Node, OnlineGraph
from tsm_edge.errors import ModelFileError


def check_convolutions(path: Path, graph: OnlineGraph) -> None:
    """Refuse a graph with a convolution whose source, weights, groups and bias do not fit together.

    Raises
    ------
    ModelFileError
        Naming the first such operator.
    """
    for node in graph.nodes:
        problem = next(_problems(graph, node), None) if node.op in ("Conv", "ConvTranspose") else None
        if problem:
            raise ModelFileError(
                f"{path}: operator {node.op} ({node.outputs[0]!r}) has {problem}", "export the model again"
            )


def _problems(graph: OnlineGraph, node: Node) -> Iterator[str]:
    source, weight = (graph.shapes[name] for name in node.inputs[:2])
    if len(weight) != len(source) or len(weight) < 3:
        yield f"a source of {list(source)} and weights of {list(weight)}, which do not fit together"
        return
    kernel, groups = list(node.attributes.get("kernel_shape", weight[2:])), node.attributes.get("group", 1)
    # A transposed convolution's weights are [in, out / groups, …].
    outputs, inputs = (weight[0], weight[1] * groups) if node.op == "Conv" else (weight[1] * groups, weight[0])
    if list(weight[2:]) != kernel:
        yield f"kernel_shape {kernel}, and weights of {list(weight)}"
    if groups < 1 or source[1] != inputs or outputs % groups or inputs % groups:
        yield f"group {groups}, a source of {list(source)} and weights of {list(weight)}, which do not fit together"
    if len(node.inputs) > 2 and node.inputs[2] and graph.shapes[node.inputs[2]] != (outputs,):
        yield f"a bias of {list(graph.shapes[node.inputs[2]])}, expected [{outputs}]"
