"""Packets of TVM's RPC, as many of them as running a model needs.

The protocol is that of TVM 0.27 (``src/runtime/rpc/rpc_endpoint.cc``, ``src/runtime/minrpc/rpc_reference.h``):
little-endian packets, each a 64-bit length, a 32-bit code and values with the type indices of ``tvm/ffi/c_api.h``. Its
version number has not changed in years although the encoding has, which is why tsm-edge's own server names its build
in the handshake.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tsm_edge.rpc.sockets import Buffer
from tsm_edge.rpc.values import (
    CPU,
    DEVICE,
    DTYPE,
    FLOAT32,
    FUNCTION,
    INT,
    MODULE,
    RemoteFunction,
    RemoteModule,
    RemoteTensor,
    Values,
    sequence,
)

HEAD = struct.Struct("<Qi")  # of a packet: the size of what follows the size, and the code
PROTOCOL_VERSION = b"0.8.0"

# Packet codes (RPCCode of rpc_reference.h).
SHUTDOWN, INIT_SERVER, CALL, RETURN, EXCEPTION, COPY_FROM, COPY_TO, COPY_ACK = range(1, 9)
GET_FUNCTION, FREE_HANDLE, SET_DEVICE, DEVICE_ATTRIBUTE, ALLOCATE, FREE_MEMORY, SYNCHRONISE = range(9, 16)
COPY_AMONG, ALLOCATE_TENSOR, CREATE_STREAM, FREE_STREAM, SET_STREAM, GET_STREAM = range(16, 22)

_ALIGNMENT = 64  # bytes
_MOST_TEXT = 1 << 20  # bytes of an answer without data: the longest is an error with its traceback
_MOST_VALUES = 16  # of an answer; TVM's have at most three


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
    return Packet(INIT_SERVER, (version + struct.pack("<i", 0),), _nothing)


def find_packet(name: str) -> Packet:
    """Ask for a global function; answered with it, or None."""
    return Packet(GET_FUNCTION, tuple(sequence((name,))), _found_function)


def allocate_packet(size: int) -> Packet:
    """Ask for ``size`` bytes of float32 memory; answered with their handle."""
    body = struct.pack("<iiiiiqiqiBBHi", 4, DEVICE, *CPU, INT, size, INT, _ALIGNMENT, DTYPE, *FLOAT32, 0)
    return Packet(ALLOCATE, (body,), lambda values: _handle(values[0]))


def call_packet(function: RemoteFunction, *arguments: Any, answer_size: int = 0) -> Packet:
    """Call a function with None, bool, int, str, bytes, modules and tensors.

    ``answer_size`` is the most bytes its answer may have, beyond a text of ordinary length.
    """
    body = (struct.pack("<Q", function.handle), *sequence(arguments))
    return Packet(CALL, body, _returned, answer_size)


def copy_to_packet(tensor: RemoteTensor, data: memoryview) -> Packet:
    """Fill a tensor with ``data``, its bytes."""
    return Packet(COPY_TO, (tensor.description() + struct.pack("<Q", len(data)), data), _nothing)


def copy_from_packet(tensor: RemoteTensor, size: int) -> Packet:
    """Ask for a tensor's ``size`` bytes."""
    return Packet(COPY_FROM, (tensor.description() + struct.pack("<Q", size),), _no_data, size)


def shutdown_packet() -> Packet:
    """End the session; has no answer."""
    return Packet(SHUTDOWN, (), _nothing)


def fault_packet(text: str) -> Packet:
    """What a server answers when something failed there."""
    return Packet(EXCEPTION, tuple(sequence((text,))), _nothing)


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
    if code == COPY_ACK and packet.code == COPY_FROM and len(body) == packet.answer_size:
        return body
    try:
        if code == EXCEPTION:
            text = Values(body, _MOST_VALUES).sequence()[0]
            return Fault(text if isinstance(text, str) else "")
        if code == RETURN:
            return packet.read(Values(body, _MOST_VALUES).sequence())
    except (struct.error, ValueError, IndexError):
        raise ValueError("values of another encoding") from None
    raise ValueError(f"packet code {code}")


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
    if kind == FUNCTION:
        return RemoteFunction(_handle(value))
    if kind == MODULE:
        return RemoteModule(_handle(value))
    return value
