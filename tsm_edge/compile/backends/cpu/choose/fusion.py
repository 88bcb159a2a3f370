"""Which layers become one kernel together: patterns over fused layers, weighed against the target's caches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from tsm_edge.compile.backends.cpu.choose.tiles import gemm_tile
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import item_bytes
from tsm_edge.compile.ir.graph import OnlineGraph

# An expanded tensor larger than this share of the L2 cache goes to the next level and back.
_LARGE_L2_SHARE = 0.4
# A kernel by rows reads all of its weights for every row: from a core's L2 cache, if they take no more than this share,
_WEIGHTS_L2_SHARE = 0.25
# and where two threads' rows meet, some are made by both: no more than this part of the image.
_MOST_ROWS_TWICE = 0.15
# A kernel by panels has its panel in the L1 cache beside a tile of pixels and their weights.
_PANEL_L1_SHARE = 0.75


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


def fused_blocks(graph: OnlineGraph, layers: Sequence[ir.Layer], core: Core) -> list[Block]:
    """Groups of layers that are worth one kernel on this CPU, none of them in two groups."""

    def panel_bytes(expand: ir.Convolution, depthwise: ir.Convolution) -> int:
        return _panel_bytes(graph, expand, depthwise, core)

    return worth_fusing(graph, candidates(graph, layers), core, item_bytes(core.dtype), panel_bytes)


def candidates(
    graph: OnlineGraph, layers: Sequence[ir.Layer], may_fuse: Callable[[ir.Convolution], bool] = lambda layer: True
) -> Iterator[Candidate]:
    """Every group of layers that could share a kernel, in order; a layer may be in two."""
    readers = _readers(layers)
    for expand, depthwise in _expanded(graph, layers, readers):
        if may_fuse(expand) and may_fuse(depthwise):
            project = _only_reader(graph, readers, depthwise.output)
            yield Candidate(expand, depthwise, project if _projects(project, depthwise) and may_fuse(project) else None)


def worth_fusing(
    graph: OnlineGraph,
    found: Iterable[Candidate],
    core: Core,
    item: int,
    panel_bytes: Callable[[ir.Convolution, ir.Convolution], int],
) -> list[Block]:
    """Those of some candidates that are worth one kernel, as that kernel.

    Parameters
    ----------
    graph : OnlineGraph
    found : iterable of Candidate
        In order.
    core : Core
    item : int
        Bytes of an element, of images and weights.
    panel_bytes : callable
        Of one panel of the expanded tensor between two layers, with its border.
    """
    blocks: list[Block] = []
    for candidate in found:
        expand, depthwise, project = candidate.expand, candidate.depthwise, candidate.project
        # The projection of one block may be the expansion of the next.
        if any(block.layers[-1] is expand for block in blocks):
            continue
        # Of a clip, a frame: its layers are chosen as they are for single frames.
        large = item * math.prod(graph.shapes[expand.output][1:]) > core.l2_bytes * _LARGE_L2_SHARE
        whole = None
        if project is not None:
            weights = item * (expand.weight.size + project.weight.size)
            if large or weights <= core.own_l2_bytes * _WEIGHTS_L2_SHARE:
                whole = InvertedResidual(expand, depthwise, project)
        if whole and _rows_twice(graph, expand, depthwise, core) <= _MOST_ROWS_TWICE:
            blocks.append(whole)
        elif panel_bytes(expand, depthwise) <= core.l1_bytes * _PANEL_L1_SHARE:
            blocks.append(ExpandDepthwise(expand, depthwise))
        elif whole and large:
            blocks.append(whole)
    return blocks


def _rows_twice(graph: OnlineGraph, expand: ir.Convolution, depthwise: ir.Convolution, core: Core) -> float:
    """Part of the expanded rows that two threads make, where each core has a thread."""
    shared = max(0, depthwise.weight.shape[2] - depthwise.strides[0])
    frames, _, height, _ = graph.shapes[expand.output]
    return float((core.cpu.cores - 1) * shared / (frames * height))


def _expanded(
    graph: OnlineGraph, layers: Sequence[ir.Layer], readers: dict[str, list[ir.Layer]]
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


def _readers(layers: Sequence[ir.Layer]) -> dict[str, list[ir.Layer]]:
    readers: dict[str, list[ir.Layer]] = {}
    for layer in layers:
        for source in ir.layer_sources(layer):
            readers.setdefault(source, []).append(layer)
    return readers


def _only_reader(graph: OnlineGraph, readers: dict[str, list[ir.Layer]], tensor: str) -> ir.Layer | None:
    found = readers.get(tensor, [])
    return found[0] if len(found) == 1 and not graph.is_output(tensor) else None
