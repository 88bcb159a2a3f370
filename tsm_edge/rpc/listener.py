"""Where a server listens, and who can reach it there."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import socket
import stat
import struct
from collections.abc import Hashable
from dataclasses import dataclass

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Endpoint, UnixEndpoint
from tsm_edge.rpc.sockets import reason

_OWNER_ONLY = 0o177  # umask
_BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group


@dataclass(frozen=True)
class Caller:
    """Who has just connected.

    Attributes
    ----------
    stream : socket
        Does not block.
    name : str
        For messages.
    origin : hashable
        Equal for all connections from one address, or of one user of this machine.
    """

    stream: socket.socket
    name: str
    origin: Hashable


class Listener:
    """A listening socket.

    Parameters
    ----------
    wanted : Endpoint or UnixEndpoint
        Port 0: any free one. The file of a Unix socket is made so that only its owner can connect.

    Attributes
    ----------
    endpoint : Endpoint or UnixEndpoint
        Where it listens.

    Raises
    ------
    RpcError
        The address cannot be bound, or the path is taken.
    """

    def __init__(self, wanted: Endpoint | UnixEndpoint) -> None:
        self.endpoint: Endpoint | UnixEndpoint
        self._file: tuple[int, int] | None = None
        if isinstance(wanted, UnixEndpoint):
            self.stream = _bind_unix(wanted)
            self.endpoint = wanted
            self._file = _identity(wanted.path)
        else:
            self.stream = _bind_tcp(wanted)
            self.endpoint = Endpoint(wanted.host, self.stream.getsockname()[1])
        # Before anybody is told the address.
        self.stream.listen(_BACKLOG)
        self.stream.setblocking(False)

    def accept(self) -> Caller:
        """The next connection.

        Raises
        ------
        OSError
            There is none any more, or no file descriptor for it.
        """
        stream, address = self.stream.accept()
        stream.setblocking(False)
        if isinstance(self.endpoint, UnixEndpoint):
            return _local_caller(stream)
        return Caller(stream, str(Endpoint(*address[:2])), address[0])

    def close(self) -> None:
        """Listen no more, and remove the socket's file, if it still is this one's."""
        self.stream.close()
        if isinstance(self.endpoint, UnixEndpoint) and _identity(self.endpoint.path) == self._file:
            with contextlib.suppress(OSError):
                os.unlink(self.endpoint.path)


def _bind_tcp(wanted: Endpoint) -> socket.socket:
    try:
        family = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise RpcError(
            f"{wanted} is not an address of this machine ({reason(error)})", "try: --host 127.0.0.1"
        ) from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((wanted.host, wanted.port))
    except OSError as error:
        listener.close()
        hint = "try: --host 127.0.0.1" if error.errno == errno.EADDRNOTAVAIL else f"try: --port {wanted.port + 1}"
        raise RpcError(f"{wanted} cannot be bound ({reason(error)})", hint) from None
    return listener


def _bind_unix(wanted: UnixEndpoint) -> socket.socket:
    _remove_stale(wanted)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(_OWNER_ONLY)
    try:
        listener.bind(wanted.path)
    except OSError as error:
        listener.close()
        raise RpcError(f"{wanted} cannot be made ({reason(error)})", "name a socket in a folder of yours") from None
    finally:
        os.umask(mask)
    return listener


def _remove_stale(wanted: UnixEndpoint) -> None:
    """Remove the socket of a server that is no more; anything else under that name stays."""
    try:
        status = os.lstat(wanted.path)
    except OSError:
        return  # there is nothing, or binding will say what is wrong
    if not stat.S_ISSOCK(status.st_mode):
        raise RpcError(f"{wanted.path} exists and is not a socket", "name another path with: --unix PATH")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(wanted.path)
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):  # binding will say why
                os.unlink(wanted.path)
            return
        except OSError:
            pass  # it is there, if not for us
    raise RpcError(f"a server listens on {wanted} already", "end it, or name another path with: --unix PATH")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _local_caller(stream: socket.socket) -> Caller:
    if not hasattr(socket, "SO_PEERCRED"):
        return Caller(stream, "a program of this machine", 0)
    process, user, _ = _CREDENTIALS.unpack(stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Caller(stream, f"process {process} of {user_name(user)}", user)


def user_name(number: int) -> str:
    """Of a user of this machine."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
