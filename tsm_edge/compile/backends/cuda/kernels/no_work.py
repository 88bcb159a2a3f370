"""Layers that are no work of their own: another shape of the same tensor, and the cut of a shift cache."""

from __future__ import annotations

from tsm_edge.compile.backends.cuda.kernels.copying import CopySpec
from tsm_edge.compile.backends.cuda.lowering import Lowering, keeps_scale
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.layout import planar


def _view(at: Lowering, layer: ir.View) -> None:
    source = at.tensors[layer.source]
    image, shape = source.image, at.graph.shapes[layer.output]
    if (image.height, image.width) == (1, 1) or at.graph.shapes[layer.source] == shape:
        at.tensors.put(layer.output, source)
        return
    # Planes have gaps between them, which the new shape does not know.
    target = at.tensors.output(layer.output, source.scale)
    plain = planar(image.height, image.width, image.channels, dtype=target.image.dtype)
    spec = CopySpec(image, plain)
    at.call(spec, {"source": source.buffer, "target": target.buffer}, at.label((layer,)))


def _is_view(at: Lowering, layer: ir.Layer) -> bool:
    return isinstance(layer, ir.View) and keeps_scale(at.graph.shapes, layer)


VIEW = Rule("view", _is_view, _view)
CACHE_TAP = Rule(
    "cache_tap",
    lambda at, layer: isinstance(layer, ir.CacheTap),
    lambda at, layer: at.copy_caches(layer.source),
)
