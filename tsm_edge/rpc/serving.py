"""One session of the server, in a process of its own: what it can call, and the loop that answers it."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tsm_edge import __version__
from tsm_edge.cards.architecture import check_threads, cpu_flags, this_architecture
from tsm_edge.cards.threads import Threads
from tsm_edge.rpc.handshake import BUILD, FIND_UPLOAD, KEEP_UPLOAD, SERVER_INFO, SET_CORES, SET_THREADS
from tsm_edge.rpc.library import PackedLibrary, TimedFunction
from tsm_edge.rpc.served_machine import ServedMachine
from tsm_edge.rpc.session_loop import SessionLoop
from tsm_edge.rpc.sockets import Patience, send
from tsm_edge.rpc.uploads import Uploads
from tsm_edge.rpc.values import CPU

_BEGIN_S = 5.0  # for the client to take the greeting, and to begin its session
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
    os.chdir(folder)
    loop = SessionLoop(stream, _functions(Uploads(folder, uploads)))
    loop.begin(_BEGIN_S)
    loop.run()


def _functions(files: Uploads) -> dict[str, Callable[..., Any]]:
    """What a session can call."""
    return {
        # Those of TVM's own server that its client asks for.
        "tvm.rpc.server.workpath": files.path,
        "tvm.rpc.server.upload": files.upload,
        "tvm.rpc.server.download": files.download,
        "tvm.rpc.server.remove": files.remove,
        "tvm.rpc.server.load_module": lambda name: _load_module(files.path(name)),
        "tvm.rpc.server.ModuleGetFunction": lambda module, name, imports: module.function(name),
        "runtime.RPCTimeEvaluator": _timed,
        SERVER_INFO: lambda: json.dumps(server_info()),
        FIND_UPLOAD: files.find,
        KEEP_UPLOAD: files.keep,
        SET_THREADS: set_threads,
        SET_CORES: set_cores,
        **ServedMachine().functions(),
    }


def _prepare(stream: socket.socket) -> None:
    """Small answers go out at once; a client whose network is gone is noticed within half a minute."""
    if stream.family == socket.AF_UNIX:
        return
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _load_module(path: str) -> PackedLibrary:
    if not path.endswith(".so"):
        raise ValueError(f"{Path(path).name} is no .so: only shared libraries are loaded here, link it before")
    return PackedLibrary(path)


def _timed(
    module: object,
    name: str,
    device_kind: int,
    device: int,
    number: int,
    repeat: int,
    least_repeat_ms: int,
    *more: object,
) -> TimedFunction:
    """``time_evaluator`` of TVM's own client; ``more``: cooling down, flushing caches and a function before each call.

    Raises
    ------
    ValueError
        More is asked for than times of a model's function.
    """
    function = module.function(name) if isinstance(module, PackedLibrary) else None
    if function is None or (device_kind, device) != CPU:
        raise ValueError(f"{name} is not timed: expected a function of a loaded model, and the CPU")
    _, cooldown_ms, _, flushed_bytes, before = more
    if cooldown_ms or flushed_bytes or before:
        raise ValueError("cooldown, cache flushing and f_preproc are not served: leave them out")
    return TimedFunction(function, number, repeat, least_repeat_ms)


def server_info() -> dict[str, object]:
    """What a client may want to know of this machine."""
    return {
        "tsm_edge": __version__,
        "build": BUILD,
        "machine": this_architecture(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "flags": cpu_flags(),
    }


def set_threads(count: int) -> None:
    """Choose the CPU threads of models this session loads from now on."""
    check_threads(count)
    os.environ[THREADS_VARIABLE] = str(int(count))


def set_cores(text: str) -> bool:
    """Have this session's thread, and those it starts from now on, keep to some cores, if it may use all of them.

    Parameters
    ----------
    text : str
        Their numbers, as a list of JSON.

    Returns
    -------
    bool
        Whether they do.

    Raises
    ------
    ValueError
        It is no such list.
    """
    cores = json.loads(text)
    if not isinstance(cores, list) or not cores:
        raise ValueError(f"cores are {text[:80]}, expected a list of their numbers")
    kept = Threads(1, tuple(cores)).cores
    if not hasattr(os, "sched_setaffinity") or not set(kept) <= os.sched_getaffinity(0):
        return False
    os.sched_setaffinity(0, kept)
    return True
