"""Which element-wise operators may compute on 8-bit levels: those between images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layers import Elementwise, Layer, View, layer_sources


def with_quantisable(graph: OnlineGraph, layers: Sequence[Layer]) -> list[Layer]:
    """The layers; element-wise ones know whether they may."""
    return [
        replace(layer, quantisable=_may(graph, layers, layer)) if isinstance(layer, Elementwise) else layer
        for layer in layers
    ]


def _may(graph: OnlineGraph, layers: Sequence[Layer], layer: Elementwise) -> bool:
    names = (*layer_sources(layer), layer.output)
    if graph.scales is not None and not all(name in graph.scales.tensors for name in names):
        return False  # the file has it in float32
    return all(len(graph.shapes[name]) == 4 for name in names) and not _is_result(graph, layers, layer.output)


def _is_result(graph: OnlineGraph, layers: Sequence[Layer], tensor: str) -> bool:
    """Whether a tensor is the logits, maybe under another shape."""
    views = [layer for layer in layers if isinstance(layer, View) and layer.source == tensor]
    return tensor == graph.logits or any(_is_result(graph, layers, view.output) for view in views)
