"""Which layers on levels share a kernel, weighed against the target's caches, by the rules of float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tsm_edge.compile.backends.cpu.choose.fusion import (
    LARGE_L2_SHARE,
    MOST_ROWS_TWICE,
    PANEL_L1_SHARE,
    WEIGHTS_L2_SHARE,
    Candidate,
    ExpandDepthwise,
    InvertedResidual,
    candidates,
    rows_twice,
)
from tsm_edge.compile.backends.cpu.int8.convolution_lowering import panel_image, panel_tile
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.quantisation import has_integer_form
from tsm_edge.errors import CompileError

Unit = ir.Layer | ExpandDepthwise | InvertedResidual

# Rules, as choices name them.
CONVOLUTION, DEPTHWISE = "int8_convolution", "int8_depthwise"
EXPAND_DEPTHWISE, INVERTED_RESIDUAL = "int8_expand_depthwise", "int8_inverted_residual"


def layers_of(unit: Unit) -> tuple[ir.Layer, ...]:
    """The layers a unit computes, in order."""
    return unit.layers if isinstance(unit, ExpandDepthwise | InvertedResidual) else (unit,)


def plan_units(at: ByteLowering, layers: Sequence[ir.Layer], choices: Choices) -> list[Unit]:
    """Part the layers into units, in execution order; a fused unit stands where its last layer stood.

    Raises
    ------
    CompileError
        A choice names layers that are not there, or that its rule cannot take.
    """
    names = ir.layer_names(at.graph, layers)
    by_name = {names[layer.output]: layer for layer in layers}
    choices.check_layers(by_name)
    blocks: list[Unit] = [_chosen(by_name, choice) for choice in choices]
    decided = {layer.output for block in blocks for layer in layers_of(block)}
    for candidate in candidates(at.graph, [layer for layer in layers if layer.output not in decided]):
        # The projection of one block may be the expansion of the next.
        taken = any(layers_of(block)[-1] is candidate.expand for block in blocks)
        block = None if taken else _block(at, candidate)
        if block is not None:
            blocks.append(block)
    inside = {layer.output for block in blocks for layer in layers_of(block)}
    units = [*blocks, *(layer for layer in layers if layer.output not in inside)]
    position = {layer.output: index for index, layer in enumerate(layers)}
    return sorted(units, key=lambda unit: position[layers_of(unit)[-1].output])


def _chosen(by_name: Mapping[str, ir.Layer], choice: Choice) -> Unit:
    layers = [by_name[name] for name in choice.layers]
    convolutions = [layer for layer in layers if isinstance(layer, ir.Convolution) and has_integer_form(layer)]
    whole = len(convolutions) == len(layers)
    if choice.rule == INVERTED_RESIDUAL and whole and len(layers) == 3:
        return InvertedResidual(*convolutions)
    if choice.rule == EXPAND_DEPTHWISE and whole and len(layers) == 2:
        return ExpandDepthwise(*convolutions)
    if len(layers) != 1:
        raise CompileError(
            f"choices: rule {choice.rule!r} cannot take the layers {', '.join(choice.layers)}",
            "compile without these choices: the rules then decide",
        )
    return layers[0]


def _block(at: ByteLowering, candidate: Candidate) -> Unit | None:
    expand, depthwise, project = candidate.expand, candidate.depthwise, candidate.project
    if not has_integer_form(expand) or not has_integer_form(depthwise):
        return None
    channels, height, width = at.size_of(expand.output)
    large = channels * height * width > at.core.l2_bytes * LARGE_L2_SHARE
    whole = None
    if project is not None and has_integer_form(project) and (large or _weights_stay(at, expand, project)):
        whole = InvertedResidual(expand, depthwise, project)
    if whole and rows_twice(at.graph, expand, depthwise, at.core) <= MOST_ROWS_TWICE:
        return whole
    panel = panel_image(at, expand, depthwise, panel_tile(at, expand))
    if panel.elements <= at.core.l1_bytes * PANEL_L1_SHARE:
        return ExpandDepthwise(expand, depthwise)
    return whole if large else None


def _weights_stay(at: ByteLowering, expand: ir.Convolution, project: ir.Convolution) -> bool:
    return expand.weight.size + project.weight.size <= at.core.own_l2_bytes * WEIGHTS_L2_SHARE
