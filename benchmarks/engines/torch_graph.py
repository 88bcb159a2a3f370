"""The ONNX model as a PyTorch module, for engines that are fed from PyTorch: same graph, same folded weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

Attributes = dict[str, Any]


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(
        x,
        weight,
        bias,
        stride=attributes.get("strides", [1, 1]),
        padding=_padding(attributes),
        dilation=attributes.get("dilations", [1, 1]),
        groups=attributes.get("group", 1),
    )


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    return F.max_pool2d(x, attributes["kernel_shape"], attributes["strides"], _padding(attributes))


def _padding(attributes: Attributes) -> list[int]:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise NotImplementedError(f"padding {attributes['pads']} differs between opposite sides")
    return [top, left]


def _clip(attributes: Attributes, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # Engines recognise ReLU6 by this module's bounds.
    return F.hardtanh(x, float(low), float(high))


def _slice(attributes: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor) -> Tensor:
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        size = x.shape[axis]
        start, end = (max(place + size, 0) if place < 0 else place for place in (start, end))  # from the end
        x = x.narrow(axis, start, min(end, size) - start) if step == 1 else x.slice_copy(axis, start, end, step)
    return x


def _reduce_mean(attributes: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    # XNNPACK takes a mean over an image only with its dimensions kept.
    dimensions = [axis % x.ndim for axis in axes.tolist()]
    mean = x.mean(dimensions, keepdim=True)
    if attributes.get("keepdims", 1):
        return mean
    return mean.reshape([size for axis, size in enumerate(mean.shape) if axis not in dimensions])


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not attributes.get("allowzero", 0):
        sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _gemm(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight if attributes.get("transB", 0) else weight.t().contiguous(), bias)


_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda attributes, a, b: a + b,
    "Clip": _clip,
    "Concat": lambda attributes, *parts: torch.cat(parts, dim=attributes["axis"]),
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda attributes, a, b: a @ b,
    "MaxPool": _max_pool,
    "ReduceMean": _reduce_mean,
    "Relu": lambda attributes, x: F.relu(x),
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": lambda attributes, x: F.softmax(x, attributes.get("axis", -1)),
    "Transpose": lambda attributes, x: x.permute(attributes["perm"]),
}


class TorchGraph(nn.Module):  # type: ignore[misc]  # PyTorch is not followed
    """``forward(frame, *caches) -> (logits, *next_caches)``, node by node as in the ONNX file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    NotImplementedError
        The file has an operator that the tsm-edge networks do not use.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        self._inputs = [value.name for value in graph.input]
        self._outputs = [value.name for value in graph.output]
        self._constants: dict[str, Tensor] = {}
        self._weights: dict[str, str] = {}
        for index, tensor in enumerate(graph.initializer):
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if value.is_floating_point() and value.ndim:
                self._weights[tensor.name] = f"weight_{index}"
                self.register_buffer(f"weight_{index}", value)
            else:
                self._constants[tensor.name] = value
        self._nodes: list[tuple[Callable[..., Tensor], Attributes, list[str], str]] = []
        for node in graph.node:
            if node.op_type not in _OPERATORS:
                raise NotImplementedError(f"{path}: no PyTorch form of {node.op_type} ({node.name})")
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            self._nodes.append((_OPERATORS[node.op_type], attributes, list(node.input), node.output[0]))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self._inputs, inputs, strict=True)) | self._constants
        values |= {name: self.get_buffer(buffer) for name, buffer in self._weights.items()}
        for operator, attributes, names, output in self._nodes:
            values[output] = operator(attributes, *(values[name] for name in names if name))
        return tuple(values[name] for name in self._outputs)
