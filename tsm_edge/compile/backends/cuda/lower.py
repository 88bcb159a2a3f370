"""Fused layers + target card → a program: the walk over the layers, each turned into calls by its rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tsm_edge.cards import Preprocess, TargetCard
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.cuda.kernels.frame_bytes import FrameBytesSpec
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.backends.cuda.rules import rule_for
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import BufferRef, KernelCall, Program
from tsm_edge.errors import CompileError


def lower(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    choices: Choices | None = None,
    preprocess: Preprocess | None = None,
) -> Program:
    """Decide layouts and write down the launches of one step.

    Parameters
    ----------
    graph : OnlineGraph
    layers : sequence of Layer
        From :func:`tsm_edge.compile.passes.fuse.fuse`.
    target : TargetCard
        With a GPU.
    precision : Precision
    choices : Choices, optional
        Used instead of what the rules would choose, for the kernels that are in it.
    preprocess : Preprocess, optional
        How a camera's bytes become the frame; None: only floats are taken.

    Raises
    ------
    CompileError
        A layer no rule can compile, or a choice that does not fit the model.
    """
    lowering, first = walked(graph, layers, target, precision, choices or Choices())
    byte_calls, replaced = _from_bytes(lowering, layers[0], first, preprocess)  # may have weights of its own
    return replace(finished(lowering, precision), byte_calls=byte_calls, replaced_calls=replaced)


@np.errstate(over="ignore")  # weights too large for float16 are refused by their layer's name
def walked(
    graph: OnlineGraph, layers: Sequence[ir.Layer], target: TargetCard, precision: Precision, choices: Choices
) -> tuple[Lowering, Rule]:
    """The step, written down, and the rule of its first layer; parameters and errors as of :func:`lower`."""
    if target.gpu is None:
        raise CompileError(f"target {target.name} has no GPU", "choose a CUDA target of: tsm-edge targets")
    lowering = Lowering(graph, layers, target.gpu, precision, choices)
    rules = []
    for layer in layers:
        rules.append(rule_for(lowering, layer))
        rules[-1].lower(lowering, layer)
        lowering.copy_caches(layer.output)
    made = {(choice.rule, choice.layers) for choice in lowering.choices}
    for choice in choices:
        if (choice.rule, choice.layers) not in made:
            raise choice.refused()
    return lowering, rules[0]


def finished(lowering: Lowering, precision: Precision) -> Program:
    """What was written down, as a program; frames come as floats.

    Raises
    ------
    CompileError
        There was nothing to compile.
    """
    logits = lowering.tensors[lowering.graph.logits].buffer
    return lowering.program(logits, lowering.caches.images, precision)


def _from_bytes(
    lowering: Lowering, layer: ir.Layer, rule: Rule, preprocess: Preprocess | None
) -> tuple[tuple[KernelCall, ...], int]:
    """What begins a step whose frame comes as bytes, and how many of the other calls it stands for.

    The first layer reads them itself, where its rule can and nothing else reads the frame; else they are made floats.
    """
    if preprocess is None or not lowering.calls:
        return (), 0
    frame = lowering.tensors[lowering.graph.frame]
    first = lowering.calls[0]
    readers = [call for call in lowering.calls if frame.buffer in call.buffers]
    if rule.reading_bytes is not None and readers == [first]:
        return (rule.reading_bytes(lowering, layer, first, preprocess),), 1
    scale, offset = (tuple(map(float, values)) for values in scale_and_offset(preprocess))
    spec = FrameBytesSpec(frame.image, scale, offset)
    buffers = {"source": BufferRef("frame_bytes"), "target": frame.buffer}
    return (lowering.made_call(spec, buffers, lowering.graph.frame),), 0
