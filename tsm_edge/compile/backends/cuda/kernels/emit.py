"""The small vocabulary in which the rules write device kernels: thread indices, shared memory, registers, barriers.

A kernel takes pointers and nothing else. Each block of threads makes its own part of the output; blocks never wait for
each other. Nothing is read that the same launch writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.common.expressions import MAX_ELEMENTS, Buffers
from tsm_edge.compile.backends.common.expressions import Expr as Expr
from tsm_edge.compile.backends.common.expressions import div as div
from tsm_edge.compile.backends.common.expressions import larger as larger
from tsm_edge.compile.backends.common.expressions import load as load
from tsm_edge.compile.backends.common.expressions import mod as mod
from tsm_edge.compile.backends.common.expressions import smaller as smaller
from tsm_edge.compile.backends.common.expressions import store as store
from tsm_edge.compile.backends.common.expressions import when_all as when_all
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Grid, KernelSpec

VECTOR = 4  # words of the widest load


@dataclass
class Kernel:
    """A kernel being written; ``function`` is set once its ``with`` block ends."""

    name: str
    block: tuple[Expr, Expr, Expr]
    thread: Expr
    buffers: Buffers
    function: Any = None


@contextlib.contextmanager
def kernel(name: str, spec: KernelSpec) -> Iterator[Kernel]:
    """Open the kernel of a spec for a GPU."""
    if not isinstance(spec.parallel, Grid):
        raise TypeError(f"{spec.rule}: a GPU kernel is parted into thread blocks, not {spec.parallel}")
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "calling_conv": 2, "tirx.is_global_func": True, "tirx.noalias": True})
        pointers = [(item, T.arg(f"{item.name}_ptr", T.ptr(item.dtype))) for item in spec.arguments]
        views = {
            item.name: T.decl_buffer((MAX_ELEMENTS,), item.dtype, data=pointer, align=16, layout=None)
            for item, pointer in pointers
        }
        with contextlib.ExitStack() as stack:
            x, y, z = (
                stack.enter_context(T.launch_thread(f"blockIdx.{axis}", extent))
                for axis, extent in zip("xyz", spec.parallel.blocks, strict=True)
            )
            thread = stack.enter_context(T.launch_thread("threadIdx.x", spec.parallel.threads[0]))
            written = Kernel(name, (x, y, z), thread, views)
            yield written
    written.function = builder.get()


def shared(count: int, dtype: str = "float32") -> Any:
    """Memory of the block."""
    return T.alloc_buffer((count,), dtype, scope="shared", layout=None)


def registers(count: int, dtype: str = "float32") -> Any:
    """Registers of the thread, while every index is a Python int."""
    return T.alloc_buffer((count,), dtype, scope="local", layout=None)


def barrier() -> None:
    """Wait for all threads of the block: what they stored to shared memory before is seen after."""
    T.evaluate(T.tvm_storage_sync("shared"))


def fill(buffer: Any, count: int, value: Expr) -> None:
    """Set the first ``count`` registers."""
    for index in range(count):
        store(buffer, index, value)


@contextlib.contextmanager
def loop(stop: Expr) -> Iterator[Expr]:
    """``for index in range(stop)``: use as ``with loop(n) as index``."""
    with T.serial(0, stop) as index:
        yield index


def shares(count: int, threads: int, thread: Expr) -> Iterator[tuple[int, Expr, Expr]]:
    """Deal ``count`` pieces out to threads: rounds of (round, the thread's piece, whether there is one)."""
    for turn in range(ceil_div(count, threads)):
        index = thread + turn * threads
        yield turn, index, (index < count) if (turn + 1) * threads > count else True


def every(*conditions: Expr) -> Expr:
    """Whether all conditions hold."""
    return tirx.all(*conditions) if len(conditions) > 1 else conditions[0]


def choose(conditions: Sequence[Expr], value: Expr, lanes: int = 1, outside: Expr = None) -> Expr:
    """``value`` where all conditions hold (it is not evaluated elsewhere), else zero or what is ``outside``."""
    unsure = [condition for condition in conditions if condition is not True]
    otherwise = splat(0.0, lanes) if outside is None else outside
    return tirx.if_then_else(every(*unsure), value, otherwise) if unsure else value


def one_of(values: Sequence[float], index: Expr) -> Expr:
    """The number at an index that is known on the device only."""
    first, *others = map(splat, values)
    for count, value in enumerate(others, 1):
        first = either(index < count, first, value)
    return first


def either(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """One of two values; only that one is evaluated."""
    return tirx.if_then_else(condition, yes, no)


def splat(value: float, lanes: int = 1) -> Expr:
    """One number in every lane."""
    return T.float32(value) if lanes == 1 else T.Broadcast(T.float32(value), lanes)


def call(name: str, *arguments: Expr, dtype: str = "float32") -> Expr:
    """A function of :data:`PRELUDE`."""
    return T.call_pure_extern(dtype, name, *arguments)


def saturate(value: Expr) -> Expr:
    """Clamp to [0, 1], for nothing: it is a flag of the addition before."""
    return call("tsm_saturate", value)


def activate(value: Expr, activation: str, low: float = 0.0, high: float = 0.0) -> Expr:
    """Apply ``saturate`` ([0, 1]), ``relu``, ``clamp`` (to ``low`` … ``high``) or nothing (``""``)."""
    if activation == "saturate":
        return saturate(value)
    if activation == "relu":
        return tirx.max(value, splat(0.0))
    if activation == "clamp":
        value = tirx.max(value, splat(low)) if low != float("-inf") else value
        return tirx.min(value, splat(high)) if high != float("inf") else value
    return value


# Put before the kernels' code. Halfs are two in a word; ptxas folds the taking apart of ``a`` into HFMA2's selector.
PRELUDE = """
#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short
typedef unsigned int uint32_t; typedef int int32_t; typedef long long int64_t; typedef unsigned long long uint64_t;
typedef unsigned char uint8_t; typedef signed char int8_t; typedef unsigned short uint16_t; typedef short int16_t;
#define TSM static __device__ __forceinline__
TSM float tsm_saturate(float x) { return __saturatef(x); }
TSM uint32_t tsm_fma_low(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("{.reg .b16 l, h; .reg .b32 w; mov.b32 {l, h}, %1; mov.b32 w, {l, l}; fma.rn.f16x2 %0, w, %2, %3;}"
      : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
TSM uint32_t tsm_fma_high(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("{.reg .b16 l, h; .reg .b32 w; mov.b32 {l, h}, %1; mov.b32 w, {h, h}; fma.rn.f16x2 %0, w, %2, %3;}"
      : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
TSM float tsm_low(uint32_t a) {
  float f;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(f) : "r"(a));
  return f;
}
TSM float tsm_high(uint32_t a) {
  float f;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(a));
  return f;
}
TSM uint32_t tsm_pack(float x, float y) {
  uint32_t d;
  asm("{.reg .b16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h};}" : "=r"(d) : "f"(x), "f"(y));
  return d;
}
TSM uint32_t tsm_add2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
TSM uint32_t tsm_saturate2(uint32_t a) {
  uint32_t d;
  asm("add.rn.sat.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(0));
  return d;
}
TSM uint32_t tsm_relu2(uint32_t a) {  // all ones where a half's sign is set
  uint32_t d;
  asm("prmt.b32 %0, %1, 0, 0xbb99;" : "=r"(d) : "r"(a));
  return a & ~d;
}
TSM uint32_t tsm_between(uint32_t a, uint32_t b) {  // the upper half of a, the lower one of b
  uint32_t d;
  asm("prmt.b32 %0, %1, %2, 0x5432;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
TSM float tsm_larger(float x, float y) { float f; asm("max.f32 %0, %1, %2;" : "=f"(f) : "f"(x), "f"(y)); return f; }
TSM uint16_t tsm_half(float x) { uint16_t d; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(d) : "f"(x)); return d; }
TSM float tsm_float(uint16_t x) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x)); return f; }
"""
