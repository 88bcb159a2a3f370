"""Fused layers computed on batches of frames, float32: what calibration looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tsm_edge.artifact.onnx_runtime import open_session
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.elementwise_levels import FUNCTIONS
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.errors import CompileError

Array = np.ndarray


def convolve(x: Array, layer: ir.Convolution, weight: Array, bias: Array) -> Array:
    """The sums of a convolution with other weights, bias included: float32 [frames, out, height, width]."""
    if x.ndim == 2:
        x = x[:, :, None, None]
    attributes = {"strides": layer.strides, "pads": layer.pads, "group": layer.groups}
    return _run("Conv", {"x": x, "w": weight.astype(np.float32), "b": bias.astype(np.float32)}, attributes)


def clamped(values: Array, clamp: ir.Clamp) -> Array:
    """``min(max(values, low), high)``."""
    found: Array = np.clip(values, np.float32(clamp.low), np.float32(clamp.high))
    return found


def evaluate(layer: ir.Layer, tensors: Mapping[str, Array], graph: OnlineGraph) -> Array:
    """A layer that is no convolution, on tensors whose first axis is the frame."""
    if isinstance(layer, ir.MaxPool):
        attributes = {"kernel_shape": layer.kernel, "strides": layer.strides, "pads": layer.pads}
        return _run("MaxPool", {"x": tensors[layer.source]}, attributes)
    if isinstance(layer, ir.GlobalAveragePool):
        mean: Array = tensors[layer.source].mean((2, 3), keepdims=True, dtype=np.float32)
        return mean
    if isinstance(layer, ir.CacheTap):
        return tensors[layer.source][:, : layer.channels]
    if isinstance(layer, ir.ShiftConcat):
        return np.concatenate([tensors[layer.cache], tensors[layer.source][:, layer.channels :]], 1)
    if isinstance(layer, ir.View):
        source = tensors[layer.source]
        return source.reshape(len(source), *graph.shapes[layer.output][1:])
    if isinstance(layer, ir.Elementwise):
        operands = [_operand(operand, tensors, graph.shapes[layer.output]) for operand in layer.operands]
        return clamped(FUNCTIONS[layer.operation](operands, layer.parameters).astype(np.float32), layer.clamp)
    if isinstance(layer, ir.Generic):
        return _generic(layer, tensors, graph)
    raise CompileError(f"layer {layer.output!r} cannot be calibrated", "compile it in float32: leave --precision out")


def _operand(operand: str | Array, tensors: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    if isinstance(operand, str):
        return tensors[operand]
    return operand if operand.size == 1 or len(shape) == 2 else operand.reshape(1, -1, 1, 1)


def _generic(layer: ir.Generic, tensors: Mapping[str, Array], graph: OnlineGraph) -> Array:
    """One frame at a time: an operator may know that the batch is 1."""
    node, frames = layer.node, len(tensors[layer.sources[0]])
    known = {name: value for name, value in graph.constants.items() if name in node.inputs}
    made = []
    for frame in range(frames):
        given = {name: tensors[name][frame : frame + 1] for name in layer.sources}
        made.append(_run(node.op, given | known, node.attributes, node.inputs, graph.opset))
    return np.concatenate(made).astype(np.float32)


def _run(
    op: str, given: Mapping[str, Array], attributes: Mapping[str, Any], inputs: tuple[str, ...] = (), opset: int = 17
) -> Array:
    """One operator in ONNX Runtime."""
    from onnx import helper

    values = {name: np.ascontiguousarray(value) for name, value in given.items()}
    node = helper.make_node(op, list(inputs or values), ["y"], **attributes)
    described = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in values.items()
    ]
    graph = helper.make_graph([node], "operator", described, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    made: Array = open_session(model.SerializeToString()).run(["y"], values)[0]
    return made
