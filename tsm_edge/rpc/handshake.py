"""Both halves of TVM's handshake, and what tsm-edge's server adds to its own.

The client says ``client:KEY`` and options, the server a code and, if it lets the client in, ``server:KEY``. Ours adds
``tsm-edge=1 machine=aarch64 build=…``, so that a client knows whom it talks to before anything else is said; TVM's own
clients do not look at the answer.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass

from tsm_edge.rpc.foreign_text import printable
from tsm_edge.rpc.sockets import Patience, receive, send

MAGIC = 0xFF271
CODE_ACCEPTED, CODE_DUPLICATE, CODE_MISMATCH = MAGIC, MAGIC + 1, MAGIC + 2
_LONGEST_WORDS = 4096  # bytes, of either half
_NOT_TVM = "it does not speak TVM's RPC"

# The releases whose encoding both ends speak: those the compiler depends on.
TVM_VERSION, TVM_FFI_VERSION = "0.27.0.post1", "0.1.14.post1"
BUILD = f"tvm-{TVM_VERSION}+ffi-{TVM_FFI_VERSION}"
_FORMAT = "1"

# Functions a session of our server has beyond TVM's.
SERVER_INFO = "tsm_edge.server_info"
FIND_UPLOAD = "tsm_edge.find_upload"
KEEP_UPLOAD = "tsm_edge.keep_upload"
SET_THREADS = "tsm_edge.set_threads"
SET_CORES = "tsm_edge.set_cores"
READ_FILES = "tsm_edge.read_files"
FIND_FILES = "tsm_edge.find_files"
GATHER_FILES = "tsm_edge.gather_files"
RUN_PROGRAM = "tsm_edge.run_program"
BEGIN_POWER = "tsm_edge.begin_power"
END_POWER = "tsm_edge.end_power"
NOW = "tsm_edge.now"


@dataclass(frozen=True)
class Hello:
    """The client's half of the handshake.

    Attributes
    ----------
    name : bytes
        ``client:KEY``.
    session_limit_s : float or None
        How long the session may last, seconds: the option ``-timeout=`` of TVM's own client.
    """

    name: bytes
    session_limit_s: float | None


def bytes_wanted(data: bytes) -> int:
    """How many bytes of a hello are still to come: so many may be read without taking any of the session's.

    Raises
    ------
    ValueError
        ``data`` is not the beginning of one.
    """
    if not struct.pack("<i", MAGIC).startswith(data[:4]):
        raise ValueError(_NOT_TVM)
    if len(data) < 8:
        return 8 - len(data)
    (length,) = struct.unpack_from("<i", data, 4)
    if not 0 <= length <= _LONGEST_WORDS:
        raise ValueError(_NOT_TVM)
    return int(8 + length - len(data))


def read_hello(data: bytes) -> Hello:
    """Read a whole one."""
    name, *options = data[8:].split() or [b""]
    limit_s = None
    for option in options:
        if option.startswith(b"-timeout="):
            with contextlib.suppress(ValueError):
                limit_s = float(option.partition(b"=")[2])
    return Hello(name, limit_s)


@dataclass(frozen=True)
class Greeting:
    """The server's half of the handshake.

    Attributes
    ----------
    machine, build : str
        Of the server, and the encoding it speaks; empty: it is not tsm-edge's.
    """

    machine: str = ""
    build: str = ""


def client_name(key: str) -> str:
    """What the client calls itself."""
    return f"client:{key}"


def shake_hands(stream: socket.socket, key: str, patience: Patience) -> tuple[int, str]:
    """The client's side: returns the server's code, and its words if it lets the client in.

    Raises
    ------
    TimeoutError, OSError
        The server does not answer in time, or closes the connection.
    """
    words = client_name(key).encode()
    send(stream, [struct.pack("<ii", MAGIC, len(words)), words], patience)
    (code,) = struct.unpack("<i", receive(stream, 4, patience))
    if code != CODE_ACCEPTED:
        return code, ""
    (length,) = struct.unpack("<i", receive(stream, 4, patience))
    if not 0 <= length <= _LONGEST_WORDS:
        return 0, ""
    return code, printable(receive(stream, length, patience).decode("utf-8", "replace"), length)


def accepted(greeting: str) -> bytes:
    """What a server answers to a good handshake."""
    data = greeting.encode()
    return struct.pack("<ii", CODE_ACCEPTED, len(data)) + data


def write_greeting(key: str, greeting: Greeting) -> str:
    """What the server answers."""
    return f"server:{key} tsm-edge={_FORMAT} machine={greeting.machine} build={greeting.build}"


def read_greeting(text: str) -> Greeting:
    """What a server answered; of a server that is not ours, an empty greeting."""
    fields = dict(word.split("=", 1) for word in text.split()[1:] if "=" in word)
    if "tsm-edge" not in fields:
        return Greeting()
    return Greeting(fields.get("machine", ""), fields.get("build", ""))
