"""Fused layers in integers + target card → a program: the walk over the layers, each turned into calls by its rule.

Layers without an integer form are those of the float32 rules, between conversions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tsm_edge.cards import Preprocess, TargetCard
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.cpu.choose.fusion import Block
from tsm_edge.compile.backends.cpu.int8.frame_bytes import FrameLevelsSpec, level_tables, made_of_planes
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering
from tsm_edge.compile.backends.cpu.int8.plan import plan_units
from tsm_edge.compile.backends.cpu.int8.rules import RULES
from tsm_edge.compile.backends.cpu.plan import layers_of
from tsm_edge.compile.backends.cpu.rules import rule_for
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import BufferRef, KernelCall, Program, StoredLevels, renamed
from tsm_edge.compile.ir.quantisation import Quantisation, has_integer_form


def lower_int8(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    quantisation: Quantisation,
    preprocess: Preprocess | None = None,
    choices: Choices | None = None,
) -> Program:
    """Decide layouts and write down the calls of one step; with ``preprocess`` of one from the camera's bytes, too.

    Parameters
    ----------
    graph : OnlineGraph
    layers : sequence of Layer
    target : TargetCard
    precision : Precision
    quantisation : Quantisation
    preprocess : Preprocess, optional
    choices : Choices, optional
        Used instead of what the rules would choose, for the kernels that are in it.

    Raises
    ------
    CompileError
        A layer no rule can compile, a target without instructions for it, or a choice that does not fit the model.
    """
    at = walked_int8(graph, layers, target, quantisation, choices or Choices())
    return finished_int8(at, layers, precision, preprocess)


def lower_for_all(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    quantisation: Quantisation,
    preprocess: Preprocess,
    choices: Choices,
) -> Program:
    """As of :func:`lower_int8`, with the target's newer CPUs' own kernels beside those that all of its CPUs can run.

    Choices are for the latter.
    """
    program = lower_int8(graph, layers, target, precision, quantisation, preprocess, choices)
    if target.newer_cpu is None:
        return program
    newer = lower_int8(graph, layers, replace(target, cpu=target.newer_cpu), precision, quantisation, preprocess)
    if (newer.caches, newer.cache_levels) != (program.caches, program.cache_levels):
        raise TypeError("the caches of two sets of kernels lie differently")
    return replace(program, newer=renamed(newer, "newer_"))


def walked_int8(
    graph: OnlineGraph, layers: Sequence[ir.Layer], target: TargetCard, quantisation: Quantisation, choices: Choices
) -> ByteLowering:
    """The step, written down; parameters and errors as of :func:`lower_int8`."""
    at = ByteLowering(graph, layers, target, quantisation, choices)
    at.copy_caches(graph.frame)
    for unit in plan_units(at, layers, choices):
        if isinstance(unit, Block) or has_integer_form(unit):
            RULES[type(unit)](at, unit)
        else:
            for source in ir.layer_sources(unit):
                at.in_float32(source)
            rule_for(unit).lower(at.floats, unit)
        at.copy_caches(layers_of(unit)[-1].output)
    return at


def finished_int8(
    at: ByteLowering, layers: Sequence[ir.Layer], precision: Precision, preprocess: Preprocess | None = None
) -> Program:
    """What was written down, as a program.

    Raises
    ------
    CompileError
        There was nothing to compile.
    """
    graph, quantisation = at.graph, at.quantisation
    logits = at.in_float32(graph.logits).buffer
    levels = tuple(_stored(at, cache.input) for cache in graph.caches)
    byte_calls = _from_bytes(at, preprocess)
    program = at.floats.program(logits, at.caches, precision)
    names = ir.layer_names(graph, layers)
    return replace(
        program,
        cache_levels=levels,
        byte_calls=byte_calls,
        replaced_calls=len(byte_calls),
        noise_db={names[output]: ratio for output, ratio in quantisation.noise_db.items() if output in names},
        in_float=tuple(
            f"{_operator(layer)} ({names[layer.output]})" for layer in layers if not has_integer_form(layer)
        ),
    )


def _operator(layer: ir.Layer) -> str:
    """ONNX's name."""
    if isinstance(layer, ir.Generic):
        return layer.node.op
    if isinstance(layer, ir.Elementwise):
        return layer.operation
    return {"Convolution": "Conv"}.get(type(layer).__name__, type(layer).__name__)


def _from_bytes(at: ByteLowering, preprocess: Preprocess | None) -> tuple[KernelCall, ...]:
    """What stands for the first call where the frame comes as bytes."""
    first = made_of_planes(at.floats.calls)
    if preprocess is None or first is None:
        return ()
    spec = FrameLevelsSpec(at.instructions, first.target)
    tables = level_tables(preprocess, at.scale(at.graph.frame), at.instructions.offset)
    target = at.floats.calls[0].buffers[1]
    buffers = {"source": BufferRef("frame_bytes"), "tables": at.add_weights(tables), "target": target}
    return (at.floats.made_call(spec, buffers, at.floats.calls[0].layer),)


def _stored(at: ByteLowering, cache: str) -> StoredLevels:
    scale = at.scale(cache)
    return StoredLevels(scale.step, scale.zero, flip=at.instructions.offset)
