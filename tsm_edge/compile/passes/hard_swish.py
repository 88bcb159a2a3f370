"""Hard swish, which ONNX Runtime's simplification writes as a product with a hard sigmoid, back to one operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layers import Clamp, Elementwise, Layer, layer_sources

_PARAMETERS = (1 / 6, 0.5)


def with_hard_swish(graph: OnlineGraph, layers: Sequence[Layer]) -> list[Layer]:
    """The layers; ``x · hard_sigmoid(x)`` is one of them where nobody else reads the hard sigmoid."""
    gates = {layer.output: layer for layer in layers if isinstance(layer, Elementwise) and _is_gate(graph, layer)}
    readers = [source for layer in layers for source in layer_sources(layer)]
    made: list[Layer] = []
    taken: set[str] = set()
    for layer in layers:
        gate = _gate_of(layer, gates) if isinstance(layer, Elementwise) else None
        if isinstance(layer, Elementwise) and gate is not None and readers.count(gate.output) == 1:
            taken.add(gate.output)
            made.append(Elementwise("HardSwish", gate.operands, layer.output, clamp=layer.clamp))
        else:
            made.append(layer)
    return [layer for layer in made if layer.output not in taken]


def _is_gate(graph: OnlineGraph, layer: Elementwise) -> bool:
    in_levels = graph.scales is not None and layer.output in graph.scales.tensors
    known = layer.operation == "HardSigmoid" and np.allclose(layer.parameters, _PARAMETERS, rtol=1e-6)
    return bool(known) and layer.clamp == Clamp() and not in_levels and not graph.is_output(layer.output)


def _gate_of(layer: Elementwise, gates: dict[str, Elementwise]) -> Elementwise | None:
    """The hard sigmoid that a product multiplies with what it was made of."""
    if layer.operation != "Mul":
        return None
    for operand in layer_sources(layer):
        gate = gates.get(operand)
        if gate is not None and sorted(layer_sources(layer)) == sorted((operand, gate.source)):
            return gate
    return None
