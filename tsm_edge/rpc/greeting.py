"""What tsm-edge's server adds to TVM's handshake, so that a client knows whom it talks to before anything else is said.

TVM's server answers ``server:KEY``. Ours answers ``server:KEY tsm-edge=1 machine=aarch64 build=…``; TVM's own clients
do not look at the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

# The releases whose encoding wire.py speaks: those tsm-edge depends on.
TVM_VERSION, TVM_FFI_VERSION = "0.27.0.post1", "0.1.14.post1"
BUILD = f"tvm-{TVM_VERSION}+ffi-{TVM_FFI_VERSION}"
_FORMAT = "1"

# Functions a session of our server has beyond TVM's.
SERVER_INFO = "tsm_edge.server_info"
FIND_UPLOAD = "tsm_edge.find_upload"
KEEP_UPLOAD = "tsm_edge.keep_upload"
SET_THREADS = "tsm_edge.set_threads"


@dataclass(frozen=True)
class Greeting:
    """The server's half of the handshake.

    Attributes
    ----------
    machine, build : str
        Of the server; empty: it is not tsm-edge's.
    """

    machine: str = ""
    build: str = ""


def installed_build() -> str:
    """The build of the TVM installed here, whatever it is."""
    from importlib.metadata import version

    return f"tvm-{version('apache-tvm')}+ffi-{version('apache-tvm-ffi')}"


def write_greeting(key: str, greeting: Greeting) -> str:
    """What the server answers."""
    return f"server:{key} tsm-edge={_FORMAT} machine={greeting.machine} build={greeting.build}"


def read_greeting(text: str) -> Greeting:
    """What a server answered; of a server that is not ours, an empty greeting."""
    fields = dict(word.split("=", 1) for word in text.split()[1:] if "=" in word)
    if "tsm-edge" not in fields:
        return Greeting()
    return Greeting(fields.get("machine", ""), fields.get("build", ""))
