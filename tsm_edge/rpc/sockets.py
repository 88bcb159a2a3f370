"""Sockets whose every wait has a limit, for the transfer as a whole: a byte now and then keeps nobody waiting."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterable
from typing import TypeAlias

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Endpoint, UnixEndpoint

# What moves more slowly than this, after the time limit it has anyway, counts as broken.
SLOWEST_BYTES_PER_S = 50_000.0
_BLOCK = 1 << 20
_JOINED = 4096  # bytes; smaller parts travel together

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class Patience:
    """How long a transfer may take: a time limit, and a little more for every byte that has moved.

    Parameters
    ----------
    limit_s : float
        Seconds, from now; also the longest silence.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._until_s = time.monotonic() + limit_s

    def left_s(self) -> float:
        """How long to wait for the next byte, seconds.

        Raises
        ------
        TimeoutError
            No longer.
        """
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return min(left_s, self._limit_s)

    def moved(self, count: int) -> None:
        """Bytes went out or came in."""
        self._until_s += count / SLOWEST_BYTES_PER_S


def open_socket(endpoint: Endpoint | UnixEndpoint, limit_s: float, hint: str) -> socket.socket:
    """Connect.

    Parameters
    ----------
    endpoint : Endpoint or UnixEndpoint
    limit_s : float
    hint : str
        What to try when nothing listens.

    Raises
    ------
    RpcError
        The name is unknown, nothing listens, or the host cannot be reached in time.
    """
    try:
        if isinstance(endpoint, UnixEndpoint):
            return _open_unix(endpoint, limit_s)
        return _open_tcp(endpoint, limit_s)
    except (ConnectionRefusedError, FileNotFoundError):
        raise RpcError(f"nothing listens on {endpoint}", hint) from None
    except TimeoutError:
        raise RpcError(
            f"{endpoint} cannot be reached within {limit_s:g} s", "check the address, the network and the firewall"
        ) from None
    except OSError as error:
        raise RpcError(f"{endpoint} cannot be reached ({reason(error)})", "check the address and the network") from None


def _open_tcp(endpoint: Endpoint, limit_s: float) -> socket.socket:
    try:
        stream = socket.create_connection((endpoint.host, endpoint.port), timeout=limit_s)
    except socket.gaierror:
        raise RpcError(
            f"{endpoint}: the host name {endpoint.host!r} is unknown", "check it, or use the number"
        ) from None
    # Small packets must not wait for the acknowledgement of the one before.
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


def _open_unix(endpoint: UnixEndpoint, limit_s: float) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(limit_s)
        stream.connect(endpoint.path)
    except BaseException as error:
        stream.close()
        if isinstance(error, PermissionError):
            raise RpcError(f"{endpoint} belongs to another user", "connect as the user who serves there") from None
        raise
    return stream


def send(stream: socket.socket, parts: Iterable[Buffer], patience: Patience) -> None:
    """Send all parts in order, the small ones joined.

    Raises
    ------
    TimeoutError
        The other end does not take them in time.
    OSError
        It closed the connection.
    """
    pending = bytearray()
    for part in parts:
        if len(part) < _JOINED:
            pending += part
            continue
        _send_all(stream, pending, patience)
        pending = bytearray()
        _send_all(stream, part, patience)
    _send_all(stream, pending, patience)


def _send_all(stream: socket.socket, data: Buffer, patience: Patience) -> None:
    view, done = memoryview(data), 0
    while done < len(view):
        stream.settimeout(patience.left_s())
        count = stream.send(view[done : done + _BLOCK])
        patience.moved(count)
        done += count


def receive(stream: socket.socket, size: int, patience: Patience) -> bytes:
    """Read exactly ``size`` bytes; the caller has checked that it wants as many.

    Raises
    ------
    TimeoutError
        They do not come in time.
    OSError
        The other end closed the connection.
    """
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        stream.settimeout(patience.left_s())
        count = stream.recv_into(view[done:])
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "end of stream")
        patience.moved(count)
        done += count
    return bytes(data)


def reason(error: OSError) -> str:
    """What the operating system says, in words."""
    return error.strerror or type(error).__name__
