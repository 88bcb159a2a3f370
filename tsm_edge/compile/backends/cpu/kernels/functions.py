"""Functions of vectors that LLVM would otherwise call the C library for, one lane at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import DataType, tirx
from tvm.tirx.op import register_intrin_lowering

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Expr

# Beyond these exp is clamped, so that 2**n stays a normal float32: results reach from 1.2e-38 to 2.4e38.
_EXP_LOW, _EXP_HIGH = -87.3, 88.3
# Adding 1.5 * 2**23 rounds a float32 to a whole number, which is then in the low bits.
_ROUND = 12582912.0
_ROUND_BITS = 0x4B400000
# ln 2 in two parts, the first exact in few bits; and the polynomial of e**r on |r| <= ln 2 / 2 (Cephes, expf.c).
_LN2 = (0.693359375, -2.12194440e-4)
_EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)


def exp(x: Expr, lanes: int) -> Expr:
    """``e**x`` of float32, within 2e-7 of the exact value relatively; clamped beyond ±87 rather than 0 or infinite."""

    def constant(value: float) -> Expr:
        return emit.splat(value, lanes)

    def whole(value: int) -> Expr:
        scalar = tirx.IntImm("int32", value)
        return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)

    def then(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
        """``body(value)``, with ``value`` computed once."""
        variable = tirx.Var("e", value.ty)
        return tirx.Let(variable, value, body(variable))

    def scaled(r: Expr, rounded: Expr) -> Expr:
        sum_ = constant(_EXP_POLYNOMIAL[0])
        for coefficient in _EXP_POLYNOMIAL[1:]:
            sum_ = sum_ * r + constant(coefficient)
        power = tirx.reinterpret(_typed("int32", lanes), rounded) - whole(_ROUND_BITS - 127)
        return (sum_ * (r * r) + r + constant(1.0)) * tirx.reinterpret(_typed("float32", lanes), power << whole(23))

    def reduced(x: Expr, rounded: Expr) -> Expr:
        n = rounded - constant(_ROUND)
        return x - n * constant(_LN2[0]) - n * constant(_LN2[1])

    bounded = emit.clamp(x, _EXP_LOW, _EXP_HIGH, lanes)
    return then(
        bounded,
        lambda x: then(
            x * constant(math.log2(math.e)) + constant(_ROUND),
            lambda rounded: then(reduced(x, rounded), lambda r: scaled(r, rounded)),
        ),
    )


def sigmoid(x: Expr, lanes: int) -> Expr:
    """``1 / (1 + e**-x)``."""
    one = emit.splat(1.0, lanes)
    return one / (one + exp(emit.splat(0.0, lanes) - x, lanes))


def _typed(kind: str, lanes: int) -> str:
    return kind if lanes == 1 else f"{kind}x{lanes}"


def _lower_exp(call: Any) -> Expr:
    """What TVM's code generator is to make of ``exp``; other types than float32 go to the C library."""
    kind = DataType(str(call.ty.dtype))
    if kind.bits != 32:
        return tirx.call_pure_extern(call.ty.dtype, "exp", *call.args)
    return exp(call.args[0], kind.lanes)


# Above TVM's own rule for LLVM, whose level is 10.
register_intrin_lowering("tirx.exp", "llvm", f=_lower_exp, level=20)
