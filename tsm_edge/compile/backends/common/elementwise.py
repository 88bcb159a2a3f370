"""Element-wise operators, whatever the layout: what each computes, what it costs, and where its operands lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.common.expressions import Expr
from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef


class Arithmetic(Protocol):
    """What a backend writes in its own way."""

    def number(self, value: float) -> Expr:
        """A number, as the operands are."""
        ...

    def clamp(self, value: Expr, low: float, high: float) -> Expr:
        """``min(max(value, low), high)``; infinite bounds cost nothing."""
        ...

    def sigmoid(self, value: Expr) -> Expr:
        """``1 / (1 + e**-value)``."""
        ...


@dataclass(frozen=True)
class Operation:
    """An element-wise operator.

    Attributes
    ----------
    compute : callable
        Operands, parameters, the backend's arithmetic → result.
    flops : int
        Floating-point operations an element; the exponential counts as its polynomial.
    """

    compute: Callable[[Sequence[Expr], Sequence[float], Arithmetic], Expr]
    flops: int = 1


def _hard_sigmoid(x: Expr, slope: float, offset: float, by: Arithmetic) -> Expr:
    return by.clamp(x * by.number(slope) + by.number(offset), 0.0, 1.0)


def _leaky(x: Expr, slope: Expr, by: Arithmetic) -> Expr:
    zero = by.number(0.0)
    return tirx.max(x, zero) + tirx.min(x, zero) * slope


# ONNX's operators, ``Identity``, and ``MultiplyAdd`` (``x * y + z``).
OPERATIONS: Mapping[str, Operation] = {
    "Identity": Operation(lambda x, p, by: x[0], 0),
    "Add": Operation(lambda x, p, by: x[0] + x[1]),
    "Sub": Operation(lambda x, p, by: x[0] - x[1]),
    "Mul": Operation(lambda x, p, by: x[0] * x[1]),
    "Div": Operation(lambda x, p, by: x[0] / x[1]),
    "Max": Operation(lambda x, p, by: tirx.max(x[0], x[1])),
    "Min": Operation(lambda x, p, by: tirx.min(x[0], x[1])),
    "MultiplyAdd": Operation(lambda x, p, by: x[0] * x[1] + x[2], 2),
    "PRelu": Operation(lambda x, p, by: _leaky(x[0], x[1], by), 2),
    "LeakyRelu": Operation(lambda x, p, by: _leaky(x[0], by.number(p[0]), by), 2),
    "HardSigmoid": Operation(lambda x, p, by: _hard_sigmoid(x[0], p[0], p[1], by), 2),
    "HardSwish": Operation(lambda x, p, by: x[0] * _hard_sigmoid(x[0], 1 / 6, 0.5, by), 3),
    "Sigmoid": Operation(lambda x, p, by: by.sigmoid(x[0]), 22),
}


@dataclass(frozen=True)
class ElementwiseBase(KernelSpec):
    """What an element-wise kernel's code depends on, on every machine.

    Attributes
    ----------
    operation : str
        One of :data:`OPERATIONS`.
    operands : tuple of Image or float
        Images of the target's size; images of one pixel, whose channels are used at every pixel; numbers.
    target : Image
    parameters : tuple of float
        Of the operation (``alpha``, ``beta``).
    low, high : float
        The clamp of the epilogue; infinite: none.
    """

    operation: str
    operands: tuple[Image | float, ...]
    target: Image
    _: KW_ONLY
    parameters: tuple[float, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "elementwise"

    @property
    def images(self) -> Mapping[str, Image]:
        """The operands that are images, by the name of their pointer argument."""
        named = zip(map(operand_name, range(len(self.operands))), self.operands, strict=True)
        return {name: operand for name, operand in named if isinstance(operand, Image)}

    @property
    def flops(self) -> int:
        """Of the whole image."""
        return OPERATIONS[self.operation].flops * self.target.values

    @property
    def bytes(self) -> int:
        """Images in and out."""
        return sum(image.value_bytes for image in (*self.images.values(), self.target))

    def describe(self) -> str:
        """The operation."""
        return self.operation

    def result(self, image: Callable[[str, Image], Expr], by: Arithmetic) -> Expr:
        """One element, or one vector, of the result; ``image`` reads an operand there."""
        operands = [
            image(operand_name(index), operand) if isinstance(operand, Image) else by.number(operand)
            for index, operand in enumerate(self.operands)
        ]
        value = OPERATIONS[self.operation].compute(operands, self.parameters, by)
        return by.clamp(value, self.low, self.high)


def operand_name(index: int) -> str:
    """Name of an operand's pointer argument."""
    return f"operand{index}"


def is_everywhere(operand: Image) -> bool:
    """Whether an operand is one pixel, whose channels are used at every pixel."""
    return (operand.height, operand.width) == (1, 1)


def bound_operands(
    layer: ir.Elementwise, tensor: Callable[[str], Tensor], constant: Callable[[np.ndarray], Tensor]
) -> tuple[tuple[Image | float, ...], dict[str, BufferRef]]:
    """The operands of a layer, and buffers by the names of their arguments.

    Parameters
    ----------
    layer : ir.Elementwise
    tensor : callable
        Where a tensor lies.
    constant : callable
        Keeps a value a channel in the model, as an image of one pixel.
    """
    operands: list[Image | float] = []
    buffers: dict[str, BufferRef] = {}
    for index, operand in enumerate(layer.operands):
        if not isinstance(operand, str) and operand.size == 1:
            operands.append(float(operand[0]))
            continue
        found = tensor(operand) if isinstance(operand, str) else constant(operand)
        operands.append(found.image)
        buffers[operand_name(index)] = found.buffer
    return tuple(operands), buffers
