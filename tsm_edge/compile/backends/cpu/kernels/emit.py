"""The small vocabulary in which the schedule rules write kernels: a function over a range of work items, vector
loads and stores, and accumulators that LLVM keeps in registers.

Every kernel is a plain C function ``void kernel(int32 begin, int32 end, float *buffer, …)``. It does work items
``begin … end - 1``; any split of the range over threads gives the same result. Nothing in it allocates. A kernel that
leaves something of use in its scratch memory takes ``int32 resumed`` after ``end``: whether the same thread has just
done the items before ``begin``. A fused kernel takes a clock before its buffers, null but when it is profiled, and
tells it of every stage's end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import DataType, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.common.expressions import MAX_ELEMENTS
from tsm_edge.compile.backends.common.expressions import Buffers as Buffers
from tsm_edge.compile.backends.common.expressions import Expr as Expr
from tsm_edge.compile.backends.common.expressions import div as div
from tsm_edge.compile.backends.common.expressions import larger as larger
from tsm_edge.compile.backends.common.expressions import load as load
from tsm_edge.compile.backends.common.expressions import mod as mod
from tsm_edge.compile.backends.common.expressions import smaller as smaller
from tsm_edge.compile.backends.common.expressions import store as store
from tsm_edge.compile.backends.common.expressions import when_all as when_all
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image

# Kernels being written, the innermost last.
_open: list[Kernel] = []


@dataclass
class Kernel:
    """A kernel being written; ``function`` is set once its ``with`` block ends."""

    name: str
    begin: Expr
    end: Expr
    resumed: Expr
    buffers: Buffers
    stages: tuple[str, ...] = ()
    clock: Any = None
    function: Any = None

    def stage_done(self, name: str) -> None:
        """Tell the clock, if there is one, that a part of a stage is done."""
        with when(negate(tirx.isnullptr(self.clock))):
            T.evaluate(T.call_extern("void", "tsm_stage_done", self.clock, self.stages.index(name)))


def kernel(name: str, spec: KernelSpec) -> contextlib.AbstractContextManager[Kernel]:
    """Open the kernel of a spec for a CPU; its buffers must not overlap where written."""
    if not isinstance(spec.parallel, Items):
        raise TypeError(f"{spec.rule}: a CPU kernel is parted into items, not {spec.parallel}")
    return function(name, spec.arguments, spec.parallel.resumes, tuple(stage.name for stage in spec.stages))


@contextlib.contextmanager
def function(
    name: str, arguments: Sequence[Argument], resumes: bool = False, stages: tuple[str, ...] = ()
) -> Iterator[Kernel]:
    """Open a kernel with these pointer arguments."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "calling_conv": 1, "tirx.noalias": True})
        begin = T.arg("begin", T.int32())
        end = T.arg("end", T.int32())
        resumed = T.arg("resumed", T.int32()) if resumes else 0
        clock = T.arg("clock", T.handle()) if stages else None
        pointers = [T.arg(f"{argument.name}_ptr", T.ptr(argument.dtype)) for argument in arguments]
        views = {
            argument.name: T.decl_buffer(
                (MAX_ELEMENTS,), argument.dtype, data=pointer, align=min(4, item_bytes(argument.dtype)), layout=None
            )
            for argument, pointer in zip(arguments, pointers, strict=True)
        }
        written = Kernel(name, begin, end, resumed, views, stages, clock)
        _open.append(written)
        try:
            yield written
        finally:
            _open.pop()
    written.function = builder.get()


def hidden_zero(which: int) -> Expr:
    """Zero, which LLVM cannot know: the sign of the kernel's ``begin`` (0) or ``end`` (1), neither ever negative."""
    kernel = _open[-1]
    return (kernel.begin, kernel.end)[which] >> 31


@contextlib.contextmanager
def loop(stop: Expr, start: Expr = 0) -> Iterator[Expr]:
    """``for index in range(start, stop)``: use as ``with loop(n) as index``.

    The loop variable itself counts from zero: TIR's analyzer loses track of loops that do not.
    """
    with T.serial(0, stop - start) as step:
        yield step if isinstance(start, int) and start == 0 else start + step


def in_frame(index: Expr, each: int, frames: int) -> tuple[Expr, Expr]:
    """Frame of the ``index``-th of ``each`` things in every frame, and its number there."""
    if frames == 1:
        return 0, index
    return div(index, each), mod(index, each)


def start_of(image: Image, frame: Expr = 0) -> Expr:
    """Offset of element (0, 0, 0) of a frame; an image of one frame is the same for all frames of a clip."""
    return image.origin if image.frames == 1 else image.origin + frame * image.frame


def pixel_at(image: Image, y: Expr, x: Expr, frame: Expr = 0) -> Expr:
    """Offset of element (y, x, 0) of a frame."""
    return start_of(image, frame) + y * image.row + x * image.pixel


def has_frame(image: Image, frame: Expr, offset: int) -> Expr:
    """Whether a clip has the frame so many after one of its own; ``offset`` is not 0."""
    there = frame + offset
    return there < image.frames if offset > 0 else there >= 0


@contextlib.contextmanager
def tiled_loop(extent: int, tile: int) -> Iterator[Expr]:
    """Starts of the tiles that cover ``extent``; the last tile is moved back to end there."""
    with loop(ceil_div(extent, tile)) as step:
        yield tile_start(extent, tile, step)


def tile_start(extent: int, tile: int, step: Expr) -> Expr:
    """Start of the ``step``-th of the tiles that cover ``extent``; the last one is moved back to end there."""
    start = step * tile
    return smaller(start, extent - tile) if extent % tile else start


def splat(value: Expr, lanes: int, dtype: str = "float32") -> Expr:
    """One value in every lane; ``dtype`` is that of a number."""
    value = tirx.const(value, dtype) if isinstance(value, (int, float)) else value
    return value if lanes == 1 else T.Broadcast(value, lanes)


def element(value: Expr) -> str:
    """Type of the elements of a value: ``float16`` of eight of them."""
    return str(DataType(str(value.ty.dtype)).with_lanes(1))


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    """The value in another type, rounded to it; the value itself where it has the type."""
    if element(value) == dtype:
        return value
    return tirx.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def lane(vector: Expr, index: int) -> Expr:
    """One value of a vector."""
    return shuffle((vector,), (index,))


def first_lanes(count: int, lanes: int) -> Expr:
    """Which lanes of a vector are the first so many."""
    return tirx.LT(tirx.Ramp(0, 1, lanes), tirx.Broadcast(count, lanes))


def shuffle(vectors: Sequence[Expr], indices: Sequence[int]) -> Expr:
    """A vector of the chosen lanes, counted over all of ``vectors`` laid end to end."""
    return tirx.Shuffle(list(vectors), [tirx.const(index, "int32") for index in indices])


def repeat_pair(pair: Expr, lanes: int) -> Expr:
    """A vector of two lanes, again and again."""
    return shuffle((pair,) * (lanes // 2), range(lanes))


def interleave(first: Expr, second: Expr, lanes: int) -> list[Expr]:
    """Lanes of two vectors by turns, in two vectors: what :func:`one_of_pairs` takes apart."""
    order = [index for lane in range(lanes) for index in (lane, lanes + lane)]
    return [shuffle((first, second), order[:lanes]), shuffle((first, second), order[lanes:])]


def one_of_pairs(low: Expr, high: Expr, which: int, lanes: int) -> Expr:
    """The first (0) or second (1) of every pair of lanes of two vectors."""
    return shuffle((low, high), range(which, 2 * lanes, 2))


def prefetch(buffer: Any, index: Expr, to_write: bool = False) -> None:
    """Ask for the cache line at ``index``, to be read or written soon; any index is allowed."""
    address = tirx.address_of(buffer[index])
    write, locality, data = T.int32(int(to_write)), T.int32(3), T.int32(1)
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, write, locality, data))


def clamp(value: Expr, low: float, high: float, lanes: int) -> Expr:
    """``min(max(value, low), high)``; infinite bounds cost nothing."""
    if low != float("-inf"):
        value = tirx.max(value, splat(low, lanes, element(value)))
    if high != float("inf"):
        value = tirx.min(value, splat(high, lanes, element(value)))
    return value


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """``yes`` where the condition holds, else ``no``; both are evaluated."""
    return tirx.Select(condition, *(T.int32(value) if isinstance(value, int) else value for value in (yes, no)))


def equal(a: Expr, b: Expr) -> Expr:
    """``a == b`` as an expression of the kernel, or a bool where both are known."""
    return a == b if isinstance(a, int) and isinstance(b, int) else tirx.EQ(a, b)


def both(first: Expr, second: Expr) -> Expr:
    """``first and second``."""
    return tirx.all(first, second)


def either(first: Expr, second: Expr) -> Expr:
    """``first or second``."""
    return tirx.any(first, second)


def negate(condition: Expr) -> Expr:
    """``not condition``."""
    return tirx.Not(condition)


class Registers:
    """``count`` vector accumulators. All indices are Python ints, so LLVM promotes each to a register."""

    def __init__(self, count: int, lanes: int, dtype: str = "float32") -> None:
        self.count, self.lanes = count, lanes
        self.storage = T.alloc_buffer((count * lanes,), dtype, scope="local", layout=None)

    def get(self, index: int) -> Expr:
        """Accumulator ``index``."""
        return load(self.storage, index * self.lanes, self.lanes)

    def set(self, index: int, value: Expr) -> None:
        """Replace accumulator ``index``."""
        store(self.storage, index * self.lanes, value, self.lanes)

    def load(self, buffer: Any, start: Expr) -> None:
        """All of them, one after the other, from memory."""
        for index in range(self.count):
            self.set(index, load(buffer, start + index * self.lanes, self.lanes))

    def store(self, buffer: Any, start: Expr) -> None:
        """All of them, one after the other, to memory."""
        for index in range(self.count):
            store(buffer, start + index * self.lanes, self.get(index), self.lanes)

    def add(self, index: int, value: Expr) -> None:
        """Add to accumulator ``index``; with a product as ``value`` this is one fused multiply-add."""
        self.set(index, self.get(index) + value)


@contextlib.contextmanager
def when(condition: Expr) -> Iterator[None]:
    """``if condition:``; a Python bool decides now instead of in the kernel."""
    if isinstance(condition, bool):
        raise TypeError("decide constant conditions in Python, not in the kernel")
    with T.If(condition), T.Then():
        yield


@contextlib.contextmanager
def when_unsure(condition: Expr) -> Iterator[None]:
    """``if condition:``, or nothing at all where Python knows already that it holds."""
    with contextlib.nullcontext() if condition is True else when(condition):
        yield
