"""Packets of TVM's RPC, as many of them as running a model needs.

The protocol is that of TVM 0.27 (``src/runtime/rpc/rpc_endpoint.cc``, ``src/runtime/minrpc/rpc_reference.h``):
little-endian packets, each a 64-bit length, a 32-bit code and values with the type indices of ``tvm/ffi/c_api.h``. Its
version number has not changed in years although the encoding has, which is why tsm-edge's own server names its build
in the handshake.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tsm_edge.rpc.sockets import Buffer

HEAD = struct.Struct("<Qi")  # of a packet: the size of what follows the size, and the code
PROTOCOL_VERSION = b"0.8.0"

# Packet codes (RPCCode of rpc_reference.h).
_SHUTDOWN, _INIT_SERVER, _CALL, _RETURN, _EXCEPTION, _COPY_FROM, _COPY_TO, _COPY_ACK = range(1, 9)
_GET_FUNCTION, _ALLOCATE = 9, 13

# Type indices (TVMFFITypeIndex of tvm/ffi/c_api.h).
_NONE, _INT, _BOOL, _FLOAT, _POINTER, _DTYPE, _DEVICE, _TENSOR, _STR, _BYTES = range(10)
_STR_OBJECT, _BYTES_OBJECT, _FUNCTION, _MODULE = 65, 66, 68, 73

_CPU = struct.pack("<ii", 1, 0)  # DLDevice: kDLCPU, number 0
_FLOAT32 = struct.pack("<BBH", 2, 32, 1)  # DLDataType: kDLFloat, bits, lanes
_ALIGNMENT = 64  # bytes
_MOST_TEXT = 1 << 20  # bytes of an answer without data: the longest is an error with its traceback
_MOST_VALUES = 16  # of an answer; TVM's have at most three


@dataclass(frozen=True)
class RemoteFunction:
    """A packed function on the other end."""

    handle: int


@dataclass(frozen=True)
class RemoteModule:
    """A loaded module on the other end."""

    handle: int


@dataclass(frozen=True)
class RemoteTensor:
    """float32, contiguous, in the CPU memory of the other end."""

    handle: int
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * 4

    def description(self) -> bytes:
        """As the protocol writes a ``DLTensor``."""
        rank = len(self.shape)
        head = struct.pack("<Q", self.handle) + _CPU + struct.pack("<i", rank) + _FLOAT32
        return head + struct.pack(f"<{rank}qQ", *self.shape, 0)


@dataclass(frozen=True)
class Packet:
    """One message to the server, which answers each with one.

    Attributes
    ----------
    code : int
    parts : tuple of buffers
        Its body.
    read : callable
        Takes the values of the answer and returns what it means; raises ``ValueError`` where it means nothing.
    answer_size : int
        The most bytes of data the answer may bring; of a tensor, exactly as many.
    """

    code: int
    parts: tuple[Buffer, ...]
    read: Callable[[list[Any]], Any]
    answer_size: int = 0

    @property
    def largest_answer(self) -> int:
        """The most bytes the body of its answer may have."""
        return _MOST_TEXT + self.answer_size

    def framed(self) -> list[Buffer]:
        """With length and code in front."""
        size = 4 + sum(len(part) for part in self.parts)
        return [HEAD.pack(size, self.code), *self.parts]


@dataclass(frozen=True)
class Fault:
    """An answer: what went wrong on the other end, in its words."""

    text: str


def init_packet() -> Packet:
    """Begin the session; must come first."""
    version = struct.pack("<Q", len(PROTOCOL_VERSION)) + PROTOCOL_VERSION
    return Packet(_INIT_SERVER, (version + struct.pack("<i", 0),), _nothing)


def find_packet(name: str) -> Packet:
    """Ask for a global function; answered with it, or None."""
    return Packet(_GET_FUNCTION, tuple(_sequence((name,))), _found_function)


def allocate_packet(size: int) -> Packet:
    """Ask for ``size`` bytes of float32 memory; answered with their handle."""
    dtype = struct.pack("<i", _DTYPE) + _FLOAT32 + bytes(4)
    device = struct.pack("<i", _DEVICE) + _CPU
    body = struct.pack("<i", 4) + device + b"".join([*_value(size), *_value(_ALIGNMENT)]) + dtype
    return Packet(_ALLOCATE, (body,), lambda values: _handle(values[0]))


def call_packet(function: RemoteFunction, *arguments: Any, answer_size: int = 0) -> Packet:
    """Call a function with None, bool, int, str, bytes, modules and tensors.

    ``answer_size`` is the most bytes its answer may have, beyond a text of ordinary length.
    """
    body = (struct.pack("<Q", function.handle), *_sequence(arguments))
    return Packet(_CALL, body, _returned, answer_size)


def copy_to_packet(tensor: RemoteTensor, data: memoryview) -> Packet:
    """Fill a tensor with ``data``, its bytes."""
    return Packet(_COPY_TO, (tensor.description() + struct.pack("<Q", len(data)), data), _nothing)


def copy_from_packet(tensor: RemoteTensor, size: int) -> Packet:
    """Ask for a tensor's ``size`` bytes."""
    return Packet(_COPY_FROM, (tensor.description() + struct.pack("<Q", size),), _no_data, size)


def shutdown_packet() -> Packet:
    """End the session; has no answer."""
    return Packet(_SHUTDOWN, (), _nothing)


def fault_packet(text: str) -> Packet:
    """What a server answers when something failed there."""
    return Packet(_EXCEPTION, tuple(_sequence((text,))), _nothing)


def read_answer(packet: Packet, code: int, body: bytes) -> Any:
    """What the answer to a packet means.

    Returns
    -------
    Any
        What a function returned, the bytes of a tensor, or a :class:`Fault`.

    Raises
    ------
    ValueError
        Nothing; says what it is instead.
    """
    if code == _COPY_ACK and packet.code == _COPY_FROM and len(body) == packet.answer_size:
        return body
    try:
        if code == _EXCEPTION:
            text = _Values(body).sequence()[0]
            return Fault(text if isinstance(text, str) else "")
        if code == _RETURN:
            return packet.read(_Values(body).sequence())
    except (struct.error, ValueError, IndexError):
        raise ValueError("values of another encoding") from None
    raise ValueError(f"packet code {code}")


def _sequence(values: Sequence[Any]) -> list[Buffer]:
    parts: list[Buffer] = [struct.pack("<i", len(values))]
    for value in values:
        parts += _value(value)
    return parts


def _value(value: Any) -> list[Buffer]:
    if value is None:
        return [struct.pack("<i", _NONE)]
    if isinstance(value, bool):
        return [struct.pack("<iq", _BOOL, value)]
    if isinstance(value, int):
        return [struct.pack("<iq", _INT, value)]
    if isinstance(value, str):
        data = value.encode()
        return [struct.pack("<iQ", _STR, len(data)) + data]
    if isinstance(value, (bytes, memoryview)):
        return [struct.pack("<iQ", _BYTES, len(value)), value]
    if isinstance(value, RemoteTensor):
        return [struct.pack("<i", _TENSOR) + value.description()]
    if isinstance(value, RemoteModule):
        return [struct.pack("<iQ", _MODULE, value.handle)]
    raise TypeError(f"{type(value).__name__} cannot be sent over RPC")


def _handle(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is not a handle")
    return value


def _nothing(values: Sequence[Any]) -> None:
    del values


def _no_data(values: Sequence[Any]) -> None:
    raise ValueError(f"{len(values)} values instead of a tensor's bytes")


def _found_function(values: Sequence[Any]) -> RemoteFunction | None:
    handle = 0 if values[0] is None else _handle(values[0])
    return RemoteFunction(handle) if handle else None


def _returned(values: Sequence[Any]) -> Any:
    """What a function returned: the server sends its type, then the value."""
    kind, value = values[0], values[1]
    if kind == _FUNCTION:
        return RemoteFunction(_handle(value))
    if kind == _MODULE:
        return RemoteModule(_handle(value))
    return value


class _Values:
    """Reads the values of a packet."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def sequence(self) -> list[Any]:
        """A count and as many values."""
        (count,) = self._take("<i")
        if not 0 <= count <= _MOST_VALUES:
            raise ValueError(f"{count} values")
        return [self._value() for _ in range(count)]

    def _take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._body, self._at)
        self._at += struct.calcsize(form)
        return values

    def _text(self) -> bytes:
        (length,) = self._take("<Q")
        data = self._body[self._at : self._at + length]
        if len(data) != length:
            raise ValueError("a string longer than its packet")
        self._at += length
        return data

    def _value(self) -> Any:
        (kind,) = self._take("<i")
        if kind == _NONE:
            return None
        if kind in (_INT, _BOOL):
            (number,) = self._take("<q")
            return bool(number) if kind == _BOOL else number
        if kind == _FLOAT:
            return self._take("<d")[0]
        if kind == _POINTER:
            return self._take("<Q")[0]
        if kind in (_STR_OBJECT, _BYTES_OBJECT):
            self._take("<I")  # the type once more
        if kind in (_STR, _STR_OBJECT):
            return self._text().decode()
        if kind in (_BYTES, _BYTES_OBJECT):
            return self._text()
        raise ValueError(f"a value of type {kind}")
