"""Does the network itself turn its logits into probabilities? Then nothing after it may do so again."""

from __future__ import annotations

import math

from tsm_edge.artifact.manifest import Activation
from tsm_edge.compile.ir.graph import Node, OnlineGraph

# They change the shape at most.
_SAME_VALUES = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout"}


def output_activation(graph: OnlineGraph) -> Activation:
    """The function of the graph's end: a softmax (also one written out) or a sigmoid; empty: the output is logits.

    A log-softmax counts as none: it differs from logits by one number for all classes, which softmax does not see.
    """
    makers = {output: node for node in graph.nodes for output in node.outputs}
    last = _maker(makers, graph.frame_logits or graph.logits)
    if last is None:
        return ""
    if last.op == "Sigmoid":
        return "sigmoid"
    if last.op == "Softmax":
        return "softmax" if _over_classes(last, graph) else ""
    before = [_maker(makers, name) for name in last.inputs]
    if last.op == "Exp" and _is(before[0], "LogSoftmax"):
        return "softmax"
    # exp(x) / sum(exp(x))
    if last.op == "Div" and _is(before[0], "Exp") and _is(before[1], "ReduceSum"):
        summed = _maker(makers, before[1].inputs[0]) if before[1] else None
        return "softmax" if summed is before[0] else ""
    return ""


def _maker(makers: dict[str, Node], tensor: str) -> Node | None:
    """The operator that computes a tensor's values."""
    node = makers.get(tensor)
    while node is not None and node.op in _SAME_VALUES:
        node = makers.get(node.inputs[0])
    return node


def _is(node: Node | None, op: str) -> bool:
    return node is not None and node.op == op


def _over_classes(node: Node, graph: OnlineGraph) -> bool:
    """Whether a softmax is over all values a frame has (over a dimension of 1 it makes ones)."""
    shape = graph.shapes[node.inputs[0]]
    axis: int = node.attributes.get("axis", -1)
    return shape[axis] * graph.frames == math.prod(shape)
