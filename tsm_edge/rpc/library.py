"""Packed functions of a ``model.so``, called through TVM's C interface without TVM (``tvm/ffi/c_api.h``)."""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tsm_edge.rpc.memory import Memory
from tsm_edge.rpc.values import BOOL, FLOAT, INT, NONE, TENSOR, RemoteTensor

_SYMBOL = "__tvm_ffi_{}"
_MOST_REPEATS = 10_000


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class _Content(ctypes.Union):
    _fields_ = (("integer", ctypes.c_int64), ("number", ctypes.c_double), ("address", ctypes.c_void_p))


class _Any(ctypes.Structure):
    """A ``TVMFFIAny``."""

    _anonymous_ = ("content",)
    _fields_ = (("kind", ctypes.c_int32), ("padding", ctypes.c_uint32), ("content", _Content))


class PackedLibrary:
    """A loaded shared library.

    Parameters
    ----------
    path : str

    Raises
    ------
    OSError
        The loader refuses it.
    """

    def __init__(self, path: str) -> None:
        self._c = ctypes.CDLL(path)
        self._last_error = getattr(self._c, "tsm_last_error", None)
        if self._last_error is not None:
            self._last_error.restype = ctypes.c_char_p

    def function(self, name: str) -> PackedFunction | None:
        """A packed function, or None."""
        try:
            found = getattr(self._c, _SYMBOL.format(name))
        except (AttributeError, ValueError):  # of a name that no symbol can have
            return None
        return PackedFunction(name, found, self._error)

    def _error(self) -> str:
        """Of the latest call, as far as the library tells."""
        text = self._last_error() if self._last_error is not None else None
        return text.decode("utf-8", "replace") if text else ""


@dataclass(frozen=True)
class PackedFunction:
    """A function of a library.

    Attributes
    ----------
    name : str
    function : callable
        Its symbol.
    error : callable
        What went wrong in this thread's latest call; empty: not known.
    """

    name: str
    function: Callable[..., int]
    error: Callable[[], str]

    def bind(self, values: Sequence[Any], memory: Memory) -> Callable[[], Any]:
        """The call with these values, which stays good as long as the memory of its tensors.

        Raises
        ------
        ValueError
            A value cannot be passed.
        """
        arguments, kept = _arguments(values, memory)
        result = _Any()

        def call() -> Any:
            result.kind, result.integer = NONE, 0
            if self.function(None, arguments, len(kept), ctypes.byref(result)) != 0:
                raise RuntimeError(self.error() or f"{self.name} failed, and its library does not say why")
            return _value(result)

        return call


@dataclass(frozen=True)
class TimedFunction:
    """What TVM's ``time_evaluator`` asks for: the mean seconds of ``number`` calls, ``repeat`` times, as doubles."""

    function: PackedFunction
    number: int
    repeat: int
    least_repeat_ms: int

    def __post_init__(self) -> None:
        if self.number < 1 or not 1 <= self.repeat <= _MOST_REPEATS:
            raise ValueError(f"number {self.number}, repeat {self.repeat}: expected 1 to {_MOST_REPEATS}")

    def bind(self, values: Sequence[Any], memory: Memory) -> Callable[[], bytes]:
        """As of :meth:`PackedFunction.bind`."""
        call = self.function.bind(values, memory)

        def measure() -> bytes:
            call()  # the first is slower
            means = [self._mean_s(call) for _ in range(self.repeat)]
            return struct.pack(f"<{self.repeat}d", *means)

        return measure

    def _mean_s(self, call: Callable[[], Any]) -> float:
        number = self.number
        while True:
            began = time.perf_counter()
            for _ in range(number):
                call()
            took_s = time.perf_counter() - began
            if took_s * 1e3 >= self.least_repeat_ms:
                return took_s / number
            number *= 2


def _arguments(values: Sequence[Any], memory: Memory) -> tuple[Any, list[object]]:
    """An array of ``TVMFFIAny``, and what must live as long as it."""
    arguments = (_Any * max(len(values), 1))()
    kept: list[object] = []
    for argument, value in zip(arguments, values, strict=False):
        if value is None:
            argument.kind = NONE
            kept.append(None)
        elif isinstance(value, RemoteTensor):
            tensor = _dl_tensor(value, memory)
            argument.kind, argument.address = TENSOR, ctypes.addressof(tensor)
            kept.append(tensor)
        elif isinstance(value, bool | int):
            argument.kind, argument.integer = BOOL if isinstance(value, bool) else INT, value
            kept.append(None)
        elif isinstance(value, float):
            argument.kind, argument.number = FLOAT, value
            kept.append(None)
        else:
            raise ValueError(f"{type(value).__name__} is not passed to a model: expected tensors and numbers")
    return arguments, kept


def _dl_tensor(value: RemoteTensor, memory: Memory) -> _DLTensor:
    memory.bytes_of(value)
    shape = (ctypes.c_int64 * len(value.shape))(*value.shape)
    pointer = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
    device = (ctypes.c_int32 * 2)(*value.device)
    return _DLTensor(value.handle, device, len(value.shape), *value.dtype, pointer, None, value.offset)


def _value(result: _Any) -> Any:
    if result.kind == NONE:
        return None
    if result.kind == FLOAT:
        return float(result.number)
    if result.kind in (INT, BOOL):
        return bool(result.integer) if result.kind == BOOL else int(result.integer)
    raise ValueError(f"a result of type {result.kind}: expected a number, or none")
