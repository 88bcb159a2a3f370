"""TVM's RPC tracker: asking it for a device, and telling it of one.

A message is a 32-bit length and JSON (``tvm/rpc/tracker.py`` of TVM 0.27).
"""

from __future__ import annotations

import json
import random
import struct
import time
from typing import Any

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Endpoint, TimeLimits
from tsm_edge.rpc.wire import open_socket, receive_before

_MAGIC = 0x2F271
_SUCCESS = 0
_PUT, _REQUEST, _UPDATE_INFO, _SUMMARY, _PENDING_KEYS = 3, 4, 5, 6, 7
_LARGEST_MESSAGE = 1 << 24


class TrackerLink:
    """A connection to a tracker.

    Raises
    ------
    RpcError
        Nothing listens, it does not answer in time, or it is not a tracker.
    """

    def __init__(self, tracker: Endpoint, limit_s: float) -> None:
        self.tracker = tracker
        self._limit_s = limit_s
        self._socket = open_socket(
            tracker, limit_s, f"start one there with: python -m tvm.exec.rpc_tracker --port {tracker.port}"
        )
        try:
            self._socket.sendall(struct.pack("<i", _MAGIC))
            (magic,) = struct.unpack("<i", receive_before(self._socket, 4, time.monotonic() + limit_s))
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

    def ask(self, message: list[Any], limit_s: float | None = None) -> Any:
        """Send a message and return the answer.

        Raises
        ------
        TimeoutError
            No answer within ``limit_s`` (by default as for connecting).
        OSError
            The tracker went away.
        """
        data = json.dumps(message).encode()
        deadline = time.monotonic() + (self._limit_s if limit_s is None else limit_s)
        self._socket.settimeout(max(0.01, deadline - time.monotonic()))
        self._socket.sendall(struct.pack("<i", len(data)) + data)
        (length,) = struct.unpack("<i", receive_before(self._socket, 4, deadline))
        if not 0 <= length <= _LARGEST_MESSAGE:
            raise OSError(f"a message of {length} bytes")
        try:
            return json.loads(receive_before(self._socket, length, deadline))
        except ValueError:
            raise OSError("a message that is not JSON") from None


def request_device(tracker: Endpoint, key: str, limits: TimeLimits) -> tuple[Endpoint, str]:
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
    link = TrackerLink(tracker, limits.connect_s)
    try:
        known = _known_keys(link)
        if key not in known:
            names = ", ".join(sorted(known)) or "none"
            raise RpcError(
                f"tracker {tracker} has no device with key {key!r}: its keys are {names}",
                f"announce one with: tsm-edge serve --tracker {tracker} --key {key}",
            )
        status, value = link.ask([_REQUEST, key, "", 1], limits.device_s)
        host, port, match_key = value
    except TimeoutError:
        raise RpcError(
            f"tracker {tracker}: no device with key {key!r} became free within {limits.device_s:g} s",
            "end another session on it, or announce another device with the same key",
        ) from None
    except (OSError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise RpcError(f"tracker {tracker} failed ({error})", "look at the tracker's output") from None
    finally:
        link.close()
    if status != _SUCCESS:
        raise RpcError(f"tracker {tracker} refused the request (code {status})", "look at the tracker's output")
    return Endpoint(str(host), int(port)), str(match_key)


def _known_keys(link: TrackerLink) -> set[str]:
    """The keys devices are announced under."""
    _, summary = link.ask([_SUMMARY])
    return {server["key"].removeprefix("server:") for server in summary["server_info"]}


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
    _LIMIT_S = 2.0

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
        self.match_key = f"{self._key}:{random.random()}"
        self._handed_out_s = None
        self._next_s = 0.0
        if self._link is not None:
            self._try(self._put)

    def tend(self, now_s: float) -> None:
        """Call this often while the device is free: connects again, renews a match key that was not used."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + self.PING_S
        self._try(self._connect if self._link is None else lambda: self._renew(now_s))
        if self._link is None:
            self._next_s = now_s + self.RETRY_S

    def _try(self, action: Any) -> None:
        try:
            action()
        except (RpcError, OSError):
            self.close()

    def _connect(self) -> None:
        link = TrackerLink(self.tracker, self._LIMIT_S)
        try:
            link.ask([_UPDATE_INFO, {"key": f"server:{self._key}", "addr": self._address}])
        except OSError:
            link.close()
            raise
        self._link = link
        self._put()

    def _put(self) -> None:
        if self._link is not None:
            host, port = self._address
            self._link.ask([_PUT, self._key, (port, self.match_key), host])

    def _renew(self, now_s: float) -> None:
        if self._link is None or self.match_key in self._link.ask([_PENDING_KEYS]):
            self._handed_out_s = None
        elif self._handed_out_s is None:
            self._handed_out_s = now_s
        elif now_s - self._handed_out_s > self.UNUSED_S:
            self.offer()
