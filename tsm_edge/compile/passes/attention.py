"""Non-local attention over a clip: matrix products and a softmax as one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tsm_edge.compile.ir.graph import FROM_POSITIONS, TO_POSITIONS, OnlineGraph
from tsm_edge.compile.ir.layers import Attention, Generic, Layer, layer_sources


def with_attention(graph: OnlineGraph, layers: Sequence[Layer]) -> list[Layer]:
    """``softmax(a · bᵀ) · c`` of positions, back to images, as :class:`Attention`; other layers as they are."""
    made = {layer.output: layer for layer in layers if isinstance(layer, Generic)}
    found = {name: attention for name in made if (attention := _attention(graph, made, name)) is not None}
    inside = {name for attention in found.values() for name in _between(made, attention)}
    read = {name for layer in layers if layer.output not in inside for name in layer_sources(layer)}
    return [
        found.get(layer.output, layer) for layer in layers if layer.output not in inside - read - set(graph.outputs)
    ]


def _attention(graph: OnlineGraph, made: Mapping[str, Generic], output: str) -> Attention | None:
    back = made[output]
    product = _read(made, back, 0, "MatMul") if back.node.op == FROM_POSITIONS else None
    softmax = _read(made, product, 0, "Softmax")
    scores = _read(made, softmax, 0, "MatMul")
    query, key = _read(made, scores, 0, TO_POSITIONS), _read(made, scores, 1, TO_POSITIONS)
    value = _read(made, product, 1, TO_POSITIONS)
    if softmax is None or query is None or key is None or value is None:
        return None
    over_keys = softmax.node.attributes.get("axis", -1) in (-1, len(graph.shapes[softmax.output]) - 1)
    transposed = [bool(part.node.attributes["transposed"]) for part in (query, key, value)]
    if not over_keys or transposed != [False, True, False]:
        return None
    return Attention(query.sources[0], key.sources[0], value.sources[0], output)


def _read(made: Mapping[str, Generic], layer: Generic | None, index: int, op: str) -> Generic | None:
    """The operator that makes an input of a layer, if it is one of this kind."""
    if layer is None or index >= len(layer.node.inputs):
        return None
    found = made.get(layer.node.inputs[index])
    return found if found is not None and found.node.op == op else None


def _between(made: Mapping[str, Generic], attention: Attention) -> set[str]:
    """Tensors that an attention makes on the way, its output included: only it is to read them."""
    inside, waiting = set(), [attention.output]
    while waiting:
        name = waiting.pop()
        if name not in inside and name in made and name not in (attention.query, attention.key, attention.value):
            inside.add(name)
            waiting += made[name].sources
    return inside
