"""Tells systemd that a run has begun, still lives, and ends (the protocol of ``sd_notify(3)``)."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from types import TracebackType

from tsm_edge.live.observer import Snapshot

_STATUS_S = 10.0


class Heartbeat:
    """An observer that pats systemd's watchdog; a context manager.

    It does so from the loop itself: when a step or a driver hangs, nobody does, and systemd starts the run again. A
    camera that is silent is no such case.

    Parameters
    ----------
    address : str
        Of systemd's socket.
    period_s : float or None
        The longest that systemd goes without hearing, seconds; None: it does not wait.
    """

    def __init__(self, address: str, period_s: float | None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._period_s = None if period_s is None else period_s / 3
        self._due_s = self._status_due_s = 0.0

    def __enter__(self) -> Heartbeat:
        self._tell("READY=1")
        self._beat()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell("STOPPING=1")
        self._socket.close()

    def see(self, snapshot: Snapshot) -> None:
        """Take a prediction."""
        self._beat()
        if snapshot.monotonic_s >= self._status_due_s:
            self._status_due_s = snapshot.monotonic_s + _STATUS_S
            totals = snapshot.totals
            self._tell(f"STATUS={snapshot.result.label}; {totals.frames} frames, {totals.dropped} dropped")

    def idle(self) -> None:
        """Know that the source is silent."""
        self._beat()

    def _beat(self) -> None:
        now_s = time.monotonic()
        if self._period_s is not None and now_s >= self._due_s:
            self._due_s = now_s + self._period_s
            self._tell("WATCHDOG=1")

    def _tell(self, text: str) -> None:
        # systemd that does not listen now hears the next one.
        with contextlib.suppress(OSError):
            self._socket.sendto(text.replace("\n", " ").encode(), self._address)


def heartbeat_of(environment: Mapping[str, str]) -> Heartbeat | None:
    """What systemd asks for in the environment; None: it did not start this process."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    period = environment.get("WATCHDOG_USEC", "")
    mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return Heartbeat(address, int(period) / 1e6 if mine and period.isdigit() else None)
