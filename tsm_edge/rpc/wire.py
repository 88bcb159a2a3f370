"""The client's half of TVM's RPC protocol, as much of it as running a model needs.

Written here rather than taken from ``tvm.rpc`` for three reasons: every wait has a limit (that client waits for ever in
C++, out of reach of Ctrl-C), several messages travel together (one round trip a frame instead of three), and no TVM is
needed on this side. The protocol is that of TVM 0.27 (``src/runtime/rpc/rpc_endpoint.cc``,
``src/runtime/minrpc/rpc_reference.h``): little-endian packets, each a 64-bit length, a 32-bit code and values with the
type indices of ``tvm/ffi/c_api.h``. Its version number has not changed in years although the encoding has, which is
why tsm-edge's own server names its build in the handshake.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Endpoint

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
_LARGEST_PACKET = 1 << 32  # a length beyond this is not a length
_BLOCK = 1 << 20

Buffer: TypeAlias = "bytes | memoryview"


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
    """One message to the server, which answers each with one."""

    code: int
    parts: tuple[Buffer, ...]

    def framed(self) -> list[Buffer]:
        """With length and code in front."""
        size = 4 + sum(len(part) for part in self.parts)
        return [struct.pack("<Qi", size, self.code), *self.parts]


def init_packet() -> Packet:
    """Begin the session; must come first."""
    return Packet(_INIT_SERVER, (struct.pack("<Q", len(PROTOCOL_VERSION)) + PROTOCOL_VERSION + struct.pack("<i", 0),))


def find_packet(name: str) -> Packet:
    """Ask for a global function; answered with its handle, or None."""
    return Packet(_GET_FUNCTION, tuple(_sequence((name,))))


def allocate_packet(size: int) -> Packet:
    """Ask for ``size`` bytes of float32 memory; answered with their handle."""
    dtype = struct.pack("<i", _DTYPE) + _FLOAT32 + bytes(4)
    device = struct.pack("<i", _DEVICE) + _CPU
    body = struct.pack("<i", 4) + device + b"".join([*_value(size), *_value(_ALIGNMENT)]) + dtype
    return Packet(_ALLOCATE, (body,))


def call_packet(function: RemoteFunction, *arguments: Any) -> Packet:
    """Call a function with None, bool, int, str, bytes, modules and tensors."""
    return Packet(_CALL, (struct.pack("<Q", function.handle), *_sequence(arguments)))


def copy_to_packet(tensor: RemoteTensor, data: memoryview) -> Packet:
    """Fill a tensor with ``data``, its bytes."""
    return Packet(_COPY_TO, (tensor.description() + struct.pack("<Q", len(data)), data))


def copy_from_packet(tensor: RemoteTensor, size: int) -> Packet:
    """Ask for a tensor's ``size`` bytes."""
    return Packet(_COPY_FROM, (tensor.description() + struct.pack("<Q", size),))


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
            self._socket.sendall(b"".join(Packet(_SHUTDOWN, ()).framed()))
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
            The longest silence to bear, seconds.

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
        """
        parts = [part for packet in packets for part in packet.framed()]
        try:
            _send(self._socket, parts, limit_s)
            answers = [self._answer(packet, limit_s) for packet in packets]
        except TimeoutError:
            self._socket.close()
            raise NoAnswer(
                f"{self.name} gives no answer for {limit_s:g} s", "look at the server's output, or restart it"
            ) from None
        except OSError as error:
            self._socket.close()
            raise ConnectionLost(
                f"{self.name} closed the connection ({_reason(error)})", "look at the server's output"
            ) from None
        except BaseException:
            self._socket.close()  # answers are still under way
            raise
        for answer in answers:
            if isinstance(answer, RemoteFault):
                raise answer
        return answers

    def _answer(self, packet: Packet, limit_s: float) -> Any:
        """The value in the next packet; an error of the other end is returned, too."""
        _acknowledge_at_once(self._socket)
        size, code = struct.unpack("<Qi", _receive(self._socket, 12, limit_s))
        if not 4 <= size <= _LARGEST_PACKET:
            raise self._nonsense(f"a packet of {size} bytes")
        body = _receive(self._socket, size - 4, limit_s)
        if code == _COPY_ACK and packet.code == _COPY_FROM:
            return body
        try:
            if code == _EXCEPTION:
                return RemoteFault(f"{self.name}: {last_line(_Values(body).sequence()[0])}")
            if code == _RETURN:
                values = _Values(body).sequence()
                return _returned(values) if packet.code == _CALL else values[0]
        except (struct.error, ValueError, IndexError, UnicodeDecodeError):
            raise self._nonsense("values of another encoding") from None
        raise self._nonsense(f"packet code {code}")

    def _nonsense(self, what: str) -> RpcError:
        return RpcError(
            f"{self.name} answers with {what}: another build of TVM's RPC", "install apache-tvm==0.27.0.post1 there"
        )


def connect(endpoint: Endpoint, key: str, limit_s: float, name: str = "") -> Connection:
    """Connect to a server and shake hands.

    Parameters
    ----------
    endpoint : Endpoint
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
    stream = open_socket(endpoint, limit_s, f"start a server there with: tsm-edge serve --port {endpoint.port}")
    try:
        code, greeting = _shake_hands(stream, f"client:{key}".encode(), time.monotonic() + limit_s)
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
            f"{name} ends the connection before the handshake is done ({_reason(error)}), expected a TVM RPC server",
            "check host and port",
        ) from None
    except BaseException:
        stream.close()
        raise
    return Connection(stream, name, greeting)


def open_socket(endpoint: Endpoint, limit_s: float, hint: str) -> socket.socket:
    """Open a TCP connection.

    Parameters
    ----------
    endpoint : Endpoint
    limit_s : float
    hint : str
        What to try when nothing listens.

    Raises
    ------
    RpcError
        The name is unknown, nothing listens, or the host cannot be reached in time.
    """
    try:
        stream = socket.create_connection((endpoint.host, endpoint.port), timeout=limit_s)
    except socket.gaierror:
        raise RpcError(
            f"{endpoint}: the host name {endpoint.host!r} is unknown", "check it, or use the number"
        ) from None
    except ConnectionRefusedError:
        raise RpcError(f"nothing listens on {endpoint}", hint) from None
    except TimeoutError:
        raise RpcError(
            f"{endpoint} cannot be reached within {limit_s:g} s", "check the address, the network and the firewall"
        ) from None
    except OSError as error:
        raise RpcError(
            f"{endpoint} cannot be reached ({_reason(error)})", "check the address and the network"
        ) from None
    # Small packets must not wait for the acknowledgement of the one before.
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


def receive_before(stream: socket.socket, size: int, deadline: float) -> bytes:
    """Read exactly ``size`` bytes before ``time.monotonic()`` reaches ``deadline``.

    Raises
    ------
    TimeoutError
        They did not come in time.
    ConnectionError
        The other end closed the connection.
    """
    data = bytearray()
    while len(data) < size:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        stream.settimeout(left_s)
        block = stream.recv(size - len(data))
        if not block:
            raise ConnectionResetError(errno.ECONNRESET, "end of stream")
        data += block
    return bytes(data)


def last_line(text: str) -> str:
    """What went wrong, of an error message with a traceback."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    named = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception")) and ":" in line]
    # The outermost wrapper says only that an RPC call failed.
    told = [line for line in named if not line.endswith("Error caught from RPC call:")]
    return (told or lines or ["an error without a message"])[-1]


def _shake_hands(stream: socket.socket, key: bytes, deadline: float) -> tuple[int, str]:
    stream.settimeout(max(0.01, deadline - time.monotonic()))
    stream.sendall(struct.pack("<ii", MAGIC, len(key)) + key)
    (code,) = struct.unpack("<i", receive_before(stream, 4, deadline))
    if code != CODE_ACCEPTED:
        return code, ""
    (length,) = struct.unpack("<i", receive_before(stream, 4, deadline))
    if not 0 <= length < 1 << 16:
        return 0, ""
    return code, receive_before(stream, length, deadline).decode("utf-8", "replace")


def _refusal(code: int, name: str, key: str) -> RpcError:
    if code == CODE_MISMATCH:
        return RpcError(
            f"{name} does not accept the key {key!r}",
            "give the one its server was started with: --key K (a server that a tracker knows: --tracker HOST:PORT)",
        )
    if code == CODE_DUPLICATE:
        return RpcError(f"{name} is busy with another session", "try again when that has ended")
    return RpcError(f"{name} answers, but not as a TVM RPC server does", "check host and port")


def _send(stream: socket.socket, parts: Sequence[Buffer], limit_s: float) -> None:
    """Send the parts in order, the small ones joined; each block gets ``limit_s`` to go out."""
    stream.settimeout(limit_s)
    pending = bytearray()
    for part in parts:
        if len(part) < 4096:
            pending += part
            continue
        stream.sendall(pending)
        pending.clear()
        view = memoryview(part)
        for begin in range(0, len(view), _BLOCK):
            stream.sendall(view[begin : begin + _BLOCK])
    stream.sendall(pending)


def _receive(stream: socket.socket, size: int, limit_s: float) -> bytes:
    """Read exactly ``size`` bytes with no silence longer than ``limit_s``."""
    stream.settimeout(limit_s)
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = stream.recv_into(view[done:])
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "end of stream")
        done += count
    return bytes(data)


def _acknowledge_at_once(stream: socket.socket) -> None:
    """Do not delay acknowledgements: a server that holds back small packets (Nagle) waits for them, up to 40 ms."""
    if hasattr(socket, "TCP_QUICKACK"):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


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


def _returned(values: Sequence[Any]) -> Any:
    """What a function returned: the server sends its type, then the value."""
    kind, value = values[0], values[1]
    if kind == _FUNCTION:
        return RemoteFunction(value)
    if kind == _MODULE:
        return RemoteModule(value)
    return value


class _Values:
    """Reads the values of a packet."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def sequence(self) -> list[Any]:
        """A count and as many values."""
        (count,) = self._take("<i")
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
