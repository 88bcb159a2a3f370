"""Values as packets of TVM's RPC carry them: to a server, and back.

Each is a type index of ``tvm/ffi/c_api.h`` and what belongs to it (``src/runtime/rpc/minrpc/rpc_reference.h`` of TVM
0.27); little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tsm_edge.rpc.sockets import Buffer

# Type indices (TVMFFITypeIndex).
NONE, INT, BOOL, FLOAT, POINTER, DTYPE, DEVICE, TENSOR, STR, BYTES = range(10)
STR_OBJECT, BYTES_OBJECT, FUNCTION, MODULE = 65, 66, 68, 73

# DLDevice, kind and number; kDLCPU. DLDataType, kind, bits and lanes; kDLFloat.
Device = tuple[int, int]
DType = tuple[int, int, int]
CPU: Final[Device] = (1, 0)
FLOAT32: Final[DType] = (2, 32, 1)

_TENSOR_HEAD = struct.Struct("<Q ii i BBH")  # handle, device, rank, dtype
_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class RemoteFunction:
    """A packed function on the server."""

    handle: int


@dataclass(frozen=True)
class RemoteModule:
    """A loaded module on the server."""

    handle: int


@dataclass(frozen=True)
class Pointer:
    """An address on the server, or a handle."""

    address: int


@dataclass(frozen=True)
class RemoteTensor:
    """A contiguous tensor in the server's memory: a ``DLTensor``.

    Attributes
    ----------
    handle : int
        Of the memory.
    shape : tuple of int
    dtype : tuple of int
    device : tuple of int
    offset : int
        Bytes from the memory's beginning.
    """

    handle: int
    shape: tuple[int, ...]
    dtype: DType = FLOAT32
    device: Device = CPU
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        _, bits, lanes = self.dtype
        return math.prod(self.shape) * ((bits * lanes + 7) // 8)

    def description(self) -> bytes:
        """As the protocol writes it."""
        head = _TENSOR_HEAD.pack(self.handle, *self.device, len(self.shape), *self.dtype)
        return head + struct.pack(f"<{len(self.shape)}qQ", *self.shape, self.offset)


def sequence(values: Sequence[Any]) -> list[Buffer]:
    """A count and as many values: None, bool, int, float, str, bytes, addresses, modules and tensors."""
    parts: list[Buffer] = [struct.pack("<i", len(values))]
    for value in values:
        parts += _written(value)
    return parts


def _written(value: Any) -> list[Buffer]:
    match value:
        case None:
            return [struct.pack("<i", NONE)]
        case bool():
            return [struct.pack("<iq", BOOL, value)]
        case int():
            return [struct.pack("<iq", INT, value)]
        case float():
            return [struct.pack("<id", FLOAT, value)]
        case str():
            data = value.encode()
            return [struct.pack("<iQ", STR, len(data)) + data]
        case bytes() | bytearray() | memoryview():
            return [struct.pack("<iQ", BYTES, len(value)), value]
        case Pointer():
            return [struct.pack("<iQ", POINTER, value.address)]
        case RemoteTensor():
            return [struct.pack("<i", TENSOR) + value.description()]
        case RemoteModule():
            return [struct.pack("<iQ", MODULE, value.handle)]
    raise TypeError(f"{type(value).__name__} cannot be sent over RPC")


class Values:
    """Reads the values of a packet.

    Parameters
    ----------
    body : bytes or memoryview
        Bytes values are parts of it.
    most : int
        How many there may be.
    """

    def __init__(self, body: Buffer, most: int) -> None:
        self._body = body
        self._most = most
        self._at = 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Numbers, as :mod:`struct` names them."""
        values = struct.unpack_from(form, self._body, self._at)
        self._at += struct.calcsize(form)
        return values

    def data(self) -> Buffer:
        """A length and as many bytes."""
        (length,) = self.take("<Q")
        data = self._body[self._at : self._at + length]
        if len(data) != length:
            raise ValueError("a string longer than its packet")
        self._at += length
        return data

    def tensor(self) -> RemoteTensor:
        """The description of one."""
        (handle, kind, number, rank, *dtype) = _TENSOR_HEAD.unpack_from(self._body, self._at)
        self._at += _TENSOR_HEAD.size
        if not 0 <= rank <= _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {rank} dimensions")
        *shape, offset = self.take(f"<{rank}qQ")
        if any(length < 0 for length in shape):
            raise ValueError("a tensor of negative size")
        return RemoteTensor(handle, tuple(shape), (dtype[0], dtype[1], dtype[2]), (kind, number), offset)

    def sequence(self) -> list[Any]:
        """A count and as many values.

        Raises
        ------
        ValueError, struct.error
            They are encoded in another way.
        """
        (count,) = self.take("<i")
        if not 0 <= count <= self._most:
            raise ValueError(f"{count} values")
        return [self._value() for _ in range(count)]

    def _value(self) -> Any:
        (kind,) = self.take("<i")
        if kind not in _READERS:
            raise ValueError(f"a value of type {kind}")
        if kind in (STR_OBJECT, BYTES_OBJECT):
            self.take("<I")  # the type once more
        return _READERS[kind](self)


_READERS: Mapping[int, Callable[[Values], Any]] = {
    NONE: lambda values: None,
    INT: lambda values: values.take("<q")[0],
    BOOL: lambda values: bool(values.take("<q")[0]),
    FLOAT: lambda values: values.take("<d")[0],
    POINTER: lambda values: values.take("<Q")[0],
    DTYPE: lambda values: values.take("<BBHi")[:3],
    DEVICE: lambda values: values.take("<ii"),
    TENSOR: Values.tensor,
    STR: lambda values: str(values.data(), "utf-8"),
    STR_OBJECT: lambda values: str(values.data(), "utf-8"),
    BYTES: Values.data,
    BYTES_OBJECT: Values.data,
    FUNCTION: lambda values: RemoteFunction(values.take("<Q")[0]),
    MODULE: lambda values: RemoteModule(values.take("<Q")[0]),
}
