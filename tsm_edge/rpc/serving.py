"""One session of the server, in a process of its own: TVM's server loop, with the functions a session can call."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tsm_edge import __version__
from tsm_edge.cards.architecture import check_threads, cpu_flags, this_architecture
from tsm_edge.rpc.handshake import FIND_UPLOAD, KEEP_UPLOAD, SERVER_INFO, SET_THREADS, installed_build
from tsm_edge.rpc.served_machine import ServedMachine
from tsm_edge.rpc.sockets import Patience, send
from tsm_edge.rpc.uploads import Uploads

_BEGIN_S = 5.0  # for the client to take the greeting, and to begin its session
_PEEK_AGAIN_S = 0.01
_MOST_PEEKED = 4096  # bytes: of TVM's first packet, which is small, all
_LENGTH = struct.Struct("<Q")
THREADS_VARIABLE = "TSM_EDGE_THREADS"  # read by model.so at its first step


def serve_session(stream: socket.socket, greeting: bytes, folder: Path, uploads: Path) -> None:
    """Serve until the client ends the session.

    Parameters
    ----------
    stream : socket
        Connected, its handshake read but not answered; closed at the end.
    greeting : bytes
        The answer to the handshake.
    folder : Path
        Of this session: uploads without a path go there.
    uploads : Path
        Libraries kept for later sessions, by their hash.

    Raises
    ------
    Exception
        The client went away without a word, says nothing, or sent nonsense.
    """
    _prepare(stream)
    send(stream, [greeting], Patience(_BEGIN_S))
    _await_first_packet(stream)
    stream.settimeout(None)
    ffi = load_runtime()
    os.chdir(folder)
    library = Uploads(folder, uploads)
    functions = {
        # What TVM's own Python server defines.
        "tvm.rpc.server.workpath": library.path,
        # TVM's own writes anywhere, and does not notice that a disk is full.
        "tvm.rpc.server.upload": library.upload,
        "tvm.rpc.server.remove": library.remove,
        "tvm.rpc.server.load_module": lambda name: _load_module(library.path(name)),
        SERVER_INFO: lambda: json.dumps(server_info()),
        FIND_UPLOAD: library.find,
        KEEP_UPLOAD: library.keep,
        SET_THREADS: set_threads,
        **ServedMachine().functions(),
    }
    for name, function in functions.items():
        ffi.register_global_func(name, function, override=True)
    ffi.get_global_func("rpc.ServerLoop")(stream.detach())


def _prepare(stream: socket.socket) -> None:
    """Small answers go out at once; a client whose network is gone is noticed within half a minute."""
    if stream.family == socket.AF_UNIX:
        return
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _await_first_packet(stream: socket.socket) -> None:
    """Wait, but not for ever as TVM does, until a client that has shaken hands begins its session; reads nothing."""
    patience = Patience(_BEGIN_S)
    try:
        head = _peek(stream, _LENGTH.size, patience)
        if len(head) == _LENGTH.size:
            _peek(stream, min(_LENGTH.size + _LENGTH.unpack(head)[0], _MOST_PEEKED), patience)
    except TimeoutError:
        raise TimeoutError("the client has shaken hands and says nothing more") from None


def _peek(stream: socket.socket, size: int, patience: Patience) -> bytes:
    """The next bytes, which stay to be read; fewer: the client has gone."""
    while True:
        stream.settimeout(patience.left_s())
        seen = stream.recv(size, socket.MSG_PEEK)
        if not seen or len(seen) == size:
            return seen
        time.sleep(_PEEK_AGAIN_S)


def load_runtime() -> Any:
    """Load TVM's runtime library; returns the module ``tvm_ffi``.

    Not ``import tvm``, which brings the compiler, and not torch, which ``tvm_ffi`` imports where it finds it: without
    them a server begins in a fraction of a second and takes a tenth of the memory.

    Raises
    ------
    ImportError, OSError, RuntimeError
        TVM is not installed, or its library cannot be loaded.
    """
    hidden = {"torch": None} if "torch" not in sys.modules else {}
    with _modules(hidden):
        import tvm_ffi
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("no module named tvm")
    folders = [Path(folder) / "lib" for folder in spec.submodule_search_locations]
    tvm_ffi.libinfo.load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=folders)
    return tvm_ffi


@contextlib.contextmanager
def _modules(hidden: dict[str, None]) -> Iterator[None]:
    """Make imports of some modules fail for a while."""
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _load_module(path: str) -> Any:
    if path.endswith((".so", ".dylib", ".dll")):
        import tvm_ffi

        return tvm_ffi.load_module(path)
    import tvm  # what TVM's own clients may send: objects and archives, which it links

    return tvm.runtime.load_module(path)


def server_info() -> dict[str, object]:
    """What a client may want to know of this machine."""
    return {
        "tsm_edge": __version__,
        "build": installed_build(),
        "machine": this_architecture(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "flags": cpu_flags(),
    }


def set_threads(count: int) -> None:
    """Choose the CPU threads of models this session loads from now on."""
    check_threads(count)
    os.environ[THREADS_VARIABLE] = str(int(count))
