"""The many spellings of ONNX → few: what every stage after the reader need not know of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tsm_edge.compile.frontend.movement import reduce_movement
from tsm_edge.compile.frontend.node_builder import NodeBuilder
from tsm_edge.compile.ir.graph import OLDEST_OPSET, Node, OnlineGraph

# Inputs that ONNX wants to be scalars. Exporters also write tensors of one element there.
SCALAR_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "CumSum": (1,),
    "DequantizeLinear": (1, 2),
    "Dropout": (1, 2),
    "OneHot": (1,),
    "Pad": (2,),
    "QuantizeLinear": (1, 2),
    "Range": (0, 1, 2),
    "Trilu": (1,),
}


def rewritten(path: Path, graph: OnlineGraph) -> OnlineGraph:
    """The same network in fewer kinds of operators; every node has one output that is read.

    Parameters
    ----------
    path : Path
        The file, for messages.
    graph : OnlineGraph

    Raises
    ------
    ModelFileError
        An operator that only moves elements has an index out of range.
    """
    graph = _scalars(_means(_single_outputs(_splits(graph))))
    # Before operator set 13 Slice, Squeeze and others have attributes where there are inputs now.
    return reduce_movement(path, graph) if graph.opset >= OLDEST_OPSET else graph


def _scalars(graph: OnlineGraph) -> OnlineGraph:
    """Constants of one element where ONNX says scalar lose their dimensions."""
    builder = NodeBuilder(graph)

    def scalar(name: str) -> str:
        value = graph.constants.get(name)
        return name if value is None or value.ndim == 0 or value.size != 1 else builder.constant(value.reshape(()))

    nodes = []
    for node in graph.nodes:
        places = SCALAR_INPUTS.get(node.op, ())
        inputs = tuple(scalar(name) if index in places else name for index, name in enumerate(node.inputs))
        nodes.append(replace(node, inputs=inputs))
    return builder.finished(nodes)


def _splits(graph: OnlineGraph) -> OnlineGraph:
    """A split, and a chunk, is a slice for each part."""
    if graph.opset < OLDEST_OPSET:
        return graph
    builder = NodeBuilder(graph)

    def slices(node: Node) -> Iterator[Node]:
        source = node.inputs[0]
        axis = node.attributes.get("axis", 0) % len(graph.shapes[source])
        start = 0
        for name, size in zip(node.outputs, _split_sizes(graph, node, axis), strict=False):
            if name:
                yield builder.slice(source, axis, start, start + size, name)
            start += size

    return builder.finished(
        new for node in graph.nodes for new in (slices(node) if node.op == "Split" else iter([node]))
    )


def _split_sizes(graph: OnlineGraph, node: Node, axis: int) -> list[int]:
    """Given, or as equal as they can be."""
    given = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is not None:
        return [int(size) for size in given.reshape(-1)]
    total, parts = graph.shapes[node.inputs[0]][axis], len(node.outputs)
    size = math.ceil(total / parts)
    return [max(0, min(size, total - size * index)) for index in range(parts)]


def _single_outputs(graph: OnlineGraph) -> OnlineGraph:
    """A node with several outputs becomes one for each output that is read."""
    read = {name for node in graph.nodes for name in node.inputs}

    def each(node: Node) -> Iterator[Node]:
        for index, name in enumerate(node.outputs):
            if name and (name in read or graph.is_output(name)):
                yield replace(node, outputs=(name,), result=index)

    return NodeBuilder(graph).finished(new for node in graph.nodes for new in each(node))


def _means(graph: OnlineGraph) -> OnlineGraph:
    """``x.mean(3).mean(2)`` is one mean."""
    builder = NodeBuilder(graph)
    made: dict[str, Node] = {}
    for node in graph.nodes:
        made[node.outputs[0]] = _one_mean(graph, builder, node, made.get(node.inputs[0]) if node.inputs else None)
    return builder.finished(made.values())


def _one_mean(graph: OnlineGraph, builder: NodeBuilder, outer: Node, inner: Node | None) -> Node:
    """A mean of a mean as one; any other node as it is."""
    axes = _mean_axes(builder, outer)
    inner_axes = None if inner is None else _mean_axes(builder, inner)
    kept = outer.attributes.get("keepdims", 1)
    if axes is None or inner is None or inner_axes is None or inner.attributes.get("keepdims", 1) != kept:
        return outer
    source = inner.inputs[0]
    left = [axis for axis in range(len(graph.shapes[source])) if kept or axis not in inner_axes]
    both = sorted({*inner_axes, *(left[axis] for axis in axes)})
    return builder.mean(source, both, kept, outer.outputs[0])


def _mean_axes(builder: NodeBuilder, node: Node) -> list[int] | None:
    """The axes of a mean where they are known, counted from 0; None: it is no such."""
    if node.op != "ReduceMean":
        return None
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1:
        constant = builder.constants.get(node.inputs[1])
        axes = None if constant is None else constant.reshape(-1).tolist()
    rank = len(builder.shapes[node.inputs[0]])
    return sorted(axis % rank for axis in axes) if axes and rank else None
