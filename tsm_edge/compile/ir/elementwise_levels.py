"""Element-wise operators on levels: the same on every CPU and in ``model.exact.onnx``.

Of one tensor the level that is made is read from a table. The sum of two tensors is
``saturate(rne(fma(float(a - zero of a), A, float(b - zero of b) * B)) + zero)``, their product
``saturate(rne(float((a - zero of a) * (b - zero of b)) * M) + zero)``; see ``quantisation.py`` for what these mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.scale import LEVELS

MULTIPLIER_BITS = 16
# The last place of multipliers.
LAST_PLACE = 2.0**-28
# Levels of the result that one of an operand is: whatever comes to be rounded, then fits an int32.
_LARGEST_MULTIPLIER = 2.0**13

Array = np.ndarray
FUNCTIONS: Mapping[str, Callable[[list[Array], tuple[float, ...]], Array]] = {
    "Identity": lambda x, p: x[0],
    "Add": lambda x, p: x[0] + x[1],
    "Sub": lambda x, p: x[0] - x[1],
    "Mul": lambda x, p: x[0] * x[1],
    "Div": lambda x, p: x[0] / x[1],
    "Max": lambda x, p: np.maximum(x[0], x[1]),
    "Min": lambda x, p: np.minimum(x[0], x[1]),
    "MultiplyAdd": lambda x, p: x[0] * x[1] + x[2],
    "PRelu": lambda x, p: np.maximum(x[0], 0) + np.minimum(x[0], 0) * x[1],
    "LeakyRelu": lambda x, p: np.maximum(x[0], 0) + np.minimum(x[0], 0) * np.float32(p[0]),
    "HardSigmoid": lambda x, p: np.clip(x[0] * np.float32(p[0]) + np.float32(p[1]), 0, 1),
    "HardSwish": lambda x, p: x[0] * np.clip(x[0] / np.float32(6) + np.float32(0.5), 0, 1),
    "Sigmoid": lambda x, p: 1 / (1 + np.exp(-x[0])),
}
"""What each operator computes of float32 operands and its parameters."""

Form = Literal["", "table", "sum", "product"]


def form_on_levels(layer: ir.Elementwise) -> Form:
    """How an operator computes on levels; empty: it does not."""
    constants = [operand for operand in layer.operands if not isinstance(operand, str)]
    tensors = len(layer.operands) - len(constants)
    if not layer.quantisable or layer.operation not in FUNCTIONS:
        return ""
    if tensors == 1 and all(constant.size == 1 for constant in constants):
        return "table"
    if tensors != 2 or constants:
        return ""
    return {"Add": "sum", "Sub": "sum", "Mul": "product"}.get(layer.operation, "")  # type: ignore[return-value]


def rounded_multiplier(values: Array) -> Array:
    """The nearest float32 with few enough bits (see ``quantisation.py``)."""
    fraction, exponent = np.frexp(np.asarray(values, np.float64))
    place = np.maximum(np.ldexp(1.0, exponent - MULTIPLIER_BITS), LAST_PLACE)
    rounded: Array = (np.rint(np.ldexp(fraction, exponent) / place) * place).astype(np.float32)
    return rounded


def level_table(layer: ir.Elementwise, values: Array) -> Array:
    """What an operator of one tensor makes of the values of its levels, float32."""
    operands = [values if isinstance(operand, str) else operand for operand in layer.operands]
    made = FUNCTIONS[layer.operation](operands, layer.parameters).astype(np.float32)
    found: Array = np.clip(made, np.float32(layer.clamp.low), np.float32(layer.clamp.high))
    return found


def multipliers(layer: ir.Elementwise, steps: tuple[float, float], made: float) -> tuple[float, ...]:
    """A and B of a sum, M of a product; ``steps`` and ``made``: of the operands' and of the result's scale."""
    if layer.operation == "Mul":
        return (float(np.float32(min(steps[0] * steps[1] / made, _LARGEST_MULTIPLIER))),)
    first, second = (float(rounded_multiplier(np.array(min(step / made, _LARGEST_MULTIPLIER)))) for step in steps)
    return first, -second if layer.operation == "Sub" else second


def level_bounds(clamp: ir.Clamp, step: float, zero: int) -> tuple[int, int]:
    """A clamp as levels; saturation alone where it lies outside of them."""

    def level(value: float, infinite: int) -> int:
        return infinite if math.isinf(value) else int(np.clip(round(value / step) + zero, 0, LEVELS))

    return level(clamp.low, 0), level(clamp.high, LEVELS)
