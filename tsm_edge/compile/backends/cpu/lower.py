"""Fused layers + target card → a program: the walk over the units, each turned into calls by its rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsm_edge.cards import TargetCard
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.plan import layers_of, plan_units
from tsm_edge.compile.backends.cpu.rules import rule_for
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.program import NOTHING_PACKED, Packed, Program


def lower(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    choices: Choices | None = None,
    known: Packed = NOTHING_PACKED,
) -> Program:
    """Decide layouts and write down the calls of one step.

    Parameters
    ----------
    graph : OnlineGraph
    layers : sequence of Layer
        From :func:`tsm_edge.compile.passes.fuse.fuse`.
    target : TargetCard
    precision : Precision
    choices : Choices, optional
        Used instead of what the rules would choose, for the kernels that are in it.
    known : Packed
        Weights of these layers that were packed before.

    Raises
    ------
    CompileError
        A layer no rule can compile, or a choice that does not fit the model.
    """
    return finished(walked(graph, layers, target, precision, choices or Choices(), known), precision)


@np.errstate(over="ignore")  # weights too large for float16 are refused by their layer's name
def walked(
    graph: OnlineGraph,
    layers: Sequence[ir.Layer],
    target: TargetCard,
    precision: Precision,
    choices: Choices,
    known: Packed = NOTHING_PACKED,
) -> Lowering:
    """The step, written down; parameters and errors as of :func:`lower`."""
    core = Core(target.cpu, precision.storage)
    units = plan_units(graph, layers, core, choices)
    lowering = Lowering(graph, layers, units, core, choices, known)
    for unit in units:
        rule_for(unit).lower(lowering, unit)
        lowering.copy_caches(layers_of(unit)[-1].output)
    return lowering


def finished(lowering: Lowering, precision: Precision) -> Program:
    """What was written down, as a program.

    Raises
    ------
    CompileError
        There was nothing to compile.
    """
    graph = lowering.graph
    placed = lowering.tensors[graph.logits]
    buffer = placed.buffer if placed.image.dtype == "float32" else lowering.tensors.dense(graph.logits)
    frame_logits = lowering.tensors.dense(graph.frame_logits) if graph.frame_logits else None
    return lowering.program(buffer, lowering.caches.images, precision, frame_logits)
