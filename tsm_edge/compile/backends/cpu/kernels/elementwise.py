"""Element-wise operators over NHWC: images of one size, per-channel operands ([1, C, 1, 1]) and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import zero_border
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.backends.cpu.kernels.functions import sigmoid
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Border, Image
from tsm_edge.compile.ir.program import BufferRef

# Operands, parameters, lanes → result.
_Operation = Callable[[tuple[Expr, ...], tuple[float, ...], int], Expr]


def _hard_sigmoid(x: Expr, slope: float, offset: float, lanes: int) -> Expr:
    return emit.clamp(x * emit.splat(slope, lanes) + emit.splat(offset, lanes), 0.0, 1.0, lanes)


def _leaky(x: Expr, slope: Expr, lanes: int) -> Expr:
    zero = emit.splat(0.0, lanes)
    return tirx.max(x, zero) + tirx.min(x, zero) * slope


OPERATIONS: Mapping[str, _Operation] = {
    "Identity": lambda x, p, lanes: x[0],
    "Add": lambda x, p, lanes: x[0] + x[1],
    "Sub": lambda x, p, lanes: x[0] - x[1],
    "Mul": lambda x, p, lanes: x[0] * x[1],
    "Div": lambda x, p, lanes: x[0] / x[1],
    "Max": lambda x, p, lanes: tirx.max(x[0], x[1]),
    "Min": lambda x, p, lanes: tirx.min(x[0], x[1]),
    "MultiplyAdd": lambda x, p, lanes: x[0] * x[1] + x[2],
    "PRelu": lambda x, p, lanes: _leaky(x[0], x[1], lanes),
    "LeakyRelu": lambda x, p, lanes: _leaky(x[0], emit.splat(p[0], lanes), lanes),
    "HardSigmoid": lambda x, p, lanes: _hard_sigmoid(x[0], p[0], p[1], lanes),
    "HardSwish": lambda x, p, lanes: x[0] * _hard_sigmoid(x[0], 1 / 6, 0.5, lanes),
    "Sigmoid": lambda x, p, lanes: sigmoid(x[0], lanes),
}
# Floating-point operations an element; the exponential counts its polynomial.
_FLOPS: Mapping[str, int] = {
    "Identity": 0,
    "MultiplyAdd": 2,
    "PRelu": 2,
    "LeakyRelu": 2,
    "HardSigmoid": 2,
    "HardSwish": 3,
    "Sigmoid": 22,
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
    lanes: int
    parameters: tuple[float, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "elementwise"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        inputs = [
            Argument(operand_name(index), "input", operand.dtype)
            for index, operand in enumerate(self.operands)
            if isinstance(operand, Image)
        ]
        return (*inputs, Argument("target", "output", self.target.dtype))

    @property
    def parallel(self) -> Items:
        """Image rows."""
        return Items(self.target.height)

    @property
    def flops(self) -> int:
        """Of the whole image."""
        return _FLOPS.get(self.operation, 1) * self.target.values

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
            found = at.tensors.vectors(operand)
            operands.append(found.image)
            buffers[operand_name(index)] = found.buffer
        elif operand.size == 1:
            operands.append(float(operand[0]))
        else:
            image = at.nhwc(1, 1, operand.size)
            operands.append(image)
            buffers[operand_name(index)] = at.add_weights(_row(operand, image))
    target = at.tensors.output(layer.output)
    spec = ElementwiseSpec(
        operation=layer.operation,
        operands=tuple(operands),
        target=target.image,
        lanes=at.lanes,
        parameters=layer.parameters,
        low=layer.clamp.low,
        high=layer.clamp.high,
    )
    at.call(spec, buffers | {"target": target.buffer}, at.label((layer,)))


def _row(values: np.ndarray, image: Image) -> np.ndarray:
    """A value a channel, as an image of one pixel."""
    return np.pad(values, (0, image.pixel - values.size)).astype(image.dtype)


RULE = Rule("elementwise", lambda unit: isinstance(unit, ir.Elementwise), _lower)


def elementwise(name: str, spec: ElementwiseSpec) -> Any:
    """Write the kernel of an element-wise operator; returns its PrimFunc."""
    image, lanes = spec.target, spec.lanes
    full, tail = divmod(image.channels, lanes)
    with emit.kernel(name, spec) as kernel:
        buffers = kernel.buffers
        target = buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as y, emit.loop(image.width) as x:
            write = _at(image, y, x)
            if full:
                with emit.loop(full) as vector:
                    emit.store(target, write + vector * lanes, _value(spec, buffers, y, x, vector), lanes)
            if tail:  # lanes beyond the last channel stay zero, whatever the operation makes of zeros
                inside = tirx.LT(tirx.Ramp(0, 1, lanes), tirx.Broadcast(tail, lanes))
                value = tirx.Select(inside, _value(spec, buffers, y, x, full), emit.splat(0.0, lanes, image.dtype))
                emit.store(target, write + full * lanes, value, lanes)
            for vector in range(ceil_div(image.channels, lanes), image.pixel // lanes):
                emit.store(target, write + vector * lanes, emit.splat(0.0, lanes, image.dtype), lanes)
            if image.border != Border():
                zero_border(target, image, y, x, 1, 0, image.pixel, lanes, image.width > 1)
    return kernel.function


def _value(spec: ElementwiseSpec, buffers: Mapping[str, Any], y: Expr, x: Expr, vector: Expr) -> Expr:
    """One vector of the result, computed in float32."""
    operands = []
    for index, operand in enumerate(spec.operands):
        if isinstance(operand, Image):
            spread = (operand.height, operand.width) == (1, 1)
            at = operand.origin if spread else _at(operand, y, x)
            found = emit.load(buffers[operand_name(index)], at + vector * spec.lanes, spec.lanes)
            operands.append(emit.cast(found, "float32", spec.lanes))
        else:
            operands.append(emit.splat(operand, spec.lanes))
    value = OPERATIONS[spec.operation](tuple(operands), spec.parameters, spec.lanes)
    return emit.cast(emit.clamp(value, spec.low, spec.high, spec.lanes), spec.target.dtype, spec.lanes)


def _at(image: Image, y: Expr, x: Expr) -> Expr:
    return image.origin + y * image.row + x * image.pixel
