"""What may be chosen instead: for every kernel of a program, the choices that may be faster than the rules'.

The rules' model counts instructions and bytes; a board has clocks that throttle, a driver with a compiler of its own,
and caches that nobody documents. So a tuner asks here for what to measure: the rule's own other settings, the layers
of a fused kernel by themselves, the other algorithms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsm_edge.cards import TargetCard
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.cuda.kernels import convolution, expand_depthwise_rule, patches, winograd
from tsm_edge.compile.backends.cuda.kernels.depthwise_rule import RULE as DEPTHWISE
from tsm_edge.compile.backends.cuda.kernels.pointwise import RULE as POINTWISE
from tsm_edge.compile.backends.cuda.lower import finished, walked
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.freedom import Freedom
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import Program

# The algorithms of a convolution with a window.
_WINDOWED = (convolution.RULE.name, winograd.RULE.name, patches.RULE.name)


def freedoms(
    graph: OnlineGraph, layers: Sequence[ir.Layer], target: TargetCard, precision: Precision
) -> tuple[Program, tuple[Freedom, ...]]:
    """The program by the rules, and what may be chosen instead for each of its kernels.

    Raises
    ------
    CompileError
        As of :func:`tsm_edge.compile.backends.cuda.lower.lower`.
    """
    lowering, _ = walked(graph, layers, target, precision, Choices())
    names = ir.layer_names(graph, layers)
    by_name = {names[layer.output]: layer for layer in layers}
    found = []
    for kernels in groups(lowering, layers):
        of_kernels = [by_name[name] for kernel in kernels for name in kernel.layers]
        unique = dict.fromkeys(_others(lowering, kernels, of_kernels))
        found.append(Freedom(kernels, tuple(other for other in unique if other != kernels)))
    return finished(lowering, precision), tuple(found)


def groups(at: Lowering, layers: Sequence[ir.Layer]) -> Iterator[tuple[Choice, ...]]:
    """Of a step that is written down, the kernels that something may be chosen for.

    Pairs that may be one kernel come first: an expansion and its depthwise convolution that the rules have apart. Then
    every kernel alone.
    """
    alone = {choice.layers: choice for choice in at.choices}
    for pair in expand_depthwise_rule.pairs_apart(at, layers):
        first, second = (alone[at.names_of((layer,))] for layer in pair)
        yield first, second
    yield from ((choice,) for choice in at.choices)


def _others(at: Lowering, kernels: tuple[Choice, ...], layers: Sequence[ir.Layer]) -> Iterator[tuple[Choice, ...]]:
    if len(kernels) > 1:
        fused = expand_depthwise_rule
        both = tuple(name for kernel in kernels for name in kernel.layers)
        yield from ((Choice(fused.RULE.name, both, one),) for one in fused.other_settings(at, *layers))
        return
    (choice,) = kernels
    if choice.rule == expand_depthwise_rule.RULE.name:
        expand, depthwise = choice.layers
        yield Choice(POINTWISE.name, (expand,)), Choice(DEPTHWISE.name, (depthwise,))
    if choice.rule in _WINDOWED:
        yield from _algorithms(at, choice, layers[0])
    for settings in at.others[choice.layers]:
        yield (Choice(choice.rule, choice.layers, settings),)


def _algorithms(at: Lowering, choice: Choice, layer: ir.Layer) -> Iterator[tuple[Choice, ...]]:
    """The direct sum with the rules' tile, and the other algorithms with the best of their tiles."""
    if choice.rule != convolution.RULE.name:
        yield (Choice(convolution.RULE.name, choice.layers),)
    for rule, settings in (
        (winograd.RULE.name, winograd.other_settings(at, layer)),
        (patches.RULE.name, patches.other_settings(at, layer)),
    ):
        yield from ((Choice(rule, choice.layers, one),) for one in settings)
