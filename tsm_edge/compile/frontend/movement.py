"""Operators that only move elements, reduced to slices and concatenations of channels.

The shift of a network has many spellings: a slice and a concatenation, a split, an assignment in place (which exporters
write as a scatter, between transposes or with an index for every element). What they mean is found by moving numbers
instead of pictures: every element of every source has its own number, ONNX Runtime runs the moving operators on them,
and where each number has gone says what was taken from where.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tsm_edge.artifact.onnx_runtime import open_session, session_options
from tsm_edge.compile.frontend.clips import Numbers, frame_runs, positions_node, zeros_of
from tsm_edge.compile.frontend.node_builder import NodeBuilder
from tsm_edge.compile.ir.graph import FRAME_SHIFT, Node, OnlineGraph, Shape
from tsm_edge.errors import ModelFileError

# Of the models made here; any that ONNX Runtime knows will do.
IR_VERSION = 9
# Moving operators, and which of their inputs are data; the others are indices and sizes.
_DATA_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "Identity": (0,),
    "Reshape": (0,),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Slice": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
}
# Of a group of moved tensors, and of what they take from. A larger one stays as it is: its numbers would take more than
# 512 MiB, or not fit their type.
MOST_ELEMENTS, MOST_SOURCES = 2**27, 2**31 - 1
# TVM makes no plain kernel of these; with constant indices they are a gather.
_SCATTERS = ("ScatterElements", "ScatterND")


@dataclass(frozen=True)
class Run:
    """Channels ``start`` to ``stop`` of ``source``."""

    source: str
    start: int
    stop: int


def reduce_movement(path: Path, graph: OnlineGraph) -> OnlineGraph:
    """Write every tensor that is moved channels of others as slices and a concatenation.

    A scatter that is no such thing becomes a gather, which the fallback can compile.

    Parameters
    ----------
    path : Path
        The file, for messages.
    graph : OnlineGraph

    Raises
    ------
    ModelFileError
        ONNX Runtime cannot run the moving operators: an index is out of range.
    """
    movers = {node.outputs[0]: node for node in graph.nodes if _only_moves(graph, node)}
    builder = NodeBuilder(graph)
    replaced: dict[str, list[Node]] = {}
    for group in _connected(movers):
        sources = _Sources(graph, group)
        moved = sum(math.prod(graph.shapes[name]) for name in group)
        if moved <= MOST_ELEMENTS and sources.elements <= MOST_SOURCES:
            replaced |= _reduced(path, graph, group, sources, builder)
    nodes = [new for node in graph.nodes for new in replaced.get(node.outputs[0], [node])]
    return builder.finished(nodes) if replaced else graph


def _reduced(
    path: Path, graph: OnlineGraph, movers: Mapping[str, Node], sources: _Sources, builder: NodeBuilder
) -> dict[str, list[Node]]:
    """New nodes for moved tensors, by the tensors' names."""
    moved = _moved(path, graph, movers, sources)
    replaced: dict[str, list[Node]] = {}
    waiting = _read_by_others(graph, movers)
    while waiting:
        name = waiting.pop()
        runs = sources.runs(moved[name])
        if runs is not None and not _is_plain(movers, name, runs):
            replaced[name] = builder.channels(name, [(run.source, run.start, run.stop) for run in runs])
        elif runs is None and (between := sources.between_frames(name, moved[name], builder)) is not None:
            replaced[name] = [between]
        elif runs is None and movers[name].op in _SCATTERS:
            replaced[name] = builder.gathered(name, *sources.gathered(moved[name]))
        else:  # it stays, and what it reads is looked at
            waiting |= {part for part in _data(movers[name]) if part in movers and part not in replaced}
    return replaced


def _connected(movers: Mapping[str, Node]) -> list[dict[str, Node]]:
    """Movers in groups that move nothing to one another, each in execution order."""
    groups: dict[str, dict[str, Node]] = {}
    for name, node in movers.items():
        joined: dict[str, Node] = {}
        for group in {id(groups[part]): groups[part] for part in _data(node) if part in groups}.values():
            joined |= group
        joined[name] = node
        groups |= dict.fromkeys(joined, joined)
    unique = {id(group): group for group in groups.values()}
    return [{name: movers[name] for name in movers if name in group} for group in unique.values()]


def _only_moves(graph: OnlineGraph, node: Node) -> bool:
    data = tuple(range(len(node.inputs))) if node.op == "Concat" else _DATA_INPUTS.get(node.op)
    if data is None or node.attributes.get("reduction", b"none") != b"none":
        return False
    others = [name for index, name in enumerate(node.inputs) if index not in data and name]
    return all(name in graph.constants for name in others)


def _read_by_others(graph: OnlineGraph, movers: Mapping[str, Node]) -> set[str]:
    """Moved tensors that are outputs, or that an operator of another kind reads."""
    read = {name for node in graph.nodes if node.outputs[0] not in movers for name in node.inputs}
    return {name for name in movers if name in read or graph.is_output(name)}


def _data(node: Node) -> list[str]:
    """Names of the tensors a mover takes elements from."""
    if node.op == "Concat":
        return list(node.inputs)
    return [node.inputs[index] for index in _DATA_INPUTS[node.op]]


def _is_plain(movers: Mapping[str, Node], name: str, runs: list[Run]) -> bool:
    """Whether the tensor is written as it would be: a slice of a source, or a concatenation of such and sources."""
    node = movers[name]
    parts = node.inputs if node.op == "Concat" else (name,) if node.op == "Slice" else ()
    slices = [movers[part] for part in parts if part in movers]
    return len(parts) == len(runs) and all(part.op == "Slice" and part.inputs[0] not in movers for part in slices)


class _Sources:
    """The tensors that are moved, each of whose elements has a number of its own."""

    def __init__(self, graph: OnlineGraph, movers: Mapping[str, Node]) -> None:
        named = dict.fromkeys(name for node in movers.values() for name in _data(node) if name not in movers)
        self.shapes: dict[str, Shape] = {name: graph.shapes[name] for name in named}
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.names = list(self.shapes)
        self.elements = sum(sizes)
        self.starts = np.cumsum([0, *sizes])
        self._constants = {name: graph.constants[name] for name in self.names if name in graph.constants}
        self._frames = graph.frames

    def numbers(self) -> dict[str, Numbers]:
        """The numbers of each source's elements."""
        return {
            name: np.arange(start, start + math.prod(shape), dtype=np.int32).reshape(shape)
            for (name, shape), start in zip(self.shapes.items(), self.starts[:-1], strict=True)
        }

    def runs(self, moved: Numbers) -> list[Run] | None:
        """The moved elements as whole channels, in runs; None: they are not."""
        if moved.ndim != 4 or len(moved) != 1 or not moved.size:
            return None
        _, channels, height, width = moved.shape
        first = moved[0, :, 0, 0]
        pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
        if not np.array_equal(moved[0], first[:, None, None] + pixels):
            return None
        owners = np.searchsorted(self.starts, first, side="right") - 1
        taken, inside = np.divmod(first - self.starts[owners], height * width)
        shapes = [self.shapes[self.names[owner]] for owner in owners]
        if inside.any() or any(len(shape) != 4 or shape[0] != 1 or shape[2:] != (height, width) for shape in shapes):
            return None
        # A run ends where the next channel is not the next one of the same source.
        ends = np.flatnonzero((np.diff(owners) != 0) | (np.diff(taken) != 1)) + 1
        edges = [0, *ends.tolist(), channels]
        return [
            Run(self.names[owners[start]], int(taken[start]), int(taken[stop - 1]) + 1)
            for start, stop in itertools.pairwise(edges)
        ]

    def between_frames(self, name: str, moved: Numbers, builder: NodeBuilder) -> Node | None:
        """Of a clip: the moved elements as a shift between frames, or as positions; None: they are neither."""
        variable = [source for source in self.names if source not in self._constants]
        if self._frames == 1 or len(variable) != 1:
            return None
        numbers, (source,) = self.numbers(), variable
        zeros = zeros_of([(value, numbers[constant]) for constant, value in self._constants.items()])
        runs = frame_runs(moved, numbers[source], zeros)
        if runs is not None:
            return builder.node(FRAME_SHIFT, [source], name, moved.shape, runs=tuple(runs))
        return positions_node(name, moved, numbers[source], source, builder)

    def gathered(self, moved: Numbers) -> tuple[list[str], NDArray[np.int64]]:
        """The sources the elements come from, and each element's place in these, flat and one after the other."""
        owners = np.searchsorted(self.starts, moved, side="right") - 1
        used = np.unique(owners)
        sizes = np.diff(self.starts)[used]
        begins = np.cumsum([0, *sizes[:-1]])
        place = moved - self.starts[owners] + begins[np.searchsorted(used, owners)]
        return [self.names[index] for index in used], place


def _moved(path: Path, graph: OnlineGraph, movers: Mapping[str, Node], sources: _Sources) -> dict[str, Numbers]:
    """The numbers that arrive in each moved tensor."""
    from onnx import TensorProto, helper, numpy_helper

    numbers = sources.numbers()
    constants = {
        name: graph.constants[name]
        for node in movers.values()
        for name in node.inputs
        if name in graph.constants and name not in numbers
    }
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(node.op, node.inputs, node.outputs, **node.attributes) for node in movers.values()],
            "movement",
            [helper.make_tensor_value_info(name, TensorProto.INT32, array.shape) for name, array in numbers.items()],
            [helper.make_tensor_value_info(name, TensorProto.INT32, graph.shapes[name]) for name in movers],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", graph.opset)],
        ir_version=IR_VERSION,
    )
    options = session_options()
    options.intra_op_num_threads = 1  # threads would take longer to start than to do this
    try:
        found = open_session(model.SerializeToString(), options).run(list(movers), numbers)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exception types are not public
        reason = str(error).strip().splitlines()[0]
        raise ModelFileError(
            f"{path}: its slices and concatenations cannot be run ({reason})", "export the model again"
        ) from None
    return dict(zip(movers, found, strict=True))
