"""TVM's RPC tracker: asking it for a device, and telling it of one.

A message is a 32-bit length and JSON (``tvm/rpc/tracker.py`` of TVM 0.27).
"""

from __future__ import annotations

import json
import secrets
import struct
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from tsm_edge.errors import RpcError
from tsm_edge.rpc.foreign_text import printable
from tsm_edge.rpc.key import check_key
from tsm_edge.rpc.place import Endpoint, TimeLimits, UnixEndpoint
from tsm_edge.rpc.sockets import Patience, open_socket, reason, receive, send

_MAGIC = 0x2F271
_SUCCESS = 0
_PUT, _REQUEST, _UPDATE_INFO, _SUMMARY, _PENDING_KEYS = 3, 4, 5, 6, 7
_LARGEST_MESSAGE = 1 << 20  # bytes: ten thousand devices


class TrackerLink:
    """A connection to a tracker.

    Parameters
    ----------
    tracker : Endpoint or UnixEndpoint
    patience : Patience
        For connecting and greeting.

    Raises
    ------
    RpcError
        Nothing listens, it does not answer in time, or it is not a tracker.
    TimeoutError
        No time is left.
    """

    def __init__(self, tracker: Endpoint | UnixEndpoint, patience: Patience) -> None:
        hint = "start one there with: python -m tvm.exec.rpc_tracker"
        self._socket = open_socket(tracker, patience.left_s(), hint)
        try:
            send(self._socket, [struct.pack("<i", _MAGIC)], patience)
            (magic,) = struct.unpack("<i", receive(self._socket, 4, patience))
        except OSError:
            magic = 0
        if magic != _MAGIC:
            self._socket.close()
            raise RpcError(
                f"{tracker} does not answer as a TVM RPC tracker does", "a device's own server is reached with: --rpc"
            )

    def close(self) -> None:
        """Leave; a device that was announced over this link is forgotten."""
        self._socket.close()

    def ask(self, message: list[Any], patience: Patience) -> Any:
        """Send a message and return the answer.

        Raises
        ------
        TimeoutError
            It does not come in time.
        OSError
            The tracker went away.
        ValueError
            The answer is not a tracker's.
        """
        data = json.dumps(message).encode()
        send(self._socket, [struct.pack("<i", len(data)), data], patience)
        (length,) = struct.unpack("<i", receive(self._socket, 4, patience))
        if not 0 <= length <= _LARGEST_MESSAGE:
            raise ValueError(f"a message of {length} bytes")
        try:
            return json.loads(receive(self._socket, length, patience))
        except (ValueError, RecursionError):
            raise ValueError("a message that is not JSON") from None


def request_device(tracker: Endpoint | UnixEndpoint, key: str, limits: TimeLimits) -> tuple[Endpoint, str]:
    """Ask a tracker for a free device.

    Returns
    -------
    Endpoint
        Of the device's server.
    str
        The match key it expects in the handshake.

    Raises
    ------
    RpcError
        No device has the key, none becomes free in time, or the tracker fails.
    """
    with closing(TrackerLink(tracker, Patience(limits.connect_s))) as link:
        try:
            known = _known_keys(link.ask([_SUMMARY], Patience(limits.connect_s)))
        except (OSError, ValueError) as error:
            raise _failed(tracker, error) from None
        if key not in known:
            names = printable(", ".join(known)) or "none"
            raise RpcError(
                f"tracker {tracker} has no device with key {key!r}: its keys are {names}",
                f"announce one with: tsm-edge serve --tracker {tracker} --key {key}",
            )
        try:
            return _device(link.ask([_REQUEST, key, "", 1], Patience(limits.device_s)))
        except TimeoutError:
            raise RpcError(
                f"tracker {tracker}: no device with key {key!r} became free within {limits.device_s:g} s",
                "end another session on it, or announce another device with the same key",
            ) from None
        except (OSError, ValueError) as error:
            raise _failed(tracker, error) from None


def count_devices(tracker: Endpoint | UnixEndpoint, key: str, limits: TimeLimits | None = None) -> int:
    """How many devices a tracker has under a key.

    Raises
    ------
    RpcError
        The tracker cannot be reached, or fails.
    """
    limit_s = (limits or TimeLimits()).connect_s
    with closing(TrackerLink(tracker, Patience(limit_s))) as link:
        try:
            return _servers(link.ask([_SUMMARY], Patience(limit_s))).count(key)
        except (OSError, ValueError) as error:
            raise _failed(tracker, error) from None


def _failed(tracker: Endpoint | UnixEndpoint, error: OSError | ValueError) -> RpcError:
    if isinstance(error, TimeoutError):
        what = "it does not answer in time"
    else:
        what = reason(error) if isinstance(error, OSError) else f"it answers with {error}"
    return RpcError(f"tracker {tracker} failed ({what})", "look at the tracker's output")


def _known_keys(answer: Any) -> list[str]:
    """The keys devices are announced under, sorted; ``ValueError``: it is not a summary."""
    return sorted(set(_servers(answer)))


def _servers(answer: Any) -> list[str]:
    """The key of each device; ``ValueError``: it is not a summary."""
    match answer:
        case [_, {"server_info": [*servers]}]:
            names = [server.get("key") for server in servers if isinstance(server, dict)]
            return [name.removeprefix("server:") for name in names if isinstance(name, str)]
    raise ValueError("a summary of another form")


def _device(answer: Any) -> tuple[Endpoint, str]:
    """Where the device is, and its match key; ``ValueError``: the tracker gives none."""
    match answer:
        case [0, [str(host), int(port), str(match_key)]]:
            try:
                check_key(match_key)
                return Endpoint(host, port), match_key
            except RpcError as error:
                raise ValueError(f"a device nobody can reach: {printable(error.problem)}") from None
    raise ValueError("something else than a device's host, port and match key")


class Announcement:
    """Keeps a device announced at a tracker, through the tracker's restarts.

    Parameters
    ----------
    tracker : Endpoint
    key : str
        The kind of device.
    port : int
        Of the device's server.
    host : str or None
        The address clients shall use; None: the one the tracker sees.
    """

    PING_S = 2.0
    RETRY_S = 5.0
    UNUSED_S = 6.0  # a match key that was handed out and not used for so long is given up
    _LIMIT_S = 2.0  # the server does nothing else meanwhile

    def __init__(self, tracker: Endpoint, key: str, port: int, host: str | None) -> None:
        self.tracker = tracker
        self._key = key
        self._address = (host, port)
        self._link: TrackerLink | None = None
        self._next_s = 0.0
        self._handed_out_s: float | None = None
        self.match_key = ""

    @property
    def connected(self) -> bool:
        """Whether the tracker was there the last time."""
        return self._link is not None

    def close(self) -> None:
        """Withdraw the device."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def offer(self) -> None:
        """Offer the device, under a new match key: at the start, and after each session."""
        self.match_key = f"{self._key}:{secrets.token_hex(8)}"
        self._handed_out_s = None
        self._next_s = 0.0
        if self._link is not None:
            self._try(self._put)

    def tend(self, now_s: float) -> None:
        """Call this often while the device is free: connects again, renews a match key that was not used."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + self.PING_S
        self._try(self._connect if self._link is None else self._renew)
        if self._link is None:
            self._next_s = now_s + self.RETRY_S

    def _try(self, action: Callable[[Patience], None]) -> None:
        try:
            action(Patience(self._LIMIT_S))
        except (RpcError, OSError, ValueError):
            self.close()

    def _connect(self, patience: Patience) -> None:
        link = TrackerLink(self.tracker, patience)
        try:
            link.ask([_UPDATE_INFO, {"key": f"server:{self._key}", "addr": self._address}], patience)
        except (OSError, ValueError):
            link.close()
            raise
        self._link = link
        self._put(patience)

    def _put(self, patience: Patience) -> None:
        if self._link is not None:
            host, port = self._address
            self._link.ask([_PUT, self._key, (port, self.match_key), host], patience)

    def _renew(self, patience: Patience) -> None:
        """Offer the device anew when its match key was handed out and not used for a while."""
        if self._link is None:
            return
        pending = self._link.ask([_PENDING_KEYS], patience)
        if not isinstance(pending, list):
            raise ValueError("pending keys of another form")
        now_s = time.monotonic()
        if self.match_key in pending:
            self._handed_out_s = None
        elif self._handed_out_s is None:
            self._handed_out_s = now_s
        elif now_s - self._handed_out_s > self.UNUSED_S:
            self.offer()
