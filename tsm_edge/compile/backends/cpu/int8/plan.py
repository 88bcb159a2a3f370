"""Which layers on levels share a kernel, weighed against the target's caches, by the rules of float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tsm_edge.compile.backends.cpu.choose.fusion import ExpandDepthwise, InvertedResidual, candidates, worth_fusing
from tsm_edge.compile.backends.cpu.int8.convolution_lowering import panel_image, panel_tile
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering
from tsm_edge.compile.backends.cpu.plan import in_order, layers_of
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.quantisation import has_integer_form

Unit = ir.Layer | ExpandDepthwise | InvertedResidual

# Rules, as choices name them.
CONVOLUTION, DEPTHWISE = "int8_convolution", "int8_depthwise"
EXPAND_DEPTHWISE, INVERTED_RESIDUAL = "int8_expand_depthwise", "int8_inverted_residual"


def plan_units(at: ByteLowering, layers: Sequence[ir.Layer], choices: Choices) -> tuple[Unit, ...]:
    """Part the layers into units, in execution order.

    Raises
    ------
    CompileError
        A choice names layers that are not there, or that its rule cannot take.
    """

    def panel_bytes(expand: ir.Convolution, depthwise: ir.Convolution) -> int:
        return panel_image(at, expand, depthwise, panel_tile(at, expand)).elements

    names = ir.layer_names(at.graph, layers)
    by_name = {names[layer.output]: layer for layer in layers}
    choices.check_layers(by_name)
    chosen = [_chosen(by_name, choice) for choice in choices]
    decided = {layer.output for unit in chosen for layer in layers_of(unit)}
    free = [layer for layer in layers if layer.output not in decided]
    found = candidates(at.graph, free, has_integer_form)
    units: list[Unit] = [*chosen, *worth_fusing(at.graph, found, at.core, 1, panel_bytes)]
    return in_order(units, layers)


def _chosen(by_name: Mapping[str, ir.Layer], choice: Choice) -> Unit:
    layers = [by_name[name] for name in choice.layers]
    convolutions = [layer for layer in layers if isinstance(layer, ir.Convolution) and has_integer_form(layer)]
    whole = len(convolutions) == len(layers)
    if choice.rule == INVERTED_RESIDUAL and whole and len(layers) == 3:
        return InvertedResidual(*convolutions)
    if choice.rule == EXPAND_DEPTHWISE and whole and len(layers) == 2:
        return ExpandDepthwise(*convolutions)
    if len(layers) != 1:
        raise choice.refused()
    return layers[0]
