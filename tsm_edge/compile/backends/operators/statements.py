"""Looking through TIR: what a statement calls, writes and allocates, and what no plain kernel can."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

# Most memory a kernel may keep on the stack, bytes.
MAX_LOCAL_BYTES = 4096


class NotPlain(Exception):
    """The function needs something a plain kernel does not have; the text says what."""


def walk(root: Any, *entries: tuple[type, Callable[[Any], None]]) -> None:
    """Call each function on every node of its type."""
    tvm_ffi.structural_walk(root, list(entries))


def refuse_calls(statement: Any) -> None:
    """Refuse what calls TVM's runtime, or needs more than a little memory of its own.

    Raises
    ------
    NotPlain
        It does.
    """

    def visit(call: Any) -> None:
        name = getattr(call.op, "name", "")
        if "packed" in name or "extern" in name or "ffi" in name:
            raise NotPlain(f"it needs TVM's runtime ({name})")

    def allocation(allocate: Any) -> None:
        if buffer_bytes(allocate.buffer) > MAX_LOCAL_BYTES:
            raise NotPlain(f"it needs {buffer_bytes(allocate.buffer)} bytes of scratch memory in a loop")

    walk(statement, (tvm.ir.Call, visit), (tirx.AllocBuffer, allocation))


def buffer_bytes(buffer: Any) -> int:
    """Size of a buffer.

    Raises
    ------
    NotPlain
        It is not known now.
    """
    try:
        count = math.prod(int(extent) for extent in buffer.shape)
    except TypeError:
        raise NotPlain("its shapes depend on the data") from None
    return count * max(1, int(tvm.DataType(buffer.dtype).bits) // 8)
