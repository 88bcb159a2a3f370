"""Maxima and minima that let NaN through, as ONNX's do: the last pass over the kernels.

TIR's ``max(a, b)`` is ``a if a > b else b``, to LLVM and to x86: where one of them is NaN it is ``b``. A clamp written
with the bound second makes a number of NaN; with the bound first it costs the same instruction and keeps it. Where
both are unknown (pooling), NaN comes through one order or the other, and of the two results any NaN is kept. Arm has
instructions that keep NaN from either side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import DataType, tirx

from tsm_edge.cards import CpuSpec

# One of the two: a node of TIR.
_Pick = Callable[[Any, Any], Any]


def propagate_nan(cpu: CpuSpec) -> Any:
    """The pass for a CPU."""
    rewrite = _on_arm if cpu.triple.startswith(("aarch64", "arm")) else _on_x86

    picks = [
        (tirx.Max, lambda node: rewrite(node, tirx.Max, "llvm.maximum")),
        (tirx.Min, lambda node: rewrite(node, tirx.Min, "llvm.minimum")),
    ]

    def apply(function: Any, module: Any, context: Any) -> Any:
        return function.with_body(tvm_ffi.structural_map(function.body, picks))

    return tirx.transform.prim_func_pass(apply, opt_level=0)


def _on_arm(node: Any, pick: _Pick, intrinsic: str) -> Any:
    if not _is_float(node):
        return node
    return tirx.call_llvm_pure_intrin(node.ty, intrinsic, node.a, node.b)


def _on_x86(node: Any, pick: _Pick, intrinsic: str) -> Any:
    if not _is_float(node) or _is_constant(node.a):
        return node
    if _is_constant(node.b):
        return pick(node.b, node.a)
    a, b = tirx.Var("a", node.ty), tirx.Var("b", node.ty)
    # Two numbers give the same bits twice; a NaN and a number together are still a NaN.
    integer = f"int{_kind(node).bits}" + (f"x{_kind(node).lanes}" if _kind(node).lanes > 1 else "")
    either = tirx.reinterpret(integer, pick(a, b)) | tirx.reinterpret(integer, pick(b, a))
    return tirx.Let(a, node.a, tirx.Let(b, node.b, tirx.reinterpret(node.ty, either)))


def _kind(node: Any) -> Any:
    return DataType(str(node.ty.dtype))


def _is_float(node: Any) -> bool:
    return str(node.ty.dtype).startswith("float")


def _is_constant(value: Any) -> bool:
    return isinstance(value.value if isinstance(value, tirx.Broadcast) else value, tirx.FloatImm)
