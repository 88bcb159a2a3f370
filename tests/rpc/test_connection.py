"""The client against servers that misbehave: each is a real socket on loopback that follows a script."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from scripted_server import Script, scripted_server

from tsm_edge.errors import RpcError
from tsm_edge.rpc.connection import ConnectionLost, NoAnswer, RemoteFault, connect
from tsm_edge.rpc.device import open_device
from tsm_edge.rpc.foreign_text import last_line
from tsm_edge.rpc.handshake import (
    BUILD,
    CODE_ACCEPTED,
    CODE_DUPLICATE,
    CODE_MISMATCH,
    Greeting,
    write_greeting,
)
from tsm_edge.rpc.place import Endpoint, Place, TimeLimits
from tsm_edge.rpc.values import RemoteTensor
from tsm_edge.rpc.wire import copy_from_packet, copy_to_packet, find_packet

SHORT = TimeLimits(connect_s=0.4, device_s=0.4, answer_s=0.4)


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


def drips(*parts: bytes) -> Script:
    """The first parts at once, the last one byte by byte."""

    def script(stream: socket.socket) -> None:
        stream.recv(1 << 16)
        stream.sendall(b"".join(parts[:-1]))
        for byte in parts[-1]:
            time.sleep(0.1)
            stream.sendall(bytes([byte]))

    return script


def packet(code: int, body: bytes) -> bytes:
    return struct.pack("<Qi", 4 + len(body), code) + body


HELLO = struct.pack("<ii", CODE_ACCEPTED, 7) + b"server:"
NOTHING = packet(4, struct.pack("<ii", 1, 0))  # kReturn of None


def returned(value: str | None) -> bytes:
    """What a function returned: type and value."""
    if value is None:
        return packet(4, struct.pack("<iiqi", 2, 1, 0, 0))
    return packet(4, struct.pack("<iiqiQ", 2, 1, 8, 8, len(value)) + value.encode())


def our_server(info: str | None) -> Script:
    """A server of tsm-edge with this information about itself."""
    function = packet(4, struct.pack("<iiQ", 1, 4, 0x1000))

    def script(stream: socket.socket) -> None:
        for answer in (NOTHING, function, returned(info)):
            stream.recv(1 << 16)
            stream.sendall(answer)

    return greets(write_greeting("k", Greeting("x86_64", BUILD)), script)


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("script", "message"),
    [
        (silent, "accepts connections but does not answer within 0.4 s"),
        (hangs_up, "ends the connection before the handshake is done"),
        (http, "answers, but not as a TVM RPC server does"),
        (code(CODE_MISMATCH), "does not accept this key; give the one its server was started with: --key K"),
        (code(CODE_DUPLICATE), "is busy with another session"),
        (greets(then=hangs_up), "at the session's beginning: it is another build of TVM's RPC"),
        (greets(then=silent), "gives no answer within 0.4 s at the session's beginning: it is another build"),
        (
            greets(write_greeting("k", Greeting("x86_64", "tvm-0.30.0+ffi-0.2.0"))),
            "runs another build: tvm-0.30.0+ffi-0.2.0, expected tvm-",
        ),
        (answers(packet(4, b"\x01\0\0\0\x7f\0\0\0")), "answers with values of another encoding: another build"),
        (answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "another build of TVM's RPC"),
        (drips(HELLO + NOTHING), "accepts connections but does not answer within 0.4 s"),
        (greets(then=drips(NOTHING)), "gives no answer within 0.4 s at the session's beginning"),
        (greets(then=drips(NOTHING[:12], NOTHING[12:])), "gives no answer within 0.4 s at the session's beginning"),
        (answers(struct.pack("<Qi", 1 << 32, 4)), "answers with a packet of 4294967296 bytes: another build"),
        (answers(struct.pack("<Qi", 1 << 21, 5)), "answers with a packet of 2097152 bytes: another build"),
        (answers(packet(4, struct.pack("<i", 1 << 30) + bytes(1 << 16))), "answers with values of another encoding"),
        (our_server("{"), "does not tell what it is as tsm-edge does; install the same version of tsm-edge on both"),
        (our_server("[" * 100_000), "does not tell what it is as tsm-edge does"),
        (our_server('["flags", "tsm_edge"]'), "does not tell what it is as tsm-edge does"),
        (our_server('{"flags": [], "tsm_edge": null}'), "does not tell what it is as tsm-edge does"),
        (our_server('{"flags": {"sse2": 1}, "tsm_edge": "1"}'), "does not tell what it is as tsm-edge does"),
        (our_server(None), "tsm_edge.server_info returned NoneType, expected a text; install the same version"),
        (
            answers(NOTHING, packet(4, struct.pack("<iiQ", 1, 8, 5) + b"hello")),
            "answers with values of another encoding",  # instead of a function's handle
        ),
        (
            answers(packet(5, struct.pack("<iiQ", 1, 8, 9) + b"\x1b[2J\x1b[Ha\x07")),
            ": ?[2J?[Ha?",
        ),
    ],
)
def test_a_server_that_misbehaves_ends_in_one_line_and_in_time(script: Script, message: str) -> None:
    with scripted_server(script) as endpoint:
        began_s = time.monotonic()
        with pytest.raises(RpcError) as caught:
            open_device(Place(endpoint, "k"), SHORT)
        assert time.monotonic() - began_s < 5
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(endpoint))
    assert "\n" not in str(caught.value)


@pytest.mark.real_time
def test_bytes_that_drip_in_after_the_first_step_are_not_waited_for() -> None:
    tensor = RemoteTensor(1, (1 << 18,))
    answer = struct.pack("<Qi", 4 + (1 << 20), 8)
    with scripted_server(greets(then=drips(answer, bytes(200)))) as endpoint:
        connection = connect(endpoint, "", 5)
        began_s = time.monotonic()
        with pytest.raises(NoAnswer, match=r"gives no answer within 0\.5 s"):
            connection.exchange([copy_from_packet(tensor, 1 << 20)], 0.5)
        assert time.monotonic() - began_s < 2


def test_a_server_that_takes_nothing_in() -> None:
    tensor = RemoteTensor(1, (1 << 22,))
    with scripted_server(greets()) as endpoint:
        connection = connect(endpoint, "", 5)
        with pytest.raises(NoAnswer, match=r"gives no answer within 0\.5 s"):
            connection.exchange([copy_to_packet(tensor, memoryview(bytes(1 << 24)))], 0.5)


@pytest.mark.parametrize("size", [0, 4, 12])
def test_a_tensor_of_another_size(size: int) -> None:
    with scripted_server(answers(packet(8, bytes(size)))) as endpoint:
        connection = connect(endpoint, "", 5)
        with pytest.raises(RpcError, match="answers with packet code 8: another build"):
            connection.exchange([copy_from_packet(RemoteTensor(1, (2,)), 8)], 5)


def test_a_value_instead_of_a_tensor() -> None:
    with scripted_server(answers(NOTHING)) as endpoint:
        connection = connect(endpoint, "", 5)
        with pytest.raises(RpcError, match="answers with values of another encoding"):
            connection.exchange([copy_from_packet(RemoteTensor(1, (2,)), 8)], 5)


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
    with scripted_server(answers(fault + packet(8, b"abcd") + NOTHING)) as endpoint:
        connection = connect(endpoint, "", 5)
        tensor = RemoteTensor(1, (1,))
        with pytest.raises(RemoteFault, match=r"127\.0\.0\.1:\d+: ValueError: too big; look at the server's output$"):
            connection.exchange([copy_to_packet(tensor, memoryview(b"abcd")), copy_from_packet(tensor, 4)], 5)
        assert connection.exchange([find_packet("f")], 5) == [None]


def test_a_connection_that_breaks_between_two_answers() -> None:
    with scripted_server(answers(NOTHING, packet(4, b"")[:7])) as endpoint:
        connection = connect(endpoint, "", 5)
        assert connection.exchange([find_packet("f")], 5) == [None]
        with pytest.raises(NoAnswer, match=r"gives no answer within 0\.2 s"):
            connection.exchange([find_packet("g")], 0.2)
        with pytest.raises(ConnectionLost):
            connection.exchange([find_packet("h")], 0.2)
        connection.close()
        connection.close()


def test_last_line_of_a_traceback() -> None:
    assert last_line("") == "an error without a message"
    assert last_line("ValueError: a\nOSError: b\n   note\n") == "OSError: b"
    assert last_line("no name at all") == "no name at all"
