"""Element-wise operators on planes, a thread an element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.cuda.kernels import elements, emit
from tsm_edge.compile.backends.cuda.kernels.elements import ElementGrid
from tsm_edge.compile.backends.cuda.kernels.emit import Expr
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image, planes
from tsm_edge.compile.ir.program import BufferRef

# Operands, parameters → result.
_Operation = Callable[[tuple[Expr, ...], tuple[float, ...]], Expr]


def _number(value: float) -> Expr:
    return emit.splat(value)


def _hard_sigmoid(x: Expr, slope: float, offset: float) -> Expr:
    return emit.activate(x * _number(slope) + _number(offset), "clamp", 0.0, 1.0)


def _leaky(x: Expr, slope: Expr) -> Expr:
    return tirx.max(x, _number(0.0)) + tirx.min(x, _number(0.0)) * slope


def _sigmoid(x: Expr) -> Expr:
    return _number(1.0) / (_number(1.0) + tirx.exp(_number(0.0) - x))


OPERATIONS: Mapping[str, _Operation] = {
    "Identity": lambda x, p: x[0],
    "Add": lambda x, p: x[0] + x[1],
    "Sub": lambda x, p: x[0] - x[1],
    "Mul": lambda x, p: x[0] * x[1],
    "Div": lambda x, p: x[0] / x[1],
    "Max": lambda x, p: tirx.max(x[0], x[1]),
    "Min": lambda x, p: tirx.min(x[0], x[1]),
    "MultiplyAdd": lambda x, p: x[0] * x[1] + x[2],
    "PRelu": lambda x, p: _leaky(x[0], x[1]),
    "LeakyRelu": lambda x, p: _leaky(x[0], _number(p[0])),
    "HardSigmoid": lambda x, p: _hard_sigmoid(x[0], p[0], p[1]),
    "HardSwish": lambda x, p: x[0] * _hard_sigmoid(x[0], 1 / 6, 0.5),
    "Sigmoid": lambda x, p: _sigmoid(x[0]),
}


@dataclass(frozen=True)
class ElementwiseSpec(KernelSpec):
    """Everything an element-wise kernel's code depends on.

    Attributes
    ----------
    operation : str
        One of :data:`OPERATIONS`: an ONNX operator, ``Identity``, or ``MultiplyAdd`` (``x * y + z``).
    operands : tuple of Image or float
        Images of the target's size; images of one pixel, whose channels are used at every pixel; numbers.
    parameters : tuple of float
        Of the operation (``alpha``, ``beta``).
    low, high : float
        The clamp of the epilogue; infinite: none.
    """

    operation: str
    operands: tuple[Image | float, ...]
    target: Image
    parameters: tuple[float, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "elementwise"

    @property
    def parallel(self) -> Grid:
        """Pixels and channels of the target."""
        return ElementGrid(self.target).grid

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        images = [
            Argument(operand_name(index), "input", elements.element_type(operand))
            for index, operand in enumerate(self.operands)
            if isinstance(operand, Image)
        ]
        return (*images, Argument("target", "output", elements.element_type(self.target)))

    @property
    def flops(self) -> int:
        """One an element, whatever the operation."""
        return self.target.values

    @property
    def bytes(self) -> int:
        """Images in and out."""
        return sum(image.value_bytes for image in (*self.operands, self.target) if isinstance(image, Image))

    def describe(self) -> str:
        """The operation."""
        return self.operation

    def write(self, name: str) -> Any:
        """See :func:`elementwise`."""
        return elementwise(name, self)


def operand_name(index: int) -> str:
    """Name of an operand's pointer argument."""
    return f"operand{index}"


def _lower(at: Lowering, layer: ir.Elementwise) -> None:
    operands: list[Image | float] = []
    buffers: dict[str, BufferRef] = {}
    for index, operand in enumerate(layer.operands):
        if isinstance(operand, str):
            found = at.plain(operand)
            operands.append(found.image)
            buffers[operand_name(index)] = found.buffer
        elif operand.size == 1:
            operands.append(float(operand[0]))
        else:
            operands.append(planes(1, 1, operand.size))
            buffers[operand_name(index)] = at.add_weights(operand.astype(np.float32))
    target = at.tensors.output(layer.output)
    spec = ElementwiseSpec(
        operation=layer.operation,
        operands=tuple(operands),
        target=target.image,
        parameters=layer.parameters,
        low=layer.clamp.low,
        high=layer.clamp.high,
    )
    at.call(spec, buffers | {"target": target.buffer}, at.label(layer))


RULE = Rule("elementwise", lambda at, layer: isinstance(layer, ir.Elementwise), _lower)


def elementwise(name: str, spec: ElementwiseSpec) -> Any:
    """Write the kernel of an element-wise operator; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel, ElementGrid(spec.target).element(kernel) as (channel, y, x):
        values = []
        for index, operand in enumerate(spec.operands):
            if isinstance(operand, Image):
                spread = (operand.height, operand.width) == (1, 1)
                place = (channel, 0, 0) if spread else (channel, y, x)
                values.append(elements.load_float(kernel.buffers[operand_name(index)], operand, *place))
            else:
                values.append(_number(operand))
        value = OPERATIONS[spec.operation](tuple(values), spec.parameters)
        value = emit.activate(value, "clamp", spec.low, spec.high)
        elements.store_float(kernel.buffers["target"], spec.target, channel, y, x, value)
    return kernel.function
