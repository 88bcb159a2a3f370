from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tsm_edge.rpc.session_loop import SessionLoop
from tsm_edge.rpc.values import RemoteFunction, RemoteTensor, Values
from tsm_edge.rpc.wire import (
    COPY_ACK,
    EXCEPTION,
    HEAD,
    RETURN,
    Packet,
    allocate_packet,
    call_packet,
    copy_from_packet,
    copy_to_packet,
    find_packet,
    init_packet,
)

FIRST = b"".join(init_packet().framed())


@pytest.mark.parametrize("said", [b"", FIRST[:1], FIRST[:8], FIRST[:-1]])
def test_a_client_that_does_not_begin_its_session(said: bytes) -> None:
    ours, client = socket.socketpair()
    client.sendall(said)
    with ours, client, pytest.raises(TimeoutError, match="the client has shaken hands and says nothing more"):
        SessionLoop(ours, {}).begin(0.1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (struct.pack("<Qi", 1 << 40, 2), f"packet 2 of {1 << 40} bytes: another build"),
        (HEAD.pack(4, 1), "packet 1 of 4 bytes: another build"),
        (FIRST.replace(b"0.8.0", b"0.9.1"), "version 0.9.1 of TVM's RPC, expected 0.8.0"),
    ],
)
def test_one_that_begins_with_something_else_is_told(said: bytes, expected: str) -> None:
    ours, client = socket.socketpair()
    client.sendall(said)
    with ours, client:
        with pytest.raises(ValueError, match=expected):
            SessionLoop(ours, {}).begin(1.0)
        assert expected in client.recv(4096).decode("utf-8", "replace")


def serve(stream: socket.socket) -> None:
    """A whole session."""
    loop = SessionLoop(stream, FUNCTIONS)
    loop.begin(5.0)
    loop.run()


class Client:
    """Asks a loop in another thread."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def says(self, data: bytes) -> tuple[int, Any]:
        """The code of the answer, and its values or bytes."""
        self.stream.sendall(data)
        size, code = HEAD.unpack(self.stream.recv(HEAD.size, socket.MSG_WAITALL))
        body = self.stream.recv(size - 4, socket.MSG_WAITALL) if size > 4 else b""
        return code, body if code == COPY_ACK else Values(body, 4).sequence()

    def asks(self, packet: Packet) -> tuple[int, Any]:
        return self.says(b"".join(packet.framed()))

    def function(self, name: str) -> RemoteFunction:
        code, (handle,) = self.asks(find_packet(name))
        assert code == RETURN
        return RemoteFunction(handle)

    def memory(self, count: int) -> RemoteTensor:
        return RemoteTensor(self.asks(allocate_packet(4 * count))[1][0], (count,))


def give_up() -> None:
    raise MemoryError("no more")


FUNCTIONS: dict[str, Callable[..., Any]] = {"twice": lambda value: 2 * value, "give_up": give_up}


@pytest.fixture
def client() -> Iterator[Client]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(ours,))
    thread.start()
    asked = Client(theirs)
    assert asked.says(FIRST) == (RETURN, [None])
    yield asked
    theirs.sendall(HEAD.pack(4, 1))
    thread.join(10)
    assert not thread.is_alive()
    ours.close()
    theirs.close()


def told(answer: tuple[int, Any]) -> str:
    """The words of a fault."""
    code, (text,) = answer
    assert code == EXCEPTION
    assert "\n" not in text
    return str(text)


def test_values_come_back_as_they_went(client: Client) -> None:
    twice = client.function("twice")
    for value, kind in [(3, 1), ("ab", 65), (b"ab", 66), (None, 0)]:
        code, found = client.asks(call_packet(twice, value))
        if value is None:
            assert "TypeError" in told((code, found))
        else:
            assert (code, found) == (RETURN, [kind, 2 * value])
    assert client.asks(find_packet("no such function")) == (RETURN, [None])


def test_memory_is_only_what_was_given_out(client: Client) -> None:
    values = np.arange(6, dtype=np.float32)
    tensor = client.memory(6)
    assert tensor.handle % 64 == 0
    assert client.asks(copy_to_packet(tensor, values.view(np.uint8).data)) == (RETURN, [None])
    assert client.asks(copy_from_packet(tensor, 24)) == (COPY_ACK, values.tobytes())
    inner = RemoteTensor(tensor.handle, (2,), offset=8)
    assert client.asks(copy_from_packet(inner, 8)) == (COPY_ACK, values[2:4].tobytes())
    stray = RemoteTensor(tensor.handle + 4, (1,))
    for wrong, size in [(tensor, 25), (inner, 20), (stray, 4), (RemoteTensor(0, (1,)), 4)]:
        assert "ValueError: " in told(client.asks(copy_from_packet(wrong, size)))
        assert "ValueError: " in told(client.asks(copy_to_packet(wrong, memoryview(bytes(size)))))
    assert client.asks(copy_from_packet(tensor, 24)) == (COPY_ACK, values.tobytes())
    assert "Error: " in told(client.asks(allocate_packet(1 << 62)))


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (HEAD.pack(4, 99), "packet code 99 is not served here"),
        (HEAD.pack(6, 9) + b"ab", "unpack_from requires a buffer"),
        (HEAD.pack(4 + 8 + 4, 3) + struct.pack("<Qi", 77, 0), "this session has no function or module 77"),
        (HEAD.pack(4 + 4, 10) + struct.pack("<i", 5000), "5000 values"),
        (HEAD.pack(4 + 30, 7) + bytes(30), "unpack_from requires a buffer"),
        (HEAD.pack(4 + 24, 7) + bytes(16) + struct.pack("<i", -1) + bytes(4), "a tensor of -1 dimensions"),
    ],
)
def test_what_a_client_gets_wrong_is_told_and_the_session_goes_on(client: Client, packet: bytes, expected: str) -> None:
    assert expected in told(client.says(packet))
    assert "MemoryError: no more" in told(client.asks(call_packet(client.function("give_up"))))
    assert client.asks(call_packet(client.function("twice"), 2)) == (RETURN, [1, 4])


def test_packets_that_cannot_be_told_apart_end_it() -> None:
    for size in (3, (1 << 30) + 1, 2**64 - 1):
        ours, theirs = socket.socketpair()
        theirs.sendall(FIRST + struct.pack("<Qi", size, 3))
        with ours, theirs, pytest.raises(ValueError, match=f"a packet of {size} bytes, expected at most"):
            serve(ours)


def test_a_client_that_dies_in_the_middle() -> None:
    for said in (FIRST, FIRST + HEAD.pack(100, 3) + bytes(10)):
        ours, theirs = socket.socketpair()
        theirs.sendall(said)
        theirs.close()
        with ours, pytest.raises(OSError, match=r"without a word|Broken pipe"):
            serve(ours)
