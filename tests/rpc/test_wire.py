"""The client against servers that misbehave: each is a real socket on loopback that follows a script."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tsm_edge.errors import RpcError
from tsm_edge.rpc.device import open_device
from tsm_edge.rpc.greeting import Greeting, write_greeting
from tsm_edge.rpc.place import Endpoint, Place, TimeLimits
from tsm_edge.rpc.wire import (
    CODE_ACCEPTED,
    CODE_DUPLICATE,
    CODE_MISMATCH,
    ConnectionLost,
    NoAnswer,
    RemoteFault,
    RemoteTensor,
    connect,
    copy_from_packet,
    copy_to_packet,
    find_packet,
    last_line,
)

Script = Callable[[socket.socket], None]

SHORT = TimeLimits(connect_s=0.4, device_s=0.4, answer_s=0.4)


@contextmanager
def server(script: Script) -> Iterator[Endpoint]:
    """Runs ``script`` on the first connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        stream, _ = listener.accept()
        with stream:
            script(stream)
            over.wait(10)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Endpoint("127.0.0.1", listener.getsockname()[1])
    finally:
        over.set()
        listener.close()


def silent(stream: socket.socket) -> None:
    del stream


def hangs_up(stream: socket.socket) -> None:
    stream.recv(1 << 16)
    stream.shutdown(socket.SHUT_RDWR)


def http(stream: socket.socket) -> None:
    stream.recv(1 << 16)
    stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def code(value: int) -> Script:
    def script(stream: socket.socket) -> None:
        stream.recv(1 << 16)
        stream.sendall(struct.pack("<i", value))

    return script


def greets(text: str = "server:", then: Script = silent) -> Script:
    def script(stream: socket.socket) -> None:
        stream.recv(1 << 16)
        stream.sendall(struct.pack("<ii", CODE_ACCEPTED, len(text)) + text.encode())
        then(stream)

    return script


def answers(*packets: bytes) -> Script:
    """After the handshake, an answer of these bytes to each message (messages of the tests are small)."""

    def script(stream: socket.socket) -> None:
        for packet in packets:
            stream.recv(1 << 16)
            stream.sendall(packet)

    return greets(then=script)


def packet(code: int, body: bytes) -> bytes:
    return struct.pack("<Qi", 4 + len(body), code) + body


NOTHING = packet(4, struct.pack("<ii", 1, 0))  # kReturn of None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (silent, "accepts connections but does not answer within 0.4 s"),
        (hangs_up, "ends the connection before the handshake is done"),
        (http, "answers, but not as a TVM RPC server does"),
        (code(CODE_MISMATCH), "does not accept the key 'k'; give the one its server was started with: --key K"),
        (code(CODE_DUPLICATE), "is busy with another session"),
        (greets(then=hangs_up), "at the session's beginning: it is another build of TVM's RPC"),
        (greets(then=silent), "gives no answer for 0.4 s at the session's beginning: it is another build of TVM's RPC"),
        (
            greets(write_greeting("k", Greeting("x86_64", "tvm-0.30.0+ffi-0.2.0"))),
            "runs another build: tvm-0.30.0+ffi-0.2.0, expected tvm-",
        ),
        (answers(packet(4, b"\x01\0\0\0\x7f\0\0\0")), "answers with values of another encoding: another build"),
        (answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "another build of TVM's RPC"),
    ],
)
def test_a_server_that_misbehaves_ends_in_one_line_and_in_time(script: Script, message: str) -> None:
    with server(script) as endpoint:
        began_s = time.monotonic()
        with pytest.raises(RpcError) as caught:
            open_device(Place(endpoint, "k"), SHORT)
        assert time.monotonic() - began_s < 5
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(endpoint))
    assert "\n" not in str(caught.value)


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(
        RpcError, match=f"nothing listens on 127.0.0.1:{port}; start a server there with: tsm-edge serve"
    ):
        open_device(Place(Endpoint("127.0.0.1", port)), SHORT)


def test_unknown_host() -> None:
    with pytest.raises(RpcError, match=r"the host name 'no-such-host\.invalid' is unknown"):
        open_device(Place(Endpoint("no-such-host.invalid", 9090)), SHORT)


def test_a_fault_leaves_the_connection_usable() -> None:
    text = "Traceback (most recent call last):\n  File x\nRPCError: Error caught from RPC call:\nValueError: too big\n"
    fault = packet(5, struct.pack("<iiQ", 1, 8, len(text)) + text.encode())
    with server(answers(fault + packet(8, b"abcd") + NOTHING)) as endpoint:
        connection = connect(endpoint, "", 5)
        tensor = RemoteTensor(1, (1,))
        with pytest.raises(RemoteFault, match=r"127\.0\.0\.1:\d+: ValueError: too big$"):
            connection.exchange([copy_to_packet(tensor, memoryview(b"abcd")), copy_from_packet(tensor, 4)], 5)
        assert connection.exchange([find_packet("f")], 5) == [None]


def test_a_connection_that_breaks_between_two_answers() -> None:
    with server(answers(NOTHING, packet(4, b"")[:7])) as endpoint:
        connection = connect(endpoint, "", 5)
        assert connection.exchange([find_packet("f")], 5) == [None]
        with pytest.raises(NoAnswer, match=r"gives no answer for 0\.2 s"):
            connection.exchange([find_packet("g")], 0.2)
        with pytest.raises(ConnectionLost):
            connection.exchange([find_packet("h")], 0.2)
        connection.close()
        connection.close()


def test_last_line_of_a_traceback() -> None:
    assert last_line("") == "an error without a message"
    assert last_line("ValueError: a\nOSError: b\n   note\n") == "OSError: b"
    assert last_line("no name at all") == "no name at all"
