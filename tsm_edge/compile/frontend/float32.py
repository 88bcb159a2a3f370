"""Half and double precision in an ONNX model → float32, which is what everything here computes in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

# Attributes that hold an element type.
_TYPE_ATTRIBUTES = ("to", "dtype")


def in_float32(model: onnx.ModelProto) -> bool:
    """Convert a model in place; returns whether anything was in another precision.

    A model whose weights, inputs and outputs are float32 is left alone, whatever its operators cast to in between.
    """
    import onnx

    kinds = _other_kinds()
    used = {tensor.data_type for tensor in model.graph.initializer}
    used |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    if not used & kinds:
        return False
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            _convert_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in kinds:
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                _convert_attribute(attribute)
    return True


def _other_kinds() -> set[int]:
    from onnx import TensorProto

    return {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _graphs(inner)


def _convert_attribute(attribute: onnx.AttributeProto) -> None:
    from onnx import TensorProto

    if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _other_kinds():
        attribute.i = TensorProto.FLOAT
    for tensor in (attribute.t, *attribute.tensors):
        _convert_tensor(tensor)


def _convert_tensor(tensor: onnx.TensorProto) -> None:
    from onnx import numpy_helper

    if tensor.data_type in _other_kinds():
        with np.errstate(over="ignore"):  # beyond float32: infinite
            value = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
