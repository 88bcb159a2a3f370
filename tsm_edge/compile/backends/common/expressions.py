"""Arithmetic and memory in TIR, the same on every machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

Expr = Any  # a TIR expression or a Python int
Buffers = dict[str, Any]  # a kernel's buffers by name
MAX_ELEMENTS = 2**31 - 1


def div(value: Expr, by: int) -> Expr:
    """``value // by`` of a non-negative value."""
    if isinstance(value, int):
        return value // by
    return value if by == 1 else tirx.truncdiv(value, by)


def mod(value: Expr, by: int) -> Expr:
    """``value % by`` of a non-negative value."""
    if isinstance(value, int):
        return value % by
    return 0 if by == 1 else tirx.truncmod(value, by)


def smaller(a: Expr, b: Expr) -> Expr:
    """The smaller of two indices."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.min(a, b)


def larger(a: Expr, b: Expr) -> Expr:
    """The larger of two indices."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else tirx.max(a, b)


def load(buffer: Any, index: Expr, lanes: int = 1) -> Expr:
    """``lanes`` consecutive values from ``index``."""
    return buffer[index] if lanes == 1 else buffer[T.ramp(index, 1, lanes)]


def store(buffer: Any, index: Expr, value: Expr, lanes: int = 1) -> None:
    """Write ``lanes`` consecutive values from ``index``."""
    T.buffer_store(buffer, value, [index if lanes == 1 else T.ramp(index, 1, lanes)])


@contextlib.contextmanager
def when_all(*conditions: Expr) -> Iterator[None]:
    """``if`` all of them hold; no ``if`` at all where Python knows already that they do."""
    unsure = [condition for condition in conditions if condition is not True]
    if not unsure:
        yield
        return
    with T.If(tirx.all(*unsure)), T.Then():
        yield
