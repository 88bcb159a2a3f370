"""Networks over the frames of a clip: their logits are averaged, and what moves between frames is recognised.

The spellings of a bi-directional shift and of a non-local block's positions are as many as those of an online shift,
and are found in the same way (``movement.py``): by where the number of every element has gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsm_edge.compile.frontend.node_builder import NodeBuilder
from tsm_edge.compile.ir.graph import FROM_POSITIONS, TO_POSITIONS, Node, OnlineGraph, Shape

# Of elements, to see where they go: half the memory of NumPy's own integers.
Numbers = NDArray[np.int32]


def averaged(graph: OnlineGraph) -> OnlineGraph:
    """The graph of a clip with the mean of its logits over the frames; one of a single frame as it is.

    The mean takes the name that the file has for the logits of every frame, which are then ``frame_NAME``.
    """
    if graph.frames == 1:
        return graph
    logits, each = graph.logits, NodeBuilder(graph).unused(f"frame_{graph.logits}")
    frames, classes = graph.shapes[logits]
    renamed = dataclasses.replace(graph, frame_logits=each, shapes={**graph.shapes, each: (frames, classes)})

    def name(tensor: str) -> str:
        return each if tensor == logits else tensor

    nodes = [
        dataclasses.replace(
            node, inputs=tuple(name(tensor) for tensor in node.inputs), outputs=tuple(map(name, node.outputs))
        )
        for node in renamed.nodes
    ]
    builder = NodeBuilder(renamed)
    builder.shapes[logits] = (classes,)
    return builder.finished([*nodes, builder.mean(each, [0], 0, logits)])


def frame_runs(moved: Numbers, source: Numbers, nothing: Numbers) -> list[tuple[int, int]] | None:
    """Which frames of ``source`` the channels of a moved tensor come from.

    Parameters
    ----------
    moved, source : numpy.ndarray
        [frames, C, H, W]: numbers of elements.
    nothing : numpy.ndarray
        The numbers that stand for zero.

    Returns
    -------
    list of (int, int) or None
        Channels and frame offset of every run that does not come from the frame itself, which are the first channels.
        None: it is no shift.
    """
    if moved.shape != source.shape or moved.ndim != 4:
        return None
    frames, channels = moved.shape[:2]
    runs: list[tuple[int, int]] = []
    for channel in range(channels):
        offset = _offset(moved[:, channel], source[:, channel], nothing)
        if offset is None or abs(offset) >= frames:
            return None
        if runs and runs[-1][1] == offset:
            runs[-1] = runs[-1][0] + 1, offset
        else:
            runs.append((1, offset))
    while runs and runs[-1][1] == 0:
        runs.pop()
    return runs if runs and all(offset for _, offset in runs) else None


def _offset(moved: Numbers, source: Numbers, nothing: Numbers) -> int | None:
    """By how many frames a channel, [frames, H, W], is moved; None: it is something else."""
    frames = len(moved)
    places, theirs = np.nonzero(source[:, 0, 0] == moved[:, None, 0, 0])
    found = set((theirs - places).tolist())
    if len(found) != 1:
        return None
    offset = found.pop()
    inside = [frame for frame in range(frames) if 0 <= frame + offset < frames]
    outside = [frame for frame in range(frames) if frame not in inside]
    same = all(np.array_equal(moved[frame], source[frame + offset]) for frame in inside)
    return offset if same and np.isin(moved[outside], nothing).all() else None


def positions_node(output: str, moved: Numbers, source: Numbers, name: str, builder: NodeBuilder) -> Node | None:
    """A moved tensor as the positions of images, or as images of positions; None: it is neither.

    Parameters
    ----------
    output, name : str
        Names of the moved tensor and of the source.
    moved, source : numpy.ndarray
        Numbers of their elements.
    builder : NodeBuilder
    """
    shape: Shape = moved.shape
    if source.ndim == 4 and moved.ndim == 3:
        flat = source.transpose(0, 2, 3, 1).reshape(1, -1, source.shape[1])
        for transposed in (False, True):
            if np.array_equal(moved, flat.transpose(0, 2, 1) if transposed else flat):
                return builder.node(TO_POSITIONS, [name], output, shape, transposed=transposed)
    if source.ndim == 3 and moved.ndim == 4 and len(source) == 1 and moved.size == source.size:
        frames, channels, height, width = shape
        if np.array_equal(moved, source.reshape(frames, height, width, channels).transpose(0, 3, 1, 2)):
            return builder.node(FROM_POSITIONS, [name], output, shape)
    return None


def zeros_of(constants: Sequence[tuple[NDArray[np.generic], Numbers]]) -> Numbers:
    """The numbers that stand for zero: of constants' elements that are zero."""
    return np.concatenate([np.zeros(0, np.int32), *(numbers[values == 0] for values, numbers in constants)])
