"""Where a device is: an address, or a tracker and a key; and how long to wait for it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tsm_edge.errors import RpcError
from tsm_edge.rpc.key import check_key

DEFAULT_PORT = 9090  # of TVM's RPC server
DEFAULT_TRACKER_PORT = 9190  # of TVM's tracker
_UNIX = "unix:"
_LONGEST_UNIX_PATH = 103  # bytes; Linux would take 107, macOS no more than this


@dataclass(frozen=True)
class Endpoint:
    """A TCP address.

    Attributes
    ----------
    host : str
        Name or number; an IPv6 number without brackets.
    port : int

    Raises
    ------
    RpcError
        No machine can have such a name, or the port is not in 0..65535.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if not _may_be_a_host(self.host):
            raise RpcError(f"{self.host!r} is not the name or number of a machine", "for example: 192.168.1.20")
        if not 0 <= self.port < 65536:
            raise RpcError(f"{self.port} is not a port, expected 0..65535", "the server prints its own when it starts")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixEndpoint:
    """A Unix domain socket: only its owner can connect.

    Attributes
    ----------
    path : str
        Of the socket.

    Raises
    ------
    RpcError
        No socket can have such a path.
    """

    path: str

    def __post_init__(self) -> None:
        if not self.path.isprintable() or not 0 < len(os.fsencode(self.path)) <= _LONGEST_UNIX_PATH:
            raise RpcError(
                f"{self.path!r} is not a path for a socket, expected 1 to {_LONGEST_UNIX_PATH} bytes that print",
                f"for example: {_UNIX}/tmp/board",
            )

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


@dataclass(frozen=True)
class Place:
    """A device reached over RPC.

    Attributes
    ----------
    endpoint : Endpoint or UnixEndpoint
        Of the device's server or, with ``by_tracker``, of the tracker that knows devices.
    key : str
        What the server was started with; for a tracker, the kind of device wanted.
    by_tracker : bool
        Ask the tracker for a free device.
    """

    endpoint: Endpoint | UnixEndpoint
    key: str = ""
    by_tracker: bool = False

    def __post_init__(self) -> None:
        check_key(self.key)
        if self.by_tracker and not self.key:
            raise RpcError("a tracker hands out devices by their key, and none was given", "name it with: --key K")

    def __str__(self) -> str:
        return f"tracker {self.endpoint}, key {self.key!r}" if self.by_tracker else str(self.endpoint)


@dataclass(frozen=True)
class TimeLimits:
    """How long to wait, seconds.

    Attributes
    ----------
    connect_s : float
        For the connection, and for the server's greeting.
    device_s : float
        For a tracker to have a free device.
    answer_s : float
        For the answer to a call (a step, loading a model), and for a transfer to move on.
    """

    connect_s: float = 5.0
    device_s: float = 30.0
    answer_s: float = 30.0


def parse_address(text: str) -> Endpoint | UnixEndpoint:
    """Read ``unix:PATH``, or what :func:`parse_endpoint` reads.

    Raises
    ------
    RpcError
        It is none of these.
    """
    return UnixEndpoint(text[len(_UNIX) :]) if text.startswith(_UNIX) else parse_endpoint(text)


def parse_endpoint(text: str, default_port: int = DEFAULT_PORT) -> Endpoint:
    """Read ``host``, ``host:port``, ``[ipv6]`` or ``[ipv6]:port``.

    Raises
    ------
    RpcError
        It is none of these, or the port is not in 1..65535.
    """
    host, port = text.strip(), ""
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            host = ""
        port = rest[1:] if rest else str(default_port)
    elif host.count(":") > 1:  # a bare IPv6 number
        port = str(default_port)
    else:
        host, colon, port = host.partition(":")
        port = port if colon else str(default_port)
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not host or not _may_be_a_host(host) or not digits or not 0 < int(port) < 65536:
        raise RpcError(f"{text!r} is not an address, expected HOST:PORT", "for example: 192.168.1.20:9090")
    return Endpoint(host, int(port))


def chosen_place(rpc: str | None, tracker: str | None, key: str) -> Place | None:
    """The device that ``--rpc``, ``--tracker`` and ``--key`` name; None: this machine.

    Raises
    ------
    RpcError
        They contradict each other, or name no address.
    """
    if rpc is not None and tracker is not None:
        raise RpcError("--rpc and --tracker were both given, expected one", "--tracker finds the device by its key")
    if tracker is not None:
        return Place(parse_endpoint(tracker, DEFAULT_TRACKER_PORT), key, by_tracker=True)
    if rpc is not None:
        return Place(parse_address(rpc), key)
    if key:
        raise RpcError("--key was given without --rpc or --tracker", "name the device with: --rpc HOST:PORT")
    return None


def _may_be_a_host(text: str) -> bool:
    """Whether a resolver may be asked for it; ``a..b`` and the like make Python's fail instead of answering no."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return text.isprintable()
