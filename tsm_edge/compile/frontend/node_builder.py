"""New nodes for a graph: what rewrites of the operator graph are written with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsm_edge.compile.ir.graph import Node, OnlineGraph, Shape

# Of ReduceMean, from this operator set on.
AXES_ARE_AN_INPUT = 18


class NodeBuilder:
    """Collects the constants and shapes of new nodes; the graph itself stays as it is.

    Parameters
    ----------
    graph : OnlineGraph

    Attributes
    ----------
    constants : dict of str to numpy.ndarray
    shapes : dict of str to tuple of int
        The graph's, and those of the new nodes.
    """

    def __init__(self, graph: OnlineGraph) -> None:
        self._graph = graph
        self.constants = dict(graph.constants)
        self.shapes = dict(graph.shapes)

    def constant(self, value: NDArray[Any]) -> str:
        """Name of a new constant."""
        name = self.unused(f"constant {len(self.constants)}")
        self.constants[name] = value
        self.shapes[name] = value.shape
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, shape: Shape, **attributes: Any) -> Node:
        """A node with one output, float32."""
        self.shapes[output] = shape
        return Node(op, tuple(inputs), (output,), attributes, output)

    def slice(self, source: str, axis: int, start: int, stop: int, output: str) -> Node:
        """``output`` is ``source`` from ``start`` to ``stop`` along ``axis``."""
        numbers = [self.constant(np.array([value], np.int64)) for value in (start, stop, axis)]
        shape = self.shapes[source]
        return self.node("Slice", [source, *numbers], output, (*shape[:axis], stop - start, *shape[axis + 1 :]))

    def channels(self, output: str, parts: Sequence[tuple[str, int, int]]) -> list[Node]:
        """``output`` is a concatenation of channels of others: source, start, stop."""
        if len(parts) == 1:
            source, start, stop = parts[0]
            if stop - start == self.shapes[source][1]:
                return [self.node("Identity", [source], output, self.shapes[source])]
            return [self.slice(source, 1, start, stop, output)]
        nodes, names = [], []
        for source, start, stop in parts:
            if source in self.constants:
                names.append(self.constant(np.ascontiguousarray(self.constants[source][:, start:stop])))
            elif stop - start == self.shapes[source][1]:
                names.append(source)
            else:
                names.append(self.unused(f"{source}[{start}:{stop}]"))
                nodes.append(self.slice(source, 1, start, stop, names[-1]))
        return [*nodes, self.node("Concat", names, output, self.shapes[output], axis=1)]

    def gathered(self, output: str, sources: Sequence[str], places: NDArray[np.int64]) -> list[Node]:
        """``output`` takes each element from its place in the ``sources``, laid flat one after the other."""
        flat = self.constant(np.array([-1], np.int64))
        nodes, names = [], []
        for source in sources:
            if source in self.constants:
                names.append(self.constant(self.constants[source].reshape(-1)))
                continue
            names.append(self.unused(f"{source} flat"))
            nodes.append(self.node("Reshape", [source, flat], names[-1], (math.prod(self.shapes[source]),)))
        whole = names[0]
        if len(names) > 1:
            whole = self.unused(f"{output} sources")
            nodes.append(self.node("Concat", names, whole, (sum(self.shapes[name][0] for name in names),), axis=0))
        return [*nodes, self.node("Gather", [whole, self.constant(places)], output, places.shape, axis=0)]

    def mean(self, source: str, axes: Sequence[int], keepdims: int, output: str) -> Node:
        """The mean of ``source`` over ``axes``."""
        shape = self.shapes[output]
        if self._graph.opset < AXES_ARE_AN_INPUT:
            return self.node("ReduceMean", [source], output, shape, axes=list(axes), keepdims=keepdims)
        inputs = [source, self.constant(np.array(axes, np.int64))]
        return self.node("ReduceMean", inputs, output, shape, keepdims=keepdims)

    def finished(self, nodes: Iterable[Node]) -> OnlineGraph:
        """The graph with ``nodes`` instead of its own, without those nobody needs."""
        graph = self._graph
        needed = set(graph.outputs)
        kept = []
        for node in reversed(list(nodes)):
            if needed.intersection(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        constants = {name: value for name, value in self.constants.items() if name in needed}
        return dataclasses.replace(graph, nodes=tuple(kept[::-1]), constants=constants, shapes=self.shapes)

    def unused(self, name: str) -> str:
        """A name that no tensor has, like the one given."""
        while name in self.shapes or name in self.constants:
            name += "'"
        return name
