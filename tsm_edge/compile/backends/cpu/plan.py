"""Which layers share a kernel, and by which algorithm: fused layers → units, each for one rule to turn into calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tsm_edge.compile.backends.cpu.choose.fusion import ExpandDepthwise, InvertedResidual, fused_blocks
from tsm_edge.compile.backends.cpu.choose.winograd import (
    WinogradConvolution,
    WinogradSettings,
    winograd_fits,
    winograd_layers,
)
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.graph import OnlineGraph

Unit = ir.Layer | ExpandDepthwise | InvertedResidual | WinogradConvolution
_Unit = TypeVar("_Unit", bound=Unit)


def layers_of(unit: Unit) -> tuple[ir.Layer, ...]:
    """The layers a unit computes, in order."""
    return unit.layers if isinstance(unit, ExpandDepthwise | InvertedResidual | WinogradConvolution) else (unit,)


def in_order(units: Sequence[_Unit], layers: Sequence[ir.Layer]) -> tuple[_Unit | ir.Layer, ...]:
    """Units and all layers that are in none of them, in execution order.

    A fused unit stands where its last layer stood.
    """
    taken = {layer.output for unit in units for layer in layers_of(unit)}
    alone = [layer for layer in layers if layer.output not in taken]
    position = {layer.output: index for index, layer in enumerate(layers)}
    return tuple(sorted([*units, *alone], key=lambda unit: position[layers_of(unit)[-1].output]))


def plan_units(graph: OnlineGraph, layers: Sequence[ir.Layer], core: Core, choices: Choices) -> tuple[Unit, ...]:
    """Part the layers into units, in execution order.

    Raises
    ------
    CompileError
        A choice names layers that are not there, or that its rule cannot take.
    """
    names = ir.layer_names(graph, layers)
    by_name = {names[layer.output]: layer for layer in layers}
    choices.check_layers(by_name)
    chosen = [_chosen(graph, by_name, choice) for choice in choices]
    decided = {layer.output for unit in chosen for layer in layers_of(unit)}
    free = [layer for layer in layers if layer.output not in decided]
    blocks = fused_blocks(graph, free, core)
    in_blocks = {layer.output for block in blocks for layer in block.layers}
    tiles = winograd_layers(graph, [layer for layer in free if layer.output not in in_blocks], core)
    winograd = [
        WinogradConvolution(layer, tiles[layer.output])
        for layer in free
        if isinstance(layer, ir.Convolution) and layer.output in tiles
    ]
    units: list[Unit] = [*chosen, *blocks, *winograd]
    return in_order(units, layers)


def _chosen(graph: OnlineGraph, by_name: dict[str, ir.Layer], choice: Choice) -> Unit:
    layers = [by_name[name] for name in choice.layers]
    convolutions = [layer for layer in layers if isinstance(layer, ir.Convolution)]
    whole = len(convolutions) == len(layers)
    if choice.rule == "inverted_residual" and whole and len(layers) == 3:
        return InvertedResidual(*convolutions)
    if choice.rule == "expand_depthwise" and whole and len(layers) == 2:
        return ExpandDepthwise(*convolutions)
    if choice.rule == "winograd" and whole and len(layers) == 1 and winograd_fits(graph, convolutions[0]):
        settings = choice.settings
        if isinstance(settings, WinogradSettings):
            return WinogradConvolution(convolutions[0], settings.tile)
    if len(layers) != 1 or choice.rule == "winograd":
        raise choice.refused()
    return layers[0]
