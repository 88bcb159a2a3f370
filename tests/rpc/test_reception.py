"""The handshakes at a server's door, in this process: callers are socket pairs, the clock is given."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tsm_edge.rpc.handshake import CODE_DUPLICATE, CODE_MISMATCH, MAGIC
from tsm_edge.rpc.listener import Caller, Listener
from tsm_edge.rpc.place import Endpoint
from tsm_edge.rpc.reception import PLACES, Reception

NEVER_S, LATER_S = 0.0, 100.0


def hello(key: str = "k", options: str = "") -> bytes:
    words = f"client:{key}{options}".encode()
    return struct.pack("<ii", MAGIC, len(words)) + words


class Callers(Listener):
    """A listener whose callers are made here."""

    def __init__(self) -> None:
        super().__init__(Endpoint("127.0.0.1", 0))
        self._coming: list[Caller] = []
        self.failures: list[int] = []

    def accept(self) -> Caller:
        if self.failures:
            raise OSError(self.failures.pop(), "failed")
        super().accept().stream.close()
        return self._coming.pop(0)

    def caller(self, origin: str) -> socket.socket:
        """A new connection from there; returns the client's end."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(5)
        self._coming.append(Caller(ours, origin, origin))
        assert isinstance(self.endpoint, Endpoint)
        socket.create_connection((self.endpoint.host, self.endpoint.port)).close()
        return theirs


class Door:
    """A reception, and the loop around it."""

    def __init__(self) -> None:
        self.listener = Callers()
        self.selector = selectors.DefaultSelector()
        self.said: list[str] = []
        self.reception = Reception(self.listener, self.selector, lambda: "k", self.said.append)

    def turn(self, now_s: float = NEVER_S) -> None:
        """What a server does in one turn."""
        while ready := self.selector.select(0):
            for key, _ in ready:
                key.data()
        self.reception.tend(now_s)

    def caller(self, origin: str, says: bytes = b"") -> socket.socket:
        client = self.listener.caller(origin)
        client.sendall(says)
        self.turn()
        return client


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.reception.close()
    made.selector.close()
    made.listener.close()


def answer(client: socket.socket) -> int | None:
    """The code a client was told; None: it is still at the door."""
    client.setblocking(False)
    try:
        return int(struct.unpack("<i", client.recv(4))[0])
    except BlockingIOError:
        return None


def test_a_good_handshake(door: Door) -> None:
    client = door.caller("a", hello("k", " -timeout=2.5") + b"the session's")
    guest = door.reception.next_guest()
    assert guest is not None
    assert guest.hello is not None
    assert (guest.hello.name, guest.hello.session_limit_s) == (b"client:k", 2.5)
    assert guest.stream.recv(100) == b"the session's"
    assert door.reception.next_guest() is None
    guest.stream.close()
    client.close()


@pytest.mark.parametrize("key", ["", "K", "kk", "k\xff", "\0"])
def test_a_wrong_key(key: str, door: Door) -> None:
    assert answer(door.caller("a", hello(key))) == CODE_MISMATCH
    assert door.said == ["a: refused, wrong key"]


@pytest.mark.parametrize(
    "says", [b"G", b"GET / HTTP/1.1\r\n", struct.pack("<ii", MAGIC, -1), struct.pack("<ii", MAGIC, 1 << 30)]
)
def test_another_protocol(says: bytes, door: Door) -> None:
    client = door.caller("a", says)
    with contextlib.suppress(ConnectionResetError):  # not all of it was read
        assert client.recv(1) == b""
    assert door.said == ["a: dismissed, it does not speak TVM's RPC"]


def test_who_says_too_little_for_too_long_is_sent_away(door: Door) -> None:
    clients = [door.caller("a", hello()[:size]) for size in (0, 3, 8, 10)]
    door.turn(time.monotonic() + 1)
    assert door.said == []
    door.turn(time.monotonic() + LATER_S)
    assert [client.recv(1) for client in clients] == [b""] * 4
    assert door.said[:4] == ["a: dismissed, said nothing that TVM's RPC begins with"] * 4


def test_who_waits_too_long_for_the_device_is_told_that_it_is_busy(door: Door) -> None:
    client = door.caller("a", hello())
    door.turn(time.monotonic() + LATER_S)
    assert answer(client) == CODE_DUPLICATE
    assert door.reception.next_guest() is None


def test_silent_connections_shut_nobody_out(door: Door) -> None:
    silent = [door.caller("a") for _ in range(PLACES)]
    assert [answer(client) for client in silent] == [None] * PLACES
    door.caller("a", hello())
    assert door.reception.next_guest() is not None
    # The one that was silent for longest gave its place up, and was told so that a client understands.
    assert [answer(client) for client in silent] == [CODE_DUPLICATE] + [None] * (PLACES - 1)
    assert door.said == ["a: dismissed, another needs its place"]


def test_one_address_cannot_take_all_places(door: Door) -> None:
    slow = door.caller("b", hello()[:5])
    crowd = [door.caller("a") for _ in range(3 * PLACES)]
    assert answer(slow) is None
    assert sum(answer(client) is None for client in crowd) == PLACES - 1
    slow.sendall(hello()[5:])
    door.turn()
    guest = door.reception.next_guest()
    assert guest is not None
    assert guest.origin == "b"


def test_the_log_does_not_grow_with_the_crowd(door: Door) -> None:
    for _ in range(60):
        door.caller("a", b"nonsense").close()
    assert len(door.said) == 20
    door.turn(time.monotonic() + LATER_S)
    assert door.said[20:] == ["40 more were sent away"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_without_a_file_descriptor_somebody_silent_makes_room(number: int, door: Door) -> None:
    silent = door.caller("a")
    door.listener.failures = [number]
    door.caller("b", hello())
    assert answer(silent) == CODE_DUPLICATE
    assert door.reception.next_guest() is not None


def test_without_a_file_descriptor_and_without_guests_the_device_is_busy(door: Door) -> None:
    door.listener.failures = [errno.EMFILE]
    assert answer(door.caller("a", hello())) == CODE_DUPLICATE
    door.caller("b", hello())
    assert door.reception.next_guest() is not None
