"""Where clients shake hands before one of them is served.

Strangers come here: nothing they say or leave unsaid holds up anybody else. A handshake has a time limit; the places
are few, and when all are taken, the address that holds most of them gives one up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from tsm_edge.rpc.handshake import CODE_DUPLICATE, CODE_MISMATCH, Hello, bytes_wanted, client_name, read_hello
from tsm_edge.rpc.key import same_key
from tsm_edge.rpc.listener import Caller, Listener
from tsm_edge.rpc.sockets import reason

Log = Callable[[str], None]

PLACES = 32
_HANDSHAKE_S = 5.0
_BUSY_GRACE_S = 1.0  # a session that has just ended may take a moment to go
_NO_DESCRIPTOR_PAUSE_S = 0.05
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(eq=False)
class Guest:
    """A connection before its session begins."""

    stream: socket.socket
    name: str
    origin: Hashable
    deadline_s: float
    data: bytes = b""
    hello: Hello | None = None


class _CalmLog:
    """Passes on a few lines in a while and counts the others, so that strangers cannot fill a disk with them."""

    PERIOD_S = 10.0
    LINES = 20

    def __init__(self, log: Log) -> None:
        self._log = log
        self._since_s = time.monotonic()
        self._said = 0

    def __call__(self, text: str) -> None:
        self.tend(time.monotonic())
        self._said += 1
        if self._said <= self.LINES:
            self._log(text)

    def tend(self, now_s: float) -> None:
        """Call this often: tells at the end of the while how many lines were left out."""
        if now_s - self._since_s < self.PERIOD_S:
            return
        if self._said > self.LINES:
            self._log(f"{self._said - self.LINES} more were sent away")
        self._since_s, self._said = now_s, 0


class Reception:
    """The connections before their sessions.

    Parameters
    ----------
    listener : Listener
    selector : selectors.BaseSelector
        Is given the listener and every guest, each with a function to call when something arrives.
    key : callable
        Returns the key that clients must give now.
    log : callable
        Is given one line for everybody who is sent away.
    """

    def __init__(self, listener: Listener, selector: selectors.BaseSelector, key: Callable[[], str], log: Log) -> None:
        self._listener = listener
        self._selector = selector
        self._key = key
        self._log = _CalmLog(log)
        self._guests: list[Guest] = []  # in the order of their arrival
        self._spare = _open_spare()
        selector.register(listener.stream, selectors.EVENT_READ, self._accept)

    def streams(self) -> list[socket.socket]:
        """All sockets that are open here."""
        return [self._listener.stream, *(guest.stream for guest in self._guests)]

    def next_guest(self) -> Guest | None:
        """Whoever has shaken hands and waits longest, if anybody does: leaves here."""
        for guest in self._guests:
            if guest.hello is not None:
                self._guests.remove(guest)
                return guest
        return None

    def tend(self, now_s: float) -> None:
        """Call this often: sends away who takes too long to shake hands, or waits too long for the device."""
        for guest in [guest for guest in self._guests if guest.deadline_s < now_s]:
            if guest.hello is None:
                self._dismiss(guest, "dismissed, said nothing that TVM's RPC begins with")
            else:
                self._dismiss(guest, "refused, the session under way is not over", CODE_DUPLICATE)
        self._log.tend(now_s)

    def close(self) -> None:
        """Send everybody away; the listener stays open."""
        for guest in list(self._guests):
            self._dismiss(guest, "")
        if self._spare is not None:
            os.close(self._spare)

    def _accept(self) -> None:
        try:
            caller = self._listener.accept()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                self._do_without_a_descriptor(error)
            return  # else it went away again
        if len(self._guests) >= PLACES:
            self._free_a_place()
        guest = Guest(caller.stream, caller.name, caller.origin, time.monotonic() + _HANDSHAKE_S)
        self._guests.append(guest)
        self._selector.register(guest.stream, selectors.EVENT_READ, lambda: self._listen_to(guest))

    def _free_a_place(self) -> None:
        """Send away who is silent for longest, of the address that holds most places."""
        silent = [guest for guest in self._guests if guest.hello is None] or self._guests
        places = Counter(guest.origin for guest in silent)
        most = max(places.values())
        longest = next(guest for guest in silent if places[guest.origin] == most)
        self._dismiss(longest, "dismissed, another needs its place", CODE_DUPLICATE)

    def _do_without_a_descriptor(self, error: OSError) -> None:
        """Make room for the next connection, or tell it that the device is busy."""
        if self._guests:
            self._free_a_place()
            return
        if self._spare is not None:
            os.close(self._spare)
            with contextlib.suppress(OSError):
                caller = self._listener.accept()
                self._log(f"{caller.name}: refused ({reason(error)})")
                _send_away(caller, CODE_DUPLICATE)
        else:
            time.sleep(_NO_DESCRIPTOR_PAUSE_S)  # the connection that waits would wake the server at once
        self._spare = _open_spare()

    def _listen_to(self, guest: Guest) -> None:
        if guest not in self._guests:
            return  # sent away a moment ago
        try:
            block = guest.stream.recv(bytes_wanted(guest.data))
            guest.data += block
            complete = bytes_wanted(guest.data) == 0
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self._dismiss(guest, f"dismissed, {error}")
            return
        if complete:
            self._check(guest)
        elif not block:
            self._dismiss(guest, "")

    def _check(self, guest: Guest) -> None:
        hello = read_hello(guest.data)
        if not same_key(hello.name, client_name(self._key())):
            self._dismiss(guest, "refused, wrong key", CODE_MISMATCH)
            return
        # What it sends from now on is for its session.
        self._selector.unregister(guest.stream)
        guest.hello, guest.deadline_s = hello, time.monotonic() + _BUSY_GRACE_S

    def _dismiss(self, guest: Guest, why: str, code: int | None = None) -> None:
        """Send away, with a word if it knows what to do with it."""
        if why:
            self._log(f"{guest.name}: {why}")
        self._guests.remove(guest)
        if guest.hello is None:
            self._selector.unregister(guest.stream)
        _send_away(guest, code)


def _send_away(guest: Caller | Guest, code: int | None) -> None:
    if code is not None:
        with contextlib.suppress(OSError):
            guest.stream.send(struct.pack("<i", code))
    guest.stream.close()


def _open_spare() -> int | None:
    """A descriptor to give up when there is no other; None: there is none."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None
