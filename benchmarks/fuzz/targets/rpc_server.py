"""What a client says to a server: a handshake, and calls of TVM's RPC to the session that follows a good one.

An input passes when the server goes on, and the session is over in time and by its own doing: whatever a client says,
the session's process answers it or ends with a line, and no signal ends it. No input loads a library.
"""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import select
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.fuzz.damage import damaged
from benchmarks.fuzz.rpc_bytes import NUMBERS, TEXTS, Message, Value, number, spoilt, text
from tsm_edge.errors import RpcError
from tsm_edge.rpc import server as server_module
from tsm_edge.rpc.handshake import (
    CODE_ACCEPTED,
    FIND_UPLOAD,
    KEEP_UPLOAD,
    MAGIC,
    SERVER_INFO,
    SET_THREADS,
    bytes_wanted,
)
from tsm_edge.rpc.place import Endpoint
from tsm_edge.rpc.server import Server, ServeRequest
from tsm_edge.rpc.wire import PROTOCOL_VERSION

name = "rpc_server"

LIMIT_S = 20.0
ANSWER_S = 0.5
KEY = "k"
INIT, CALL, COPY_FROM, COPY_TO, FIND, FREE, ALLOCATE = 2, 3, 6, 7, 9, 10, 13
DTYPE, DEVICE = 5, 6
CPU, FLOAT32 = struct.pack("<ii", 1, 0), struct.pack("<BBH", 2, 32, 1)
UPLOAD, DOWNLOAD, REMOVE, LOAD, WORKPATH = (
    f"tvm.rpc.server.{word}" for word in ("upload", "download", "remove", "load_module", "workpath")
)


@dataclass(frozen=True)
class Call:
    """A packet, and the function it calls, whose handle is asked for first; empty: the packet as it is."""

    function: str
    message: Message


@dataclass(frozen=True)
class Given:
    """What the client says: first to the server, then, if it is let in, to its session."""

    hello: bytes
    calls: tuple[Call, ...]


def make(seed: int) -> Given:
    """Mostly a good handshake and spoilt calls; one time in four a spoilt handshake."""
    chance = random.Random(seed)
    hello = _hello(f"client:{KEY}".encode())
    if chance.random() < 0.25:
        words = (b"", b"client:", b"client:k -timeout=nan", b"client:k -timeout=0.01", b"client:k -timeout=x", *TEXTS)
        hello = chance.choice((damaged(hello, chance), _hello(chance.choice(words)), chance.randbytes(30)))
    calls = [Call("", Message(INIT, head=struct.pack("<Q", len(PROTOCOL_VERSION)) + PROTOCOL_VERSION))]
    calls += chance.sample(_calls(chance), chance.choice((1, 1, 2, 4)))
    if chance.random() < 0.8:
        at = chance.randrange(0 if chance.random() < 0.1 else 1, len(calls))
        calls[at] = replace(calls[at], message=spoilt(calls[at].message, chance))
    if chance.random() < 0.1:
        calls.append(Call("", Message(chance.randrange(20), values=None, rest=chance.randbytes(chance.randrange(40)))))
    return Given(hello, tuple(calls))


def run(given: Given) -> None:
    """Serve this one client."""
    folder = Path("out").absolute()
    folder.mkdir(exist_ok=True)
    tempfile.tempdir = str(folder)
    said: list[str] = []
    with Server(ServeRequest(Endpoint("127.0.0.1", 0), KEY), said.append) as server:
        with closing(_connected(server)) as client:
            client.sendall(given.hello)
            if not _is_let_in(server, client, given.hello):
                raise RpcError(f"not let in: {said}", "see what the server prints")
            with suppress(OSError):  # the session is over
                _talk(client, given.calls)
            with suppress(OSError):  # closing is not enough: the session's process has this end, too
                client.shutdown(socket.SHUT_RDWR)
        _until(lambda: said[-1].startswith("session 1: ") and " after " in said[-1], server, "the session does not end")
        if "died of" in said[-1]:
            raise RuntimeError(said[-1])


def _quiet(serve: Callable[..., None]) -> Callable[..., None]:
    """What a session's process prints, and how it dies, is not this process's."""

    def quiet(*arguments: Any) -> None:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        serve(*arguments)

    return quiet


server_module.serve_session = _quiet(server_module.serve_session)


def _connected(server: Server) -> socket.socket:
    endpoint = server.endpoint
    if not isinstance(endpoint, Endpoint):
        raise TypeError("expected a TCP address")
    return socket.create_connection((endpoint.host, endpoint.port), timeout=ANSWER_S)


def _until(done: Callable[[], object], server: Server, complaint: str) -> None:
    """Look after the server until then."""
    until_s = time.monotonic() + LIMIT_S
    while not done():
        server.turn(0.02)
        if time.monotonic() > until_s:
            raise TimeoutError(complaint)


def _is_let_in(server: Server, client: socket.socket, hello: bytes) -> bool:
    with suppress(ValueError):
        if bytes_wanted(hello):
            client.shutdown(socket.SHUT_WR)  # else the server waits for more
    _until(lambda: select.select([client], [], [], 0)[0], server, "a handshake is not answered")
    try:
        code = client.recv(4)
        if code != struct.pack("<i", CODE_ACCEPTED):
            return False
        (length,) = struct.unpack("<i", _read(client, 4))
        _read(client, length)
    except ConnectionResetError:
        return False
    return True


def _talk(client: socket.socket, calls: Sequence[Call]) -> None:
    for call in calls:
        message = call.message
        if call.function:
            client.sendall(Message(FIND, values=(text(call.function.encode()),)).written())
            message = replace(message, head=_answer(client)[-8:] + message.head)
        client.sendall(message.written())
        _answer(client)


def _answer(client: socket.socket) -> bytes:
    (size,) = struct.unpack("<Q", _read(client, 8))
    return _read(client, size)


def _read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        block = client.recv(size - len(data))
        if not block:
            raise ConnectionResetError
        data += block
    return data


def _hello(words: bytes) -> bytes:
    return struct.pack("<ii", MAGIC, len(words)) + words


def _calls(chance: random.Random) -> list[Call]:
    """One of each kind, with usual arguments or odd ones."""

    def maybe(usual: bytes) -> bytes:
        return usual if chance.random() < 0.7 else chance.choice(TEXTS)

    def size(usual: int) -> int:
        return usual if chance.random() < 0.7 else chance.choice(NUMBERS)

    def called(function: str, *values: Value) -> Call:
        return Call(function, Message(CALL, values=values))

    float32 = Value(DTYPE, FLOAT32 + bytes(4))
    tensor = struct.pack("<Q", chance.choice(NUMBERS)) + CPU + struct.pack("<i", 1) + FLOAT32 + struct.pack("<qQ", 4, 0)
    return [
        called(SERVER_INFO),
        called(FIND_UPLOAD, text(maybe(b"0" * 64))),
        called(KEEP_UPLOAD, text(maybe(b"model.so")), text(maybe(b"0" * 64))),
        called(SET_THREADS, number(size(2))),
        called(UPLOAD, text(maybe(b"model.so")), text(maybe(b"content"), 9)),
        called(DOWNLOAD, text(maybe(b"model.so"))),
        called(REMOVE, text(maybe(b"model.so"))),
        called(WORKPATH, text(maybe(b"model.so"))),
        called(LOAD, text(maybe(b"model.so"))),
        Call("", Message(FIND, values=(text(maybe(b"no.such.function")),))),
        Call("", Message(FREE, values=(number(size(0), 4),))),
        Call("", Message(ALLOCATE, values=(Value(DEVICE, CPU), number(size(64)), number(size(64)), float32))),
        Call("", Message(COPY_TO, head=tensor + struct.pack("<Q", size(16)), values=None, rest=bytes(16))),
        Call("", Message(COPY_FROM, head=tensor + struct.pack("<Q", size(16)), values=None)),
    ]
