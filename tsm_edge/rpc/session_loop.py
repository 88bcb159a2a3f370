"""The server's end of a session: reads packets of TVM's RPC, does what they ask for, and answers each.

What a client gets wrong is answered in a line, and the session goes on; only where packets cannot be told apart any
more does it end. Addresses and handles are the client's word: none is used that this session did not give out.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from tsm_edge.errors import TsmEdgeError
from tsm_edge.rpc import wire
from tsm_edge.rpc.library import PackedFunction, PackedLibrary, TimedFunction
from tsm_edge.rpc.memory import Memory
from tsm_edge.rpc.sockets import Buffer, Patience, receive
from tsm_edge.rpc.values import (
    BOOL,
    BYTES_OBJECT,
    CPU,
    FLOAT,
    FUNCTION,
    INT,
    MODULE,
    NONE,
    STR_OBJECT,
    Pointer,
    RemoteFunction,
    RemoteModule,
    Values,
    sequence,
)

_LARGEST_PACKET = 1 << 30  # bytes: a library of the largest model is a tenth of it
_LARGEST_FIRST = 4096
_MOST_VALUES = 1024  # of a call: a step of 100 shift caches has 202
_MOST_KEPT_CALLS = 16
_LONGEST_KEPT_CALL = 1 << 14  # bytes
_JOINED = 1 << 14  # bytes of an answer that is copied together, to be one segment

_Function = Callable[..., Any] | PackedFunction | TimedFunction
_KINDS = {type(None): NONE, bool: BOOL, int: INT, float: FLOAT, str: STR_OBJECT, bytes: BYTES_OBJECT}
_GLOBAL_SCOPES = (None, "", "global")
_DEVICE_EXISTS = 0  # of DeviceAttrKind


class SessionLoop:
    """One session.

    Parameters
    ----------
    stream : socket
        Connected, hands shaken.
    functions : mapping of str to callable
        Global functions: take and return None, bool, int, float, str, bytes, and the objects of
        :mod:`tsm_edge.rpc.library`.
    """

    def __init__(self, stream: socket.socket, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._stream = stream
        self._functions = functions
        self._memory = Memory()
        self._handles = itertools.count(1)
        self._held: dict[int, _Function | PackedLibrary] = {}
        self._calls: dict[bytes, Callable[[], Any]] = {}  # whole packets whose calls are bound already
        self._actions: Mapping[int, Callable[[Values], list[Any]]] = {
            wire.GET_FUNCTION: self._get_function,
            wire.FREE_HANDLE: self._free_handle,
            wire.DEVICE_ATTRIBUTE: _attribute,
            wire.ALLOCATE: self._allocate,
            wire.ALLOCATE_TENSOR: self._allocate_tensor,
            wire.FREE_MEMORY: self._free_memory,
            wire.COPY_AMONG: self._copy_among,
            # A CPU has one device, and no streams of work.
            **dict.fromkeys((wire.SET_DEVICE, wire.SYNCHRONISE, wire.SET_STREAM, wire.FREE_STREAM), _nothing),
            **dict.fromkeys((wire.CREATE_STREAM, wire.GET_STREAM), _nothing),
        }

    def begin(self, limit_s: float) -> None:
        """Read the first packet.

        Raises
        ------
        TimeoutError
            It does not come in time.
        ValueError
            It is another, or of another version, which the client is told.
        OSError
            The client has gone.
        """
        patience = Patience(limit_s)
        try:
            size, code = wire.HEAD.unpack(receive(self._stream, wire.HEAD.size, patience))
            if not 4 <= size <= _LARGEST_FIRST or code != wire.INIT_SERVER:
                self._refuse(f"the session begins with packet {code} of {size} bytes: another build of TVM's RPC")
            values = Values(receive(self._stream, size - 4, patience), _MOST_VALUES)
        except TimeoutError:
            raise TimeoutError("the client has shaken hands and says nothing more") from None
        version = bytes(values.data())
        if version != wire.PROTOCOL_VERSION:
            self._refuse(
                f"version {version.decode('ascii', 'replace')} of TVM's RPC, expected "
                f"{wire.PROTOCOL_VERSION.decode()}: install the same version of tsm-edge on both machines"
            )
        if values.sequence():
            self._refuse("a session of another kind than this machine's own is asked for: leave out its constructor")
        self._stream.settimeout(None)
        self._send(_answer([None]))

    def run(self) -> None:
        """Answer until the client ends the session.

        Raises
        ------
        ValueError
            What it sends are no packets.
        OSError
            It has gone without a word.
        """
        head = bytearray(wire.HEAD.size)
        while True:
            self._receive(memoryview(head))
            size, code = wire.HEAD.unpack(head)
            if not 4 <= size <= _LARGEST_PACKET:
                self._refuse(f"a packet of {size} bytes, expected at most {_LARGEST_PACKET}")
            if code == wire.SHUTDOWN:
                return
            if code == wire.COPY_TO:
                self._copy_to(size - 4)
                continue
            body = bytearray(size - 4)
            self._receive(memoryview(body))
            self._send(self._answered(code, bytes(body) if size <= _LONGEST_KEPT_CALL else memoryview(body)))

    def _answered(self, code: int, body: bytes | memoryview) -> list[Buffer]:
        try:
            if code == wire.COPY_FROM:
                return self._copied_from(Values(body, _MOST_VALUES))
            if code == wire.CALL:
                return _answer(self._returned(self._called(body)))
            action = self._actions.get(code)
            if action is None:
                raise ValueError(f"packet code {code} is not served here")
            return _answer(action(Values(body, _MOST_VALUES)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            return _fault(error)

    # Calls

    def _called(self, body: bytes | memoryview) -> Any:
        kept = self._calls.get(body) if isinstance(body, bytes) else None
        if kept is not None:
            return kept()
        values = Values(body, _MOST_VALUES)
        function = self._object(values.take("<Q")[0])
        arguments = [self._resolved(value) for value in values.sequence()]
        if isinstance(function, PackedLibrary):
            raise ValueError("a module is not called: ask it for a function")
        if not isinstance(function, PackedFunction | TimedFunction):
            return function(*arguments)
        bound = function.bind(arguments, self._memory)
        if isinstance(body, bytes):
            if len(self._calls) >= _MOST_KEPT_CALLS:
                self._calls.clear()
            self._calls[body] = bound
        return bound()

    def _resolved(self, value: Any) -> Any:
        return self._object(value.handle) if isinstance(value, RemoteModule | RemoteFunction) else value

    def _object(self, handle: int) -> _Function | PackedLibrary:
        if handle not in self._held:
            raise ValueError(f"this session has no function or module {handle}")
        return self._held[handle]

    def _hold(self, item: _Function | PackedLibrary) -> Pointer:
        handle = next(self._handles)
        self._held[handle] = item
        return Pointer(handle)

    def _returned(self, value: Any) -> list[Any]:
        """A result's type, and the result."""
        if isinstance(value, PackedLibrary):
            return [MODULE, self._hold(value)]
        if isinstance(value, PackedFunction | TimedFunction):
            return [FUNCTION, self._hold(value)]
        return [_KINDS[type(value)], value]

    def _get_function(self, values: Values) -> list[Any]:
        found = self._functions.get(values.sequence()[0])
        return [None if found is None else self._hold(found)]

    def _free_handle(self, values: Values) -> list[Any]:
        (handle,) = values.sequence()
        self._object(handle)
        del self._held[handle]
        self._calls.clear()
        return [None]

    # Memory

    def _allocate(self, values: Values) -> list[Any]:
        device, size, alignment, _ = values.sequence()
        return [self._new_memory(device, size, alignment)]

    def _allocate_tensor(self, values: Values) -> list[Any]:
        tensor, scope = values.sequence()
        if scope not in _GLOBAL_SCOPES:
            raise ValueError(f"memory of scope {scope!r}: expected the CPU's")
        return [self._new_memory(tensor.device, tensor.nbytes, 0)]

    def _new_memory(self, device: tuple[int, int], size: int, alignment: int) -> Pointer:
        if device[0] != CPU[0]:
            raise ValueError("memory of another device: tensors are in CPU memory, of models for GPUs, too")
        return Pointer(self._memory.allocate(size, alignment))

    def _free_memory(self, values: Values) -> list[Any]:
        _, address = values.sequence()
        self._memory.free(address)
        self._calls.clear()
        return [None]

    def _copy_among(self, values: Values) -> list[Any]:
        source, target, _ = values.sequence()
        self._memory.bytes_of(target)[:] = self._memory.bytes_of(source)
        return [None]

    def _copied_from(self, values: Values) -> list[Buffer]:
        tensor = values.tensor()
        return _packet(wire.COPY_ACK, [self._memory.bytes_of(tensor, values.take("<Q")[0])])

    def _copy_to(self, size: int) -> None:
        """The data goes straight to where it belongs."""
        fixed = min(size, _TENSOR_FIXED)
        description = bytearray(fixed)
        self._receive(memoryview(description))
        left = size - fixed
        try:
            rank = struct.unpack_from("<i", description, _TENSOR_RANK)[0]
            more = bytearray(min(left, 8 * rank + 16 if 0 <= rank <= _MOST_VALUES else 0))
            self._receive(memoryview(more))
            left -= len(more)
            values = Values(bytes(description + more), _MOST_VALUES)
            tensor, count = values.tensor(), values.take("<Q")[0]
            if count != left:
                raise ValueError(f"{left} bytes of data, {count} announced")
            target = self._memory.bytes_of(tensor, count)
        except (ValueError, struct.error) as error:
            self._skip(left)
            self._send(_fault(error))
            return
        self._receive(target)
        self._send(_answer([None]))

    # Packets

    def _receive(self, into: memoryview) -> None:
        done = 0
        while done < len(into):
            count = self._stream.recv_into(into[done:], 0, socket.MSG_WAITALL)
            if not count:
                raise ConnectionResetError("the client has gone without a word")
            done += count

    def _skip(self, size: int) -> None:
        block = bytearray(min(size, 1 << 20))
        while size:
            part = memoryview(block)[: min(size, len(block))]
            self._receive(part)
            size -= len(part)

    def _send(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self._stream.sendall(part)

    def _refuse(self, why: str) -> NoReturn:
        """Tell the client, and end the session: what follows cannot be read."""
        self._send(_fault(ValueError(why)))
        raise ValueError(why)


_TENSOR_FIXED, _TENSOR_RANK = 24, 16  # bytes of a description before its shape, and where its rank stands


def _attribute(values: Values) -> list[Any]:
    device, kind = values.sequence()
    return [int(device == CPU) if kind == _DEVICE_EXISTS else None]


def _nothing(values: Values) -> list[Any]:
    del values
    return [None]


def _answer(values: Sequence[Any]) -> list[Buffer]:
    return _packet(wire.RETURN, sequence(values))


def _fault(error: Exception) -> list[Buffer]:
    text = f"{error.problem}; {error.hint}" if isinstance(error, TsmEdgeError) else f"{type(error).__name__}: {error}"
    return _packet(wire.EXCEPTION, sequence((text,)))


def _packet(code: int, parts: Sequence[Buffer]) -> list[Buffer]:
    """Small parts joined: an answer is one segment."""
    size = sum(map(len, parts))
    head = wire.HEAD.pack(4 + size, code)
    return [b"".join([head, *parts])] if size < _JOINED else [head, *parts]
