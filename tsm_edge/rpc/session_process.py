"""A session's process, seen from the server: begun by forking, watched, ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tsm_edge.priority import die_before_parent

_ALONE_S = 5.0  # for a session to end by itself when its client has gone


class SessionProcess:
    """A process that serves one client; made by :func:`begin_session`.

    Parameters
    ----------
    process : int
        Its id.
    ends : int
        A pipe whose other end only that process has: readable when it is gone.
    stream : socket
        Of its client; not read here, only looked at.
    folder : Path
        Of the session.
    limit_s : float or None
        How long the client lets it last.

    Attributes
    ----------
    ends : int
        The pipe, for whoever waits.
    """

    def __init__(self, process: int, ends: int, stream: socket.socket, folder: Path, limit_s: float | None) -> None:
        self.ends = ends
        self._process = process
        self._stream = stream
        self._folder = folder
        self._began_s = time.monotonic()
        self._until_s = self._began_s + limit_s if limit_s else None
        self._alone_since_s: float | None = None
        self._killed_because = ""

    def how_it_ended(self, now_s: float) -> str:
        """In words, once it is gone; until then empty. Kills it when its time is over, or it goes on for nobody."""
        if not self._killed_because and (why := self._why_end(now_s)):
            self._killed_because = why
            os.kill(self._process, signal.SIGKILL)
        process, status = os.waitpid(self._process, os.WNOHANG)
        if process == 0:
            return ""
        return f"{self._killed_because or _words(status)} after {now_s - self._began_s:.1f} s"

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # interrupted while it was being buried
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)

    def clear(self) -> None:
        """Remove what it left, once it is gone."""
        os.close(self.ends)
        self._stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _why_end(self, now_s: float) -> str:
        if self._until_s is not None and now_s > self._until_s:
            return "was ended: the time limit its client set is over"
        if not _has_gone(self._stream):
            return ""
        if self._alone_since_s is None:
            self._alone_since_s = now_s
        return "was ended: its client has gone" if now_s - self._alone_since_s > _ALONE_S else ""


def _has_gone(client: socket.socket) -> bool:
    """Whether the other end will send nothing more (Linux only; elsewhere never)."""
    if not hasattr(select, "POLLRDHUP"):
        return False
    poller = select.poll()
    poller.register(client, select.POLLRDHUP)
    return bool(poller.poll(0))


def _words(status: int) -> str:
    """Of a process's end."""
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}; serving goes on,"
    return "ended" if os.WEXITSTATUS(status) == 0 else "was cut off"


def begin_session(
    stream: socket.socket, folder: Path, limit_s: float | None, serve: Callable[[], None]
) -> SessionProcess:
    """Make the session's folder, and a process that runs ``serve``.

    Parameters
    ----------
    stream : socket
        Of the client; belongs to the session from now on, if it begins.
    folder : Path
    limit_s : float or None
        How long the session may last.
    serve : callable

    Raises
    ------
    OSError
        There is no space, file descriptor or process for it; nothing is left behind.
    """
    folder.mkdir()
    try:
        ends, keeps = os.pipe()
    except OSError:
        folder.rmdir()
        raise
    try:
        process = os.fork()
    except OSError:
        os.close(ends)
        os.close(keeps)
        folder.rmdir()
        raise
    if process == 0:
        os.close(ends)
        _become_session(folder.name, serve)
    os.close(keeps)
    return SessionProcess(process, ends, stream, folder, limit_s)


def _become_session(name: str, serve: Callable[[], None]) -> NoReturn:
    """Runs in the new process."""
    code = 1
    try:
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, signal.SIG_DFL)
        _die_with_parent()
        die_before_parent()
        serve()
        code = 0
    except Exception as error:  # noqa: BLE001 - the outermost frame of a process
        print(f"{name}: {_first_line(error)}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _die_with_parent() -> None:
    """Do not outlive the server, however it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
