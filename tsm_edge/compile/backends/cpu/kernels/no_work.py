"""Layers that are no work of their own: another shape of the same tensor, and the cut of a shift cache."""

from __future__ import annotations

from tsm_edge.compile.backends.cpu.kernels.fallback import made_dense
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir


def _view(at: Lowering, layer: ir.View) -> None:
    if layer.source in at.tensors:
        at.tensors.alias(layer.output, layer.source)
    else:
        made_dense(at, layer.output, at.tensors.dense(layer.source))


def _cache_tap(at: Lowering, layer: ir.CacheTap) -> None:
    """Written where its source is made; a tap on a graph input is copied here."""
    at.copy_caches(layer.source)


VIEW = Rule("view", lambda unit: isinstance(unit, ir.View), _view)
CACHE_TAP = Rule("cache_tap", lambda unit: isinstance(unit, ir.CacheTap), _cache_tap)
