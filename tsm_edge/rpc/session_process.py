"""A session's process, seen from the server: begun by forking, watched, ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass
class SessionProcess:
    """A process that serves one client.

    Attributes
    ----------
    number : int
        Of the session.
    process : int
        Its id.
    ends : int
        A pipe whose other end only that process has: readable when it is gone.
    folder : Path
        Of the session.
    began_s, deadline_s : float, float or None
        Of the monotonic clock; after the second it is ended.
    """

    number: int
    process: int
    ends: int
    folder: Path
    began_s: float
    deadline_s: float | None
    _overdue: bool = False

    def how_it_ended(self, now_s: float) -> str:
        """In words, once it is gone; until then empty. Kills it when its time is over."""
        if self.deadline_s is not None and now_s > self.deadline_s and not self._overdue:
            self._overdue = True
            os.kill(self.process, signal.SIGKILL)
        process, status = os.waitpid(self.process, os.WNOHANG)
        if process == 0:
            return ""
        if self._overdue:
            return "was ended: the time limit its client set is over"
        if os.WIFSIGNALED(status):
            return f"died of {signal.Signals(os.WTERMSIG(status)).name}; serving goes on,"
        return "ended" if os.WEXITSTATUS(status) == 0 else "was cut off"

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # interrupted while it was being buried
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)

    def clear(self) -> None:
        """Remove what it left, once it is gone."""
        os.close(self.ends)
        shutil.rmtree(self.folder, ignore_errors=True)


def begin_session(
    number: int, folder: Path, now_s: float, limit_s: float | None, serve: Callable[[], None]
) -> SessionProcess:
    """Make the session's folder, and a process that runs ``serve``.

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
        _become_session(number, serve)
    os.close(keeps)
    return SessionProcess(number, process, ends, folder, now_s, now_s + limit_s if limit_s else None)


def _become_session(number: int, serve: Callable[[], None]) -> NoReturn:
    """Runs in the new process."""
    code = 1
    try:
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, signal.SIG_DFL)
        _die_with_parent()
        _die_before_parent()
        serve()
        code = 0
    except Exception as error:  # noqa: BLE001 - the outermost frame of a process
        print(f"session {number}: {_first_line(error)}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _die_with_parent() -> None:
    """Do not outlive the server, however it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _die_before_parent() -> None:
    """Where memory runs out, the session ends and not the server (Linux only)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
