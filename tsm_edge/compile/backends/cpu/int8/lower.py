"""Fused layers in integers + target card → a program: the walk over the layers, each turned into calls by its rule.

Layers without an integer form are those of the float32 rules, between conversions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tsm_edge.cards import TargetCard
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.cpu.choose.fusion import Block
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering
from tsm_edge.compile.backends.cpu.int8.plan import layers_of, plan_units
from tsm_edge.compile.backends.cpu.int8.rules import RULES
from tsm_edge.compile.backends.cpu.rules import rule_for
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import Program, StoredLevels
from tsm_edge.compile.ir.quantisation import Quantisation, has_integer_form


def lower_int8(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    quantisation: Quantisation,
) -> Program:
    """Decide layouts and write down the calls of one step.

    Raises
    ------
    CompileError
        A layer no rule can compile, or a target without instructions for it.
    """
    at = ByteLowering(graph, layers, target, quantisation)
    at.copy_caches(graph.frame)
    for unit in plan_units(at, layers):
        if isinstance(unit, Block) or has_integer_form(unit):
            RULES[type(unit)](at, unit)
        else:
            for source in ir.layer_sources(unit):
                at.in_float32(source)
            rule_for(unit).lower(at.floats, unit)
        at.copy_caches(layers_of(unit)[-1].output)
    logits = at.in_float32(graph.logits).buffer
    levels = tuple(_stored(at, cache.input) for cache in graph.caches)
    return replace(at.floats.program(logits, at.caches, precision), cache_levels=levels)


def _stored(at: ByteLowering, cache: str) -> StoredLevels:
    scale = at.scale(cache)
    return StoredLevels(scale.step, scale.zero, flip=at.instructions.offset)
