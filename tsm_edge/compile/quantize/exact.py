"""The integer network as standard ONNX operators: ONNX Runtime computes it bit for bit as the kernels do.

It has the inputs and outputs of the float model: frame, logits and caches in float32. Where a kernel has one fused
multiply-add there are float64 operations, which are exact on these numbers (``ir/quantisation.py`` says why), and one
rounding to float32 after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.elementwise_levels import form_on_levels, level_bounds, multipliers
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.quantisation import (
    MAGIC,
    IntegerConvolution,
    Quantisation,
    average_multiplier,
    has_integer_form,
    level_of_each,
)
from tsm_edge.compile.ir.scale import LEVELS

OPSET = 17
_END = 2**31 - 1


def exact_model(graph: OnlineGraph, layers: Sequence[ir.Layer], quantisation: Quantisation) -> onnx.ModelProto:
    """Write the model.

    Parameters
    ----------
    graph : OnlineGraph
    layers : sequence of Layer
        Those that were quantised.
    quantisation : Quantisation
    """
    return _Writer(graph, layers, quantisation).run()


class _Writer:
    def __init__(self, graph: OnlineGraph, layers: Sequence[ir.Layer], quantisation: Quantisation) -> None:
        self.graph, self.layers, self.scales = graph, layers, quantisation.tensors
        self.convolutions = quantisation.convolutions
        self.opset = max(OPSET, graph.opset)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.levels: dict[str, str] = {}  # tensor → its levels, uint8
        self.values: dict[str, str] = {graph.frame: graph.frame}  # tensor → its values, float32

    def run(self) -> onnx.ModelProto:
        for cache in self.graph.caches:
            self.values[cache.input] = cache.input
        for layer in self.layers:
            if isinstance(layer, ir.Convolution) and has_integer_form(layer):
                self._convolution(layer, self.convolutions[layer.output])
            elif has_integer_form(layer):
                self._other(layer)
            else:
                self._float(layer)
        outputs = [self.graph.logits, *(cache.output for cache in self.graph.caches)]
        for name in outputs:
            self.nodes.append(helper.make_node("Identity", [self._as_values(name)], [f"{name} of the step"]))
        # A tensor inside may have the name of an output: outputs get theirs at the end.
        return self._model(outputs)

    def _model(self, outputs: list[str]) -> onnx.ModelProto:
        graph = self.graph
        inputs = [graph.frame, *(cache.input for cache in graph.caches)]
        renamed = {f"{name} of the step": name for name in outputs}
        inner = {name: f"{name} inside" for name in outputs if name not in inputs}
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = renamed.get(name, inner.get(name, name))
        described = helper.make_graph(
            self.nodes,
            "exact",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.shapes[name]) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.shapes[name]) for name in outputs],
            self.constants,
        )
        return helper.make_model(described, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)

    def _constant(self, values: Any, dtype: Any) -> str:
        name = f"exact constant {len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def _node(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"exact {op} {len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def _cast(self, tensor: str, kind: int) -> str:
        return self._node("Cast", tensor, to=kind)

    def _as_levels(self, tensor: str) -> str:
        """The tensor's levels, rounded to them where it was made in float32."""
        if tensor not in self.levels:
            scale = self.scales[tensor]
            inverse = self._constant(np.float32(1.0) / np.float32(scale.step), np.float32)
            scaled = self._node("Mul", self.values[tensor], inverse)
            bounds = [self._constant(bound - scale.zero, np.float32) for bound in (0, LEVELS)]
            rounded = self._node("Round", self._node("Clip", scaled, *bounds))
            self.levels[tensor] = self._saturated(rounded, scale.zero, 0, LEVELS)
        return self.levels[tensor]

    def _as_values(self, tensor: str) -> str:
        """The tensor in float32."""
        if tensor not in self.values:
            scale = self.scales[tensor]
            shifted = self._node(
                "Sub", self._cast(self.levels[tensor], TensorProto.FLOAT), self._constant(scale.zero, np.float32)
            )
            self.values[tensor] = self._node("Mul", shifted, self._constant(scale.step, np.float32))
        return self.values[tensor]

    def _saturated(self, rounded: str, zero: int, low: int, high: int) -> str:
        """A whole float32 number plus the zero point, as a level."""
        moved = self._node("Add", rounded, self._constant(zero, np.float32)) if zero else rounded
        bounds = [self._constant(bound, np.float32) for bound in (low, high)]
        return self._cast(self._node("Clip", moved, *bounds), TensorProto.UINT8)

    def _convolution(self, layer: ir.Convolution, integers: IntegerConvolution) -> None:
        source = self._as_levels(layer.source)
        if layer.shift is not None:
            source = self._shifted(layer.shift.cache, source, layer.shift.channels)
        if len(self.graph.shapes[layer.source]) == 2:
            source = self._node("Reshape", source, self._constant([1, -1, 1, 1], np.int64))
        sums = self._node(
            "ConvInteger",
            source,
            self._constant(integers.weight, np.int8),
            self._constant(integers.source.zero, np.uint8),
            self._constant(0, np.int8),
            kernel_shape=layer.weight.shape[2:],
            strides=layer.strides,
            pads=layer.pads,
            group=layer.groups,
        )
        made = self._requantised(layer, integers, sums)
        if len(self.graph.shapes[layer.output]) == 2:
            made = self._node("Reshape", made, self._constant(self.graph.shapes[layer.output], np.int64))
        (self.values if integers.target is None else self.levels)[layer.output] = made

    def _requantised(self, layer: ir.Convolution, integers: IntegerConvolution, sums: str) -> str:
        def column(values: Any, dtype: Any) -> str:
            return self._constant(np.asarray(values).reshape(1, -1, 1, 1), dtype)

        target, multiplier = integers.target, integers.multiplier
        if integers.magic is not None and target is not None:
            start = integers.bias + integers.magic.correction + MAGIC
            begun = self._cast(self._node("Add", sums, column(start, np.int32)), TensorProto.DOUBLE)
            product = self._node("Mul", begun, column(multiplier, np.float64))
            total = self._node("Add", product, column(integers.magic.constant + target.zero, np.float64))
            rounded = self._node("Sub", self._cast(total, TensorProto.FLOAT), self._constant(MAGIC, np.float32))
            return self._saturated(rounded, 0, integers.low, integers.high)
        real = self._cast(self._node("Add", sums, column(integers.bias, np.int32)), TensorProto.FLOAT)
        value = self._node("Mul", real, column(multiplier, np.float32))
        if target is None:
            return self._node("Clip", value, *self._float_bounds(layer.clamp))
        if integers.residual is not None and layer.residual is not None:
            value = self._with_residual(layer.residual, integers, value)
        return self._saturated(self._node("Round", value), target.zero, integers.low, integers.high)

    def _with_residual(self, residual: str, integers: IntegerConvolution, value: str) -> str:
        zero = 0 if integers.residual is None else integers.residual.zero
        levels = self._cast(self._as_levels(residual), TensorProto.DOUBLE)
        shifted = self._node("Sub", levels, self._constant(zero, np.float64))
        added = self._node("Mul", shifted, self._constant(integers.residual_multiplier, np.float64))
        total = self._node("Add", added, self._cast(value, TensorProto.DOUBLE))
        return self._cast(total, TensorProto.FLOAT)

    def _shifted(self, cache: str, source: str, channels: int) -> str:
        rest = self._channels(source, channels, _END)
        return self._node("Concat", self._as_levels(cache), rest, axis=1)

    def _channels(self, tensor: str, start: int, end: int) -> str:
        return self._node("Slice", tensor, *(self._constant([number], np.int64) for number in (start, end, 1)))

    def _other(self, layer: ir.Layer) -> None:
        """A layer that computes on levels and is no convolution."""
        output = layer.output
        if isinstance(layer, ir.View):
            shape = self._constant(self.graph.shapes[output], np.int64)
            kept = self.levels if layer.source in self.levels else self.values
            kept[output] = self._node("Reshape", kept[layer.source], shape)
        elif isinstance(layer, ir.MaxPool):
            attributes = {"kernel_shape": layer.kernel, "strides": layer.strides, "pads": layer.pads}
            self.levels[output] = self._node("MaxPool", self._as_levels(layer.source), **attributes)
        elif isinstance(layer, ir.CacheTap):
            self.levels[output] = self._channels(self._as_levels(layer.source), 0, layer.channels)
        elif isinstance(layer, ir.ShiftConcat):
            self.levels[output] = self._shifted(layer.cache, self._as_levels(layer.source), layer.channels)
        elif isinstance(layer, ir.GlobalAveragePool):
            self.levels[output] = self._average(layer)
        elif isinstance(layer, ir.Elementwise):
            self.levels[output] = self._by_table(layer) if form_on_levels(layer) == "table" else self._of_two(layer)

    def _by_table(self, layer: ir.Elementwise) -> str:
        table = level_of_each(layer, self.scales[layer.source], self.scales[layer.output])
        levels = self._cast(self._as_levels(layer.source), TensorProto.INT32)
        return self._node("Gather", self._constant(table, np.uint8), levels, axis=0)

    def _of_two(self, layer: ir.Elementwise) -> str:
        names, target = ir.layer_sources(layer), self.scales[layer.output]
        first, second = (self.scales[name] for name in names)
        by = multipliers(layer, (first.step, second.step), target.step)
        shifted = [
            self._node(
                "Sub",
                self._cast(self._as_levels(name), TensorProto.FLOAT),
                self._constant(self.scales[name].zero, np.float32),
            )
            for name in names
        ]
        if len(by) == 1:
            value = self._node("Mul", self._node("Mul", *shifted), self._constant(by[0], np.float32))
        else:
            product = self._node("Mul", shifted[1], self._constant(by[1], np.float32))
            exact = self._node("Mul", self._cast(shifted[0], TensorProto.DOUBLE), self._constant(by[0], np.float64))
            total = self._node("Add", exact, self._cast(product, TensorProto.DOUBLE))
            value = self._cast(total, TensorProto.FLOAT)
        bounds = level_bounds(layer.clamp, target.step, target.zero)
        return self._saturated(self._node("Round", value), target.zero, *bounds)

    def _average(self, layer: ir.GlobalAveragePool) -> str:
        source, target = self.scales[layer.source], self.scales[layer.output]
        _, _, height, width = self.graph.shapes[layer.source]
        levels = self._cast(self._as_levels(layer.source), TensorProto.INT32)
        total = self._node("ReduceSum", levels, self._constant([2, 3], np.int64), keepdims=1)
        less = self._node("Sub", total, self._constant(source.zero * height * width, np.int32))
        multiplier = self._constant(average_multiplier(source, target, height * width), np.float32)
        value = self._node("Mul", self._cast(less, TensorProto.FLOAT), multiplier)
        return self._saturated(self._node("Round", value), target.zero, 0, LEVELS)

    def _float(self, layer: ir.Layer) -> None:
        """A layer without an integer form, on values."""
        if isinstance(layer, ir.Convolution):
            self.values[layer.output] = self._float_convolution(layer)
        elif isinstance(layer, ir.Elementwise):
            self.values[layer.output] = self._elementwise(layer)
        elif isinstance(layer, ir.Generic):
            node = layer.node
            inputs = []
            for name in node.inputs:
                if name in self.graph.constants:
                    constant = self.graph.constants[name]
                    inputs.append(self._constant(constant, constant.dtype))
                else:
                    inputs.append(self._as_values(name) if name else "")
            self.values[layer.output] = self._node(node.op, *inputs, **node.attributes)

    def _float_convolution(self, layer: ir.Convolution) -> str:
        source = self._as_values(layer.source)
        if layer.shift is not None:
            rest = self._channels(source, layer.shift.channels, _END)
            source = self._node("Concat", self._as_values(layer.shift.cache), rest, axis=1)
        if len(self.graph.shapes[layer.source]) == 2:
            source = self._node("Reshape", source, self._constant([1, -1, 1, 1], np.int64))
        weights = [self._constant(values, np.float32) for values in (layer.weight, layer.bias)]
        made = self._node("Conv", source, *weights, strides=layer.strides, pads=layer.pads, group=layer.groups)
        if layer.residual is not None:
            made = self._node("Add", made, self._as_values(layer.residual))
        made = self._node("Clip", made, *self._float_bounds(layer.clamp))
        shape = self.graph.shapes[layer.output]
        return made if len(shape) == 4 else self._node("Reshape", made, self._constant(shape, np.int64))

    def _elementwise(self, layer: ir.Elementwise) -> str:
        images = len(self.graph.shapes[layer.output]) == 4
        operands = []
        for operand in layer.operands:
            if isinstance(operand, str):
                operands.append(self._as_values(operand))
            else:
                shape = (1, -1, 1, 1) if images and operand.size > 1 else operand.shape
                operands.append(self._constant(operand.reshape(shape), np.float32))
        names = dict(zip(("alpha", "beta"), layer.parameters, strict=False))
        if layer.operation == "MultiplyAdd":
            made = self._node("Add", self._node("Mul", *operands[:2]), operands[2])
        else:
            made = self._node(layer.operation, *operands, **names)
        return self._node("Clip", made, *self._float_bounds(layer.clamp))

    def _float_bounds(self, clamp: ir.Clamp) -> list[str]:
        return [self._constant(bound, np.float32) for bound in (clamp.low, clamp.high)]
