"""Which layers become one kernel together: patterns over fused layers, weighed against the target's caches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

from tsm_edge.compile.backends.cpu.choose.tiles import gemm_tile
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph

# An expanded tensor larger than this share of the L2 cache goes to the next level and back.
LARGE_L2_SHARE = 0.4
# A kernel by rows reads all of its weights for every row: from a core's L2 cache, if they take no more than this share,
WEIGHTS_L2_SHARE = 0.25
# and where two threads' rows meet, some are made by both: no more than this part of the image.
MOST_ROWS_TWICE = 0.15
# A kernel by panels has its panel in the L1 cache beside a tile of pixels and their weights.
PANEL_L1_SHARE = 0.75


@dataclass(frozen=True, eq=False)
class ExpandDepthwise:
    """A convolution and the depthwise convolution after it, a panel of channels at a time."""

    expand: ir.Convolution
    depthwise: ir.Convolution

    @property
    def layers(self) -> tuple[ir.Convolution, ...]:
        """In order."""
        return (self.expand, self.depthwise)


@dataclass(frozen=True, eq=False)
class InvertedResidual:
    """A convolution, the depthwise convolution after it and the projection, a row at a time."""

    expand: ir.Convolution
    depthwise: ir.Convolution
    project: ir.Convolution

    @property
    def layers(self) -> tuple[ir.Convolution, ...]:
        """In order."""
        return (self.expand, self.depthwise, self.project)


Block = ExpandDepthwise | InvertedResidual


@dataclass(frozen=True, eq=False)
class Candidate:
    """A convolution whose result only a depthwise convolution reads, and the projection after it, if there is one."""

    expand: ir.Convolution
    depthwise: ir.Convolution
    project: ir.Convolution | None


def fused_blocks(graph: OnlineGraph, layers: list[ir.Layer], core: Core) -> list[Block]:
    """Groups of layers that are worth one kernel on this CPU, none of them in two groups."""
    blocks: list[Block] = []
    for candidate in candidates(graph, layers):
        expand, depthwise, project = candidate.expand, candidate.depthwise, candidate.project
        # The projection of one block may be the expansion of the next.
        if any(block.layers[-1] is expand for block in blocks):
            continue
        # Of a clip, a frame: its layers are chosen as they are for single frames.
        large = core.bytes(math.prod(graph.shapes[expand.output][1:])) > core.l2_bytes * LARGE_L2_SHARE
        if project is not None and (large or _weights_stay(expand, project, core)):
            whole = InvertedResidual(expand, depthwise, project)
        else:
            whole = None
        if whole and rows_twice(graph, expand, depthwise, core) <= MOST_ROWS_TWICE:
            blocks.append(whole)
        elif _panel_bytes(graph, expand, depthwise, core) <= core.l1_bytes * PANEL_L1_SHARE:
            blocks.append(ExpandDepthwise(expand, depthwise))
        elif whole and large:
            blocks.append(whole)
    return blocks


def candidates(graph: OnlineGraph, layers: list[ir.Layer]) -> Iterator[Candidate]:
    """Every group of layers that could share a kernel, in order; a layer may be in two."""
    readers = _readers(layers)
    for expand, depthwise in _expanded(graph, layers, readers):
        project = _only_reader(graph, readers, depthwise.output)
        yield Candidate(expand, depthwise, project if _projects(project, depthwise) else None)


def _weights_stay(expand: ir.Convolution, project: ir.Convolution, core: Core) -> bool:
    return core.bytes(expand.weight.size + project.weight.size) <= core.own_l2_bytes * WEIGHTS_L2_SHARE


def rows_twice(graph: OnlineGraph, expand: ir.Convolution, depthwise: ir.Convolution, core: Core) -> float:
    """Part of the expanded rows that two threads make, where each core has a thread."""
    shared = max(0, depthwise.weight.shape[2] - depthwise.strides[0])
    frames, _, height, _ = graph.shapes[expand.output]
    return float((core.cpu.cores - 1) * shared / (frames * height))


def _expanded(
    graph: OnlineGraph, layers: list[ir.Layer], readers: dict[str, list[ir.Layer]]
) -> Iterator[tuple[ir.Convolution, ir.Convolution]]:
    """Convolutions whose result only a depthwise convolution reads, with it."""
    for expand in layers:
        if not isinstance(expand, ir.Convolution) or expand.groups > 1 or expand.residual is not None:
            continue
        depthwise = _only_reader(graph, readers, expand.output)
        if not isinstance(depthwise, ir.Convolution) or not depthwise.depthwise or depthwise.residual is not None:
            continue
        if depthwise.strides[0] <= depthwise.weight.shape[2]:
            yield expand, depthwise


def _projects(layer: ir.Layer | None, depthwise: ir.Convolution) -> TypeGuard[ir.Convolution]:
    """Whether it is the pointwise convolution at the end of an inverted residual."""
    if not isinstance(layer, ir.Convolution) or layer.source != depthwise.output or layer.shift is not None:
        return False
    pointwise = layer.weight.shape[2:] == (1, 1) and layer.strides == (1, 1)
    return pointwise and layer.groups == 1 and not any(layer.pads)


def _panel_bytes(graph: OnlineGraph, expand: ir.Convolution, depthwise: ir.Convolution, core: Core) -> int:
    """One panel of the expanded tensor, with the border that the depthwise convolution reads."""
    _, channels, height, width = graph.shapes[expand.output]
    tile = gemm_tile(core, height, width, int(expand.weight[0].size), channels)
    top, left, bottom, right = depthwise.pads
    return core.bytes((height + top + bottom) * (width + left + right) * tile.vectors * core.lanes)


def _readers(layers: list[ir.Layer]) -> dict[str, list[ir.Layer]]:
    readers: dict[str, list[ir.Layer]] = {}
    for layer in layers:
        for source in ir.layer_sources(layer):
            readers.setdefault(source, []).append(layer)
    return readers


def _only_reader(graph: OnlineGraph, readers: dict[str, list[ir.Layer]], tensor: str) -> ir.Layer | None:
    found = readers.get(tensor, [])
    return found[0] if len(found) == 1 and not graph.is_output(tensor) else None
