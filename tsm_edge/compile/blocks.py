"""Which layers become one kernel together: patterns over fused layers, weighed against the target's caches."""

from __future__ import annotations

import math

from tsm_edge.cards import CpuSpec
from tsm_edge.compile import layers as ir
from tsm_edge.compile.graph import OnlineGraph

# An expanded tensor larger than this share of the L2 cache is worth the fused kernel.
FUSE_ABOVE_L2_SHARE = 0.4


def inverted_residuals(
    graph: OnlineGraph, layers: list[ir.Layer], cpu: CpuSpec
) -> list[tuple[ir.Convolution, ir.Convolution, ir.Convolution]]:
    """Convolution, depthwise, projection: the triples that are worth one kernel on this CPU.

    They are where the tensor between the first two would not stay in the L2 cache: written and read once, it would
    travel twice to the next level and back.
    """
    readers: dict[str, list[ir.Layer]] = {}
    for layer in layers:
        for source in ir.layer_sources(layer):
            readers.setdefault(source, []).append(layer)

    def only_reader(tensor: str) -> ir.Layer | None:
        found = readers.get(tensor, [])
        return found[0] if len(found) == 1 and not graph.is_output(tensor) else None

    blocks = []
    for expand in layers:
        if not isinstance(expand, ir.Convolution) or expand.groups > 1 or expand.residual is not None:
            continue
        depthwise = only_reader(expand.output)
        if not isinstance(depthwise, ir.Convolution) or not depthwise.depthwise or depthwise.residual is not None:
            continue
        project = only_reader(depthwise.output)
        if not isinstance(project, ir.Convolution) or project.source != depthwise.output or project.shift is not None:
            continue
        pointwise = project.weight.shape[2:] == (1, 1) and project.strides == (1, 1)
        plain = pointwise and project.groups == 1 and not any(project.pads)
        stays = 4 * math.prod(graph.shapes[expand.output]) <= cpu.l2_kib * 1024 * FUSE_ABOVE_L2_SHARE
        if plain and not stays and depthwise.strides[0] <= depthwise.weight.shape[2]:
            blocks.append((expand, depthwise, project))
    return blocks
