"""Which layers share a kernel, and by which algorithm: fused layers → units, each for one rule to turn into calls."""

from __future__ import annotations

from collections.abc import Sequence

from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.rule import Rule, Search
from tsm_edge.compile.backends.cpu.unit import Unit, layers_of
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.errors import CompileError

_AGAIN = "compile without these choices: the rules then decide"


def plan_units(
    graph: OnlineGraph, layers: Sequence[ir.Layer], core: Core, choices: Choices, rules: Sequence[Rule]
) -> tuple[Unit, ...]:
    """Part the layers into units, in execution order; a unit of several layers stands where its last one stood.

    First what was chosen, then what the rules find, one after the other; the rest are units of one layer.

    Raises
    ------
    CompileError
        A choice names layers that are not there, or that its rule cannot take.
    """
    names = ir.layer_names(graph, layers)
    by_name = {names[layer.output]: layer for layer in layers}
    units = [_chosen(graph, by_name, choice, rules) for choice in choices]
    chosen = {layer.output for unit in units for layer in layers_of(unit)}
    taken = set(chosen)
    for rule in rules:
        free = [layer for layer in layers if layer.output not in taken]
        found = rule.find(Search(graph, layers, frozenset(chosen), free, core)) if rule.find else ()
        units += found
        taken |= {layer.output for group in found for layer in group.layers}
    units += [layer for layer in layers if layer.output not in taken]
    position = {layer.output: index for index, layer in enumerate(layers)}
    return tuple(sorted(units, key=lambda unit: position[layers_of(unit)[-1].output]))


def _chosen(graph: OnlineGraph, by_name: dict[str, ir.Layer], choice: Choice, rules: Sequence[Rule]) -> Unit:
    missing = [name for name in choice.layers if name not in by_name]
    if missing:
        raise CompileError(f"choices: the model has no layer {missing[0]!r}", _AGAIN)
    layers = tuple(by_name[name] for name in choice.layers)
    rule = next((rule for rule in rules if rule.name == choice.rule), None)
    unit: Unit | None = rule.group(graph, layers, choice.settings) if rule and rule.group else None
    if unit is None and rule and not rule.group and len(layers) == 1:
        unit = layers[0]
    # The first rule that takes a unit is the one that lowers it.
    if unit is None or next(rule for rule in rules if rule.takes(unit)) is not rule:
        raise CompileError(f"choices: rule {choice.rule!r} cannot take the layers {', '.join(choice.layers)}", _AGAIN)
    return unit
