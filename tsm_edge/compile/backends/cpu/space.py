"""What may be chosen instead: for every kernel of a program, the choices that may be faster than the rules'.

The rules know the card and not the board: its memory, the L2 cache it really gets, what its prefetchers do. So a tuner
asks here for what to measure: the rule's own other settings, the same layers in other kernels, the other algorithm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tsm_edge.cards import TargetCard
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.cpu.choose.tiles import winograd_tiles
from tsm_edge.compile.backends.cpu.choose.winograd import OUTPUTS, winograd_fits
from tsm_edge.compile.backends.cpu.int8.lower import finished_int8, walked_int8
from tsm_edge.compile.backends.cpu.kernels import winograd
from tsm_edge.compile.backends.cpu.lower import finished, walked
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.freedom import Freedom
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import Packed, Program
from tsm_edge.compile.ir.quantisation import Quantisation

# Before the names of the rules for integers.
_INT8 = "int8_"
# Splits of Winograd's algorithm tried for a layer and size of tile.
MOST_SPLITS = 3


def freedoms(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    quantisation: Quantisation | None = None,
) -> tuple[Program, tuple[Freedom, ...], Packed]:
    """The program by the rules, what may be chosen instead for each of its kernels, and the weights as it has them.

    ``quantisation`` is that of a network in integers.

    Raises
    ------
    CompileError
        As of :func:`tsm_edge.compile.backends.cpu.lower.lower`.
    """
    if quantisation is None:
        lowering = walked(graph, layers, target, precision, Choices())
        program = finished(lowering, precision)
    else:
        at = walked_int8(graph, layers, target, quantisation, Choices())
        lowering, program = at.floats, finished_int8(at, layers, precision)
    names = ir.layer_names(graph, layers)
    by_name = {names[layer.output]: layer for layer in layers}
    found = []
    for choice in lowering.choices:
        unique = dict.fromkeys(_others(lowering, choice, [by_name[name] for name in choice.layers]))
        found.append(Freedom((choice,), tuple(other for other in unique if other != (choice,))))
    return program, tuple(found), lowering.packed


def _others(at: Lowering, choice: Choice, layers: Sequence[ir.Layer]) -> Iterator[tuple[Choice, ...]]:
    yield from _parted(choice)
    convolution = layers[0]
    direct = choice.rule in ("convolution", winograd.RULE.name)  # and not on levels
    if direct and len(layers) == 1 and isinstance(convolution, ir.Convolution) and winograd_fits(at.graph, convolution):
        yield from _winograd(at, choice, convolution)
    for settings in at.others[choice.layers]:
        yield (Choice(choice.rule, choice.layers, settings),)


def _parted(choice: Choice) -> Iterator[tuple[Choice, ...]]:
    """The layers of a fused kernel in smaller ones, whose settings the rules then choose."""
    rule = choice.rule.removeprefix(_INT8)
    kind = choice.rule.removesuffix(rule)

    def part(rule: str, *layers: str) -> Choice:
        return Choice(kind + rule, layers)

    if rule == "inverted_residual":
        expand, depthwise, project = choice.layers
        yield part("expand_depthwise", expand, depthwise), part("convolution", project)
        yield part("convolution", expand), part("depthwise", depthwise), part("convolution", project)
    if rule == "expand_depthwise":
        expand, depthwise = choice.layers
        yield part("convolution", expand), part("depthwise", depthwise)


def _winograd(at: Lowering, choice: Choice, layer: ir.Convolution) -> Iterator[tuple[Choice, ...]]:
    """Winograd's algorithm where the direct sum was chosen and the other way round, and other splits of it."""
    if choice.rule == winograd.RULE.name:
        yield (Choice("convolution", choice.layers),)
    _, _, height, width = at.graph.shapes[layer.output]
    outputs, channels = layer.weight.shape[:2]
    for side in OUTPUTS[at.core.dtype]:
        tiles = sorted(
            winograd_tiles(at.core, height, width, channels, outputs, side),
            key=lambda tile: (tile.weight_bytes, tile.cycles),
        )
        for tile in tiles[:MOST_SPLITS]:
            yield (Choice(winograd.RULE.name, choice.layers, winograd.settings_of(at, layer, tile)),)
