"""Pairs of QuantizeLinear and DequantizeLinear → the float network without them, and the scales they said.

A quantised file has such a pair wherever a tensor is rounded to levels, and a DequantizeLinear behind every constant
that is stored in levels. What is left without them is the network as it was, which every stage knows; weights are the
numbers that their levels stand for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tsm_edge.compile.frontend.node_builder import NodeBuilder
from tsm_edge.compile.ir.graph import FileScales, Node, OnlineGraph
from tsm_edge.compile.ir.scale import LEVELS, Scale
from tsm_edge.errors import ModelFileError

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
# Operators whose result has the levels of what they read: they only move them, or take the largest.
SAME_LEVELS = (
    *("Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose"),
    "Unsqueeze",
)
# Operators after which levels need no clamp: these know their bounds, or are always stored in levels.
_BOUNDED = (*SAME_LEVELS, "Concat", "Clip", "GlobalAveragePool", "ReduceMean", "Relu")
# Operators on integers: the same network could be written in pairs.
_OF_INTEGERS = (*("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"),)
AS_PAIRS = "quantise it in the QDQ format: onnxruntime.quantization.quantize_static(…, quant_format=QuantFormat.QDQ)"
_OFFSETS = {np.dtype(np.uint8): 0, np.dtype(np.int8): 128}


def without_pairs(path: Path, graph: OnlineGraph) -> OnlineGraph:
    """Take the scales out of a graph; :func:`settled` decides between them.

    Parameters
    ----------
    path : Path
        The file, for messages.
    graph : OnlineGraph

    Raises
    ------
    ModelFileError
        Levels of other than 8 bits, weights whose zero is not 0, scales that are computed, or operators on integers.
    """
    for node in graph.nodes:
        if node.op in _OF_INTEGERS:
            raise ModelFileError(f"{path}: operator {node.op} ({node.outputs[0]!r}) computes on integers", AS_PAIRS)
    if not any(node.op in (QUANTISE, DEQUANTISE) for node in graph.nodes):
        return graph
    return _Reader(path, graph).run()


class _Reader:
    def __init__(self, path: Path, graph: OnlineGraph) -> None:
        self.path, self.graph, self.builder = path, graph, NodeBuilder(graph)
        self.real: dict[str, str] = {}  # levels → the tensor whose levels they are
        self.names: dict[str, str] = {}  # dequantised tensor → the tensor it was
        self.makers: dict[str, Node] = {}
        self.nodes: list[Node] = []
        self.tensors: dict[str, Scale] = {}
        self.weight_steps: dict[str, np.ndarray] = {}

    def run(self) -> OnlineGraph:
        for node in self.graph.nodes:
            inputs = tuple(self.names.get(name, name) for name in node.inputs)
            self._read(replace(node, inputs=inputs))
        scales = FileScales(self.tensors, self.weight_steps)
        return replace(self.builder.finished(self.nodes), scales=scales)

    def _read(self, node: Node) -> None:
        if node.op == QUANTISE:
            self._quantise(node)
        elif node.op == DEQUANTISE:
            self._dequantise(node)
        else:
            on_levels = [name for name in node.inputs if name in self.real]
            if on_levels and node.op not in (*SAME_LEVELS, "Concat"):
                raise ModelFileError(
                    f"{self.path}: operator {node.op} ({node.outputs[0]!r}) computes on integers", AS_PAIRS
                )
            self._add(replace(node, inputs=tuple(self.real.get(name, name) for name in node.inputs)))
            if on_levels:
                self.real |= {name: name for name in node.outputs}

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        self.makers |= dict.fromkeys(node.outputs, node)

    def _quantise(self, node: Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        step, zero = self._numbers(node)
        if source in self.builder.constants:
            self.builder.constants[output] = _levels(self.builder.constants[source], step, zero, _axis(node))
            return
        scale = self._scale(node, step, zero)
        bounded = self._bounded(source, scale)
        # Two scales of one tensor: the wider one holds what either does.
        if bounded not in self.tensors or self.tensors[bounded].step < scale.step:
            self.tensors[bounded] = scale
        self.real[output] = bounded

    def _bounded(self, tensor: str, scale: Scale) -> str:
        """The tensor with the clamp that its levels imply: quantisers leave out a ReLU where saturation does it."""
        maker = self.makers.get(tensor)
        one_sided = scale.zero in (0, LEVELS)
        if maker is None or not one_sided or maker.op in _BOUNDED:
            return tensor
        name = f"{tensor} in its levels"
        if name not in self.makers:
            bounds = [(level - scale.zero) * scale.step for level in (0, LEVELS)]
            limits = [self.builder.constant(np.float32(bound)) for bound in bounds]  # type: ignore[arg-type]
            self._add(self.builder.node("Clip", [tensor, *limits], name, self.builder.shapes[tensor]))
        return name

    def _dequantise(self, node: Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        if source in self.builder.constants:
            self._constant(node)
            return
        if source not in self.real:
            raise ModelFileError(f"{self.path}: {source!r} is read as levels, but nothing quantises it", AS_PAIRS)
        if self.graph.is_output(output):
            self._add(self.builder.node("Identity", [self.real[source]], output, self.builder.shapes[output]))
        else:
            self.names[output] = self.real[source]

    def _constant(self, node: Node) -> None:
        """Weights and biases as the numbers they stand for."""
        source, output = node.inputs[0], node.outputs[0]
        levels = self.builder.constants[source]
        step, zero = self._numbers(node)
        axis = _axis(node) if step.ndim else 0
        offset = 128 if levels.dtype == np.uint8 else 0
        if np.any(zero.astype(np.int64) != offset) or levels.dtype not in (np.int8, np.uint8, np.int32):
            raise ModelFileError(
                f"{self.path}: weights {source!r} are {levels.dtype} with a zero point of {int(zero.reshape(-1)[0])}",
                "quantise weights symmetrically, as int8: onnxruntime.quantization's weight_type=QuantType.QInt8",
            )
        spread = _along(step, axis, levels.ndim)
        values = (levels.astype(np.float64) - offset) * spread
        self.builder.constants[output] = values.astype(np.float32)
        self.builder.shapes[output] = levels.shape
        if levels.dtype != np.int32 and levels.ndim in (2, 4):
            self.weight_steps[output] = self._by_output(output, step, axis, levels)

    def _by_output(self, weight: str, step: np.ndarray, axis: int, levels: np.ndarray) -> np.ndarray:
        """One step for each output channel; the axis of these is told by the operator that reads them."""
        reader = next((node for node in self.graph.nodes if weight in node.inputs[1:2]), None)
        last = reader is not None and (
            reader.op == "MatMul" or (reader.op == "Gemm" and not reader.attributes.get("transB", 0))
        )
        outputs = levels.ndim - 1 if last else 0
        if step.ndim and step.size > 1 and axis % levels.ndim != outputs:
            raise ModelFileError(
                f"{self.path}: weights {weight!r} have a scale for each index of axis {axis}, expected axis {outputs}",
                "quantise weights with one scale, or one for each output channel",
            )
        return np.broadcast_to(step.reshape(-1), (levels.shape[outputs],)).astype(np.float64)

    def _numbers(self, node: Node) -> tuple[np.ndarray, np.ndarray]:
        """Scale, float64, and zero point of a node."""
        names = node.inputs[1:]
        if any(name and name not in self.builder.constants for name in names) or node.attributes.get("block_size", 0):
            raise ModelFileError(
                f"{self.path}: the scale of {node.op} ({node.outputs[0]!r}) is computed, or one of blocks",
                f"expected one that was decided before: {AS_PAIRS}",
            )
        step = self.builder.constants[names[0]].astype(np.float64)
        given = len(names) > 1 and bool(names[1])
        kind = self._kind(node)
        zero = self.builder.constants[names[1]] if given else np.zeros(step.shape, kind)
        if not (np.isfinite(step).all() and (step > 0).all()):
            raise ModelFileError(f"{self.path}: a scale of {node.outputs[0]!r} is not above 0", AS_PAIRS)
        return step, zero

    def _kind(self, node: Node) -> np.dtype[np.generic]:
        """Of levels whose zero point is left out."""
        from onnx import helper

        if node.op == DEQUANTISE and node.inputs[0] in self.builder.constants:
            return self.builder.constants[node.inputs[0]].dtype
        wanted = node.attributes.get("output_dtype", 0) if node.op == QUANTISE else 0
        return helper.tensor_dtype_to_np_dtype(wanted) if wanted else np.dtype(np.uint8)

    def _scale(self, node: Node, step: np.ndarray, zero: np.ndarray) -> Scale:
        """Of activations: one for the tensor, 8 bits."""
        if zero.dtype not in _OFFSETS or step.size != 1:
            has = f"{step.size} scales" if step.size != 1 else str(zero.dtype)
            raise ModelFileError(
                f"{self.path}: tensor {node.inputs[0]!r} is quantised with {has}, expected one scale and 8 bits",
                "quantise activations as uint8 or int8, each tensor with one scale; with NNCF: "
                "activations_quantization_params=QuantizationParameters(per_channel=False)",
            )
        return Scale(float(np.float32(step.reshape(-1)[0])), int(zero.reshape(-1)[0]) + _OFFSETS[zero.dtype])


def settled(path: Path, graph: OnlineGraph) -> OnlineGraph:
    """Give all tensors that share their levels one scale: that of the tensor they are cut from or moved from.

    Parameters
    ----------
    path : Path
        The file, for messages.
    graph : OnlineGraph
        Rewritten: what only moves is slices and concatenations.

    Raises
    ------
    ModelFileError
        A cache has no scale.
    """
    if graph.scales is None:
        return graph
    used = {name for node in graph.nodes for name in node.inputs}
    steps = {name: step for name, step in graph.scales.weight_steps.items() if name in used}
    groups = _groups(graph)
    makers = {name for node in graph.nodes if node.op not in (*SAME_LEVELS, "Concat") for name in node.outputs}
    tensors: dict[str, Scale] = {}
    for members in {id(group): group for group in groups.values()}.values():
        found = {name: graph.scales.tensors[name] for name in members if name in graph.scales.tensors}
        made = [scale for name, scale in found.items() if name in makers or name == graph.frame]
        if found:
            chosen = made[0] if made else max(found.values(), key=lambda scale: scale.step)
            tensors |= dict.fromkeys(members, chosen)
    if not tensors or not steps:
        return replace(graph, scales=None)
    for cache in graph.caches:
        if cache.input not in tensors:
            raise ModelFileError(
                f"{path}: cache {cache.input!r} has no scale: the tensor it is cut from is not quantised",
                "quantise the whole network, or calibrate the float one: --precision int8 --calibrate CLIP",
            )
    return replace(graph, scales=FileScales(tensors, steps))


def _groups(graph: OnlineGraph) -> dict[str, set[str]]:
    """The tensors that share their levels with each tensor."""
    groups: dict[str, set[str]] = {}

    def join(*names: str) -> None:
        joined = set().union(*(groups.get(name, {name}) for name in names))
        groups.update(dict.fromkeys(joined, joined))

    for name in (graph.frame, *(name for node in graph.nodes for name in node.outputs)):
        join(name)
    for node in graph.nodes:
        if node.op in SAME_LEVELS and node.inputs[0] not in graph.constants:
            join(node.inputs[0], node.outputs[0])
    for cache in graph.caches:
        join(cache.input, cache.output)
    for node in graph.nodes:
        # A shift: every part is cut from the same tensor, now or a frame before.
        if node.op == "Concat" and len({id(groups.get(name, name)) for name in node.inputs}) == 1:
            join(*node.inputs, node.outputs[0])
    return groups


def _axis(node: Node) -> int:
    return int(node.attributes.get("axis", 1))


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """One value for each index of an axis, or one for all."""
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


def _levels(values: np.ndarray, step: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    """A constant as QuantizeLinear makes it."""
    limits = np.iinfo(zero.dtype)
    scaled = np.rint(values / _along(step, axis, values.ndim)) + _along(zero.astype(np.float64), axis, values.ndim)
    levels: np.ndarray = np.clip(scaled, limits.min, limits.max).astype(zero.dtype)
    return levels
