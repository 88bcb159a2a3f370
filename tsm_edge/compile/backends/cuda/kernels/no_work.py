"""Layers that are no work of their own: another shape of the same tensor, and the cut of a shift cache."""

from __future__ import annotations

from tsm_edge.compile.backends.cuda.kernels.copying import CopySpec
from tsm_edge.compile.backends.cuda.lowering import Lowering
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
    at.call(spec, {"source": source.buffer, "target": target.buffer}, at.label(layer))


def _is_view(at: Lowering, layer: ir.Layer) -> bool:
    """Of the same shape, or to a vector."""
    if not isinstance(layer, ir.View):
        return False
    old, new = at.graph.shapes[layer.source], at.graph.shapes[layer.output]
    return old == new or (len(new) in (2, 4) and new[0] == 1 and all(size == 1 for size in new[2:]))


VIEW = Rule("view", _is_view, _view)
CACHE_TAP = Rule(
    "cache_tap",
    lambda at, layer: isinstance(layer, ir.CacheTap),
    lambda at, layer: at.copy_caches(layer.source),
)
