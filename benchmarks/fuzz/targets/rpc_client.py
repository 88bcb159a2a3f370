"""What a server or a tracker answers: to a session that looks at the device, loads a model there and runs two steps.

All answers are sent at once, in the order in which a true server gives them. Two inputs of three are what tsm-edge's
server answers or TVM's own; the third is a tracker's.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.damage import damaged
from benchmarks.fuzz.rpc_bytes import NONE, NUMBERS, TEXTS, Message, number, out_of_order, text
from tsm_edge.artifact.folder import LIBRARY, Artifact
from tsm_edge.artifact.manifest import CacheInfo, Manifest, MemoryInfo, TensorInfo
from tsm_edge.cards import Preprocess, Smoothing, load_target
from tsm_edge.rpc.handshake import BUILD, Greeting, accepted, write_greeting
from tsm_edge.rpc.place import Endpoint, Place, TimeLimits
from tsm_edge.rpc.session import RemoteSession
from tsm_edge.rpc.tracker import request_device

name = "rpc_client"

LIMITS = TimeLimits(connect_s=0.3, device_s=0.3, answer_s=0.3)
UNDAMAGED, SILENT_AT_THE_END = 0.02, 0.02  # of the inputs
FRAME, LOGITS, CACHES = (1, 3, 4, 4), (1, 5), ((1, 2, 4, 4), (1, 1, 2, 2))
CONTENT = b"\x7fELF" + bytes(400)
RETURN, COPY_ACK = 4, 8
FUNCTION, MODULE = 68, 73
MANIFEST = Manifest(
    model="m",
    description="",
    frame=TensorInfo("frame", FRAME),
    outputs=(TensorInfo("logits", LOGITS),),
    caches=tuple(CacheInfo(f"c{index}", f"n{index}", shape) for index, shape in enumerate(CACHES)),
    preprocess=Preprocess(),
    smoothing=Smoothing(),
    labels=(),
    random_weights=True,
    weights="",
    target=load_target("x86-64"),
    memory=MemoryInfo(0, 0, 0, 0),
    kernels=(),
    hashes={},
    versions={},
    created="",
    compile_seconds=0.0,
    files={LIBRARY: hashlib.sha256(CONTENT).hexdigest()},
)


@dataclass(frozen=True)
class Given:
    """What is sent, by a tracker or a server, and whether the connection stays open after it."""

    data: bytes
    by_tracker: bool
    stays: bool


def make(seed: int) -> Given:
    """A spoilt conversation."""
    chance = random.Random(seed)
    by_tracker = seed % 3 == 2
    stays = chance.random() < SILENT_AT_THE_END
    whole = chance.random() < UNDAMAGED
    if by_tracker:
        data = _tracker(chance, whole)
    else:
        ours = seed % 3 == 0
        answers = _answers(ours, chance, whole)
        for _ in range(0 if whole else chance.choice((0, 1, 1, 2))):
            answers = out_of_order(answers, chance)
        greeting = write_greeting("k", Greeting("x86_64", BUILD)) if ours else "server:k"
        data = accepted(greeting) + b"".join(answer.written() for answer in answers)
    if not whole and chance.random() < 0.3:
        data = damaged(data, chance)
    return Given(data, by_tracker, stays)


def run(given: Given) -> None:
    """As ``tsm-edge run --rpc`` or ``--tracker`` does."""
    folder = Path("out")
    folder.mkdir(exist_ok=True)
    (folder / LIBRARY).write_bytes(CONTENT)
    with _serving(given) as endpoint:
        if given.by_tracker:
            request_device(endpoint, "k", LIMITS)
            return
        with RemoteSession(Artifact(folder, MANIFEST), Place(endpoint, "k"), 1, LIMITS) as session:
            for _ in range(2):
                logits = session.step(np.zeros(FRAME, np.float32))
                if logits.shape != LOGITS or logits.dtype != np.float32:
                    raise ValueError(f"logits are {logits.dtype} {logits.shape}")


@contextmanager
def _serving(given: Given) -> Iterator[Endpoint]:
    """Tells every client the same, and listens to it until it goes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, given))
        thread.start()
        try:
            yield Endpoint("127.0.0.1", listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, given: Given) -> None:
    with suppress(OSError):
        while True:
            stream, _ = listener.accept()
            with closing(stream), suppress(OSError):
                stream.sendall(given.data)
                if not given.stays:
                    stream.shutdown(socket.SHUT_WR)
                while stream.recv(1 << 16):
                    pass


def _answers(ours: bool, chance: random.Random, whole: bool) -> list[Message]:
    def found(handle: int = 0x1000) -> Message:
        return Message(RETURN, values=(number(handle, 4),))

    def returned(kind: int, value: Any = NONE) -> Message:
        return Message(RETURN, values=(number(kind), value))

    def called(answer: Message) -> list[Message]:
        return [found(), answer]

    nothing = Message(RETURN, values=(NONE,))
    void = returned(0)
    answers = [nothing]
    if ours:
        answers += called(returned(8, text(_info(chance, whole))))
        answers += [found(), *called(void)]  # the number of threads
        answers += called(returned(8, text(b"")))  # no upload is kept
        answers += called(void)
        answers += called(returned(8, text(b"/tmp/kept.so")))
    else:
        answers += [found(), *called(returned(8, text(b"x86_64-pc-linux-gnu")))]
        answers += [Message(RETURN, values=(NONE,))]  # nobody chooses the number of threads
        answers += called(void)
        answers += called(returned(9, text(CONTENT, 9)))
    answers += called(returned(MODULE, number(0x2000, 4)))
    answers += called(returned(FUNCTION, number(0x3000, 4)))
    answers += [found(0x4000 + index) for index in range(2 + 3 * len(CACHES))]
    answers += [nothing] * len(CACHES)
    step = [nothing, void, Message(COPY_ACK, values=None, rest=struct.pack("<5f", *range(5)))]
    return answers + step * 2


def _info(chance: random.Random, whole: bool) -> bytes:
    """What the server says of its machine."""
    table: Any = {"tsm_edge": "1", "build": BUILD, "machine": "x86_64", "flags": ["avx2", "fma", "bmi2", "f16c"]}
    return json.dumps(table if whole else _odd(table, chance)).encode()


def _odd(table: dict[str, Any], chance: random.Random) -> Any:
    """Mostly the same table; else with one value of another kind, or something else altogether."""
    odd: Any = chance.choice((None, 3, -1, 1e999, "", "a..b", [], [[]], {}, {"a": [1]}, ["sse2", 7], "x" * 5000))
    match chance.randrange(6):
        case 0:
            return odd
        case 1:
            return {**table, chance.choice(list(table)): odd}
        case 2:
            return {key: value for key, value in table.items() if key != chance.choice(list(table))}
    return table


def _tracker(chance: random.Random, whole: bool) -> bytes:
    summary: Any = {"server_info": [{"key": "server:k", "addr": ["127.0.0.1", 9090]}], "queue_info": {}}
    device: list[Any] = ["127.0.0.1", 9090, "k:0.5"]
    messages: list[Any] = [[0, summary], [0, device]]
    if not whole:
        match chance.randrange(6):
            case 0:
                messages[0] = [0, _odd(summary, chance)]
            case 1:
                messages[0] = [0, {**summary, "server_info": [_odd({"key": "server:k"}, chance)]}]
            case 2:
                hosts = ("abc", "a..b", "", "x" * 300, "a\0b", None, [], 7, *NUMBERS)
                device[chance.randrange(3)] = chance.choice(hosts)
            case 3:
                messages[1] = _odd({"0": device}, chance)
            case 4:
                messages[1] = [chance.choice(NUMBERS), device]
            case _:
                messages[chance.randrange(2)] = chance.choice(TEXTS).decode("latin-1")
    data = struct.pack("<i", 0x2F271)
    for message in messages:
        body = json.dumps(message).encode() if whole or chance.random() < 0.9 else chance.choice(TEXTS)
        size = len(body) if whole or chance.random() < 0.9 else chance.choice(NUMBERS) % 2**31
        data += struct.pack("<i", size) + body
    return data
