"""The client's half of TVM's RPC protocol, as much of it as running a model needs.

Written here rather than taken from ``tvm.rpc`` for three reasons: every wait and every answer has a limit (that client
waits for ever in C++, out of reach of Ctrl-C), several messages travel together (one round trip a frame instead of
three), and no TVM is needed on this side. The protocol is that of TVM 0.27 (``src/runtime/rpc/rpc_endpoint.cc``,
``src/runtime/minrpc/rpc_reference.h``): little-endian packets, each a 64-bit length, a 32-bit code and values with the
type indices of ``tvm/ffi/c_api.h``. Its version number has not changed in years although the encoding has, which is
why tsm-edge's own server names its build in the handshake.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Endpoint, UnixEndpoint
from tsm_edge.rpc.sockets import Buffer, Patience, open_socket, reason, receive, send

MAGIC = 0xFF271
CODE_ACCEPTED, CODE_DUPLICATE, CODE_MISMATCH = MAGIC, MAGIC + 1, MAGIC + 2
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
_LONGEST_GREETING = 4096


class ConnectionLost(RpcError):
    """The other end closed the connection, or the network did."""


class NoAnswer(RpcError):
    """The other end is silent for longer than the limit."""


class RemoteFault(RpcError):
    """What was called on the other end raised an error."""


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

    def framed(self) -> list[Buffer]:
        """With length and code in front."""
        size = 4 + sum(len(part) for part in self.parts)
        return [struct.pack("<Qi", size, self.code), *self.parts]


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


def accepted(greeting: str) -> bytes:
    """What a server answers to a good handshake."""
    data = greeting.encode()
    return struct.pack("<ii", CODE_ACCEPTED, len(data)) + data


def fault_packet(text: str) -> Packet:
    """What a server answers when something failed there."""
    return Packet(_EXCEPTION, tuple(_sequence((text,))), _nothing)


class Connection:
    """A session with a TVM RPC server: made by :func:`connect`.

    Attributes
    ----------
    name : str
        Of the other end, for messages.
    greeting : str
        What the server said in the handshake: ``server:KEY``, and from tsm-edge's own server more words.
    """

    def __init__(self, stream: socket.socket, name: str, greeting: str) -> None:
        self._socket = stream
        self.name = name
        self.greeting = greeting

    def close(self) -> None:
        """End the session; closing twice is allowed."""
        try:
            self._socket.settimeout(1.0)
            self._socket.sendall(b"".join(Packet(_SHUTDOWN, (), _nothing).framed()))
        except OSError:
            pass  # it is gone already
        finally:
            self._socket.close()

    def exchange(self, packets: Sequence[Packet], limit_s: float) -> list[Any]:
        """Send all packets, then wait for all answers: one round trip.

        Parameters
        ----------
        packets : sequence of Packet
        limit_s : float
            How long the other end may take for all of it, seconds, beside the time that many bytes need on a slow
            network.

        Returns
        -------
        list
            One value a packet: what a function returned, or the bytes of a tensor.

        Raises
        ------
        ConnectionLost, NoAnswer
            The connection is of no more use.
        RemoteFault
            The first error raised on the other end. All answers have been read: the connection goes on.
        RpcError
            An answer is not TVM's, or larger than what was asked for.
        """
        try:
            send(self._socket, [part for packet in packets for part in packet.framed()], Patience(limit_s))
            patience = Patience(limit_s)
            answers = [self._answer(packet, patience) for packet in packets]
        except TimeoutError:
            self._socket.close()
            raise NoAnswer(
                f"{self.name} gives no answer within {limit_s:g} s", "look at the server's output, or restart it"
            ) from None
        except OSError as error:
            self._socket.close()
            raise ConnectionLost(
                f"{self.name}: the connection was lost ({reason(error)})", "look at the server's output"
            ) from None
        except BaseException:
            self._socket.close()  # answers are still under way
            raise
        for answer in answers:
            if isinstance(answer, RemoteFault):
                raise answer
        return answers

    def _answer(self, packet: Packet, patience: Patience) -> Any:
        """The value in the next packet; an error of the other end is returned, too."""
        _acknowledge_at_once(self._socket)
        size, code = struct.unpack("<Qi", receive(self._socket, 12, patience))
        if not 4 <= size <= 4 + _MOST_TEXT + packet.answer_size:
            raise self._nonsense(f"a packet of {size} bytes")
        body = receive(self._socket, size - 4, patience)
        if code == _COPY_ACK and packet.code == _COPY_FROM and len(body) == packet.answer_size:
            return body
        try:
            if code == _EXCEPTION:
                text = _Values(body).sequence()[0]
                told = last_line(text if isinstance(text, str) else "")
                return RemoteFault(f"{self.name}: {told}", "look at the server's output")
            if code == _RETURN:
                return packet.read(_Values(body).sequence())
        except (struct.error, ValueError, IndexError):
            raise self._nonsense("values of another encoding") from None
        raise self._nonsense(f"packet code {code}")

    def _nonsense(self, what: str) -> RpcError:
        return RpcError(
            f"{self.name} answers with {what}: another build of TVM's RPC", "install apache-tvm==0.27.0.post1 there"
        )


def connect(endpoint: Endpoint | UnixEndpoint, key: str, limit_s: float, name: str = "") -> Connection:
    """Connect to a server and shake hands.

    Parameters
    ----------
    endpoint : Endpoint or UnixEndpoint
    key : str
        Of the server, or the match key a tracker gave for it.
    limit_s : float
        For connecting, and again for the whole handshake, seconds.
    name : str
        Of the server in messages; by default its address.

    Raises
    ------
    RpcError
        Nothing listens, the host cannot be reached, it does not answer in time, refuses the key, is busy, or is not
        a TVM RPC server.
    """
    name = name or str(endpoint)
    where = f"--unix {endpoint.path}" if isinstance(endpoint, UnixEndpoint) else f"--port {endpoint.port}"
    stream = open_socket(endpoint, limit_s, f"start a server there with: tsm-edge serve {where}")
    try:
        code, greeting = _shake_hands(stream, f"client:{key}".encode(), Patience(limit_s))
        if code != CODE_ACCEPTED:
            raise _refusal(code, name, key)
    except TimeoutError:
        stream.close()
        raise NoAnswer(
            f"{name} accepts connections but does not answer within {limit_s:g} s: it is busy with another session, "
            "hangs, or is not a TVM RPC server",
            "restart the server there (tsm-edge serve stays responsive where TVM's own does not)",
        ) from None
    except OSError as error:
        stream.close()
        raise RpcError(
            f"{name} ends the connection before the handshake is done ({reason(error)}), expected a TVM RPC server",
            "check host and port",
        ) from None
    except BaseException:
        stream.close()
        raise
    return Connection(stream, name, greeting)


def last_line(text: str) -> str:
    """What went wrong, of an error message with a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception")) and ":" in line]
    # The outermost wrapper says only that an RPC call failed.
    told = [line for line in named if not line.endswith("Error caught from RPC call:")]
    return printable((told or lines or ["an error without a message"])[-1])


def printable(text: str, most: int = 500) -> str:
    """Another machine's words as they may stand in one line: at most so many characters, all of which print."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:most])
    return shown if len(text) <= most else f"{shown} ..."


def _shake_hands(stream: socket.socket, key: bytes, patience: Patience) -> tuple[int, str]:
    send(stream, [struct.pack("<ii", MAGIC, len(key)), key], patience)
    (code,) = struct.unpack("<i", receive(stream, 4, patience))
    if code != CODE_ACCEPTED:
        return code, ""
    (length,) = struct.unpack("<i", receive(stream, 4, patience))
    if not 0 <= length <= _LONGEST_GREETING:
        return 0, ""
    return code, printable(receive(stream, length, patience).decode("utf-8", "replace"), length)


def _refusal(code: int, name: str, key: str) -> RpcError:
    if code == CODE_MISMATCH:
        # The key itself is not told: errors end in logs.
        return RpcError(
            f"{name} does not accept {'this key' if key else 'clients without its key'}",
            "give the one its server was started with: --key K (a server that a tracker knows: --tracker HOST:PORT)",
        )
    if code == CODE_DUPLICATE:
        return RpcError(f"{name} is busy with another session", "try again when that has ended")
    return RpcError(f"{name} answers, but not as a TVM RPC server does", "check host and port")


def _acknowledge_at_once(stream: socket.socket) -> None:
    """Do not delay acknowledgements: a server that holds back small packets (Nagle) waits for them, up to 40 ms."""
    if stream.family != socket.AF_UNIX and hasattr(socket, "TCP_QUICKACK"):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


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
