"""Sessions in a process of their own: a candidate that crashes or hangs there ends that process, not the tuner."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import ArtifactError, TsmEdgeError, TuneError
from tsm_edge.priority import die_before_parent
from tsm_edge.session.local import OnlineSession
from tsm_edge.session.timings import Timings

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Isolated: until it has our path, a json.py in the user's folder would be taken for Python's.
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tsm_edge.tune.apart import main; main()"
LIMIT_S, _END_S = 60.0, 3.0
_AGAIN = "go on with: --continue"


class Apart:
    """A process that opens sessions, one at a time. It is begun when one is opened, and anew for another library.

    Parameters
    ----------
    limit_s : float
        How long a call may take: the frames of a turn.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection[Any, Any] | None = None
        self._library: Path | None = None

    @property
    def process(self) -> int | None:
        """Its number; None: there is none now."""
        return None if self._process is None else self._process.pid

    def open(self, artifact: Artifact, threads: Threads) -> SessionApart:
        """Load a library there.

        Raises
        ------
        ArtifactError
            It cannot be loaded, or the process dies of it.
        TuneError
            There is no memory or file for a process.
        """
        if self._library != artifact.path:
            self.close()
        if self._process is None:
            self._begin()
            self._library = artifact.path
        self.ask("open", artifact, threads)
        return SessionApart(self)

    def ask(self, what: str, *arguments: object) -> Any:
        """Have the process do something (a method of ``_Worker``), and return what that returns.

        Raises
        ------
        ArtifactError
            It fails, the process dies of it, or it takes too long.
        """
        assert self._link is not None
        try:
            self._link.send((what, arguments))
            if not self._link.poll(self._limit_s):
                raise ArtifactError(f"no answer for {self._limit_s:g} s, its process was ended", _AGAIN)
            failed, answer = self._link.recv()
        except (EOFError, OSError):
            how = self._how_it_ended()
            self.close()
            raise ArtifactError(f"its process {how}", _AGAIN) from None
        except BaseException:  # an answer that comes later would be taken for that to the next question
            self.close()
            raise
        if failed is not None:
            problem, hint = failed
            raise ArtifactError(problem, hint)
        return answer

    def close(self) -> None:
        """End it; doing so twice is allowed."""
        process, link = self._process, self._link
        self._process = self._link = self._library = None
        if link is not None:
            link.close()
        if process is not None:
            process.kill()
            process.wait()

    def _begin(self) -> None:
        try:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                number = theirs.fileno()
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _START, json.dumps(sys.path), str(number), f"{self._limit_s}"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[number],
                    start_new_session=True,  # Ctrl-C is for the tuner, which ends with the trial it is in
                )
                self._link = Connection(ours.detach())
        except OSError as error:
            raise TuneError(f"no process can begin to measure in ({error.strerror})", _AGAIN) from None

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "answers no more"
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class SessionApart:
    """A session there: a :class:`tsm_edge.tune.race.Runner`; made by :meth:`Apart.open`."""

    def __init__(self, apart: Apart) -> None:
        self._apart = apart
        self._process = apart.process
        self._sent: NDArray[np.float32] | None = None

    def select(self, program: int) -> int:
        """See :meth:`tsm_edge.session.local.OnlineSession.select`."""
        calls: int = self._apart.ask("select", program)
        return calls

    def measure(
        self, frames: NDArray[np.float32], first: int, count: int, period_ns: int = 0, kernels: bool = False
    ) -> Timings:
        """See :meth:`tsm_edge.session.local.OnlineSession.measure`."""
        if frames is not self._sent:
            self._apart.ask("take", frames)
            self._sent = frames
        timings: Timings = self._apart.ask("measure", first, count, period_ns, kernels)
        return timings

    def close(self) -> None:
        """End the session; where its process has died there is none."""
        if self._process is not None and self._apart.process == self._process:
            with contextlib.suppress(ArtifactError):
                self._apart.ask("close")


class _Worker:
    """What the process can do."""

    def __init__(self) -> None:
        self._session: OnlineSession | None = None
        self._frames = np.empty(0, np.float32)

    def open(self, artifact: Artifact, threads: Threads) -> None:
        self._session = OnlineSession(artifact, threads)

    def select(self, program: int) -> int:
        assert self._session is not None
        return self._session.select(program)

    def take(self, frames: NDArray[np.float32]) -> None:
        self._frames = frames

    def measure(self, first: int, count: int, period_ns: int, kernels: bool) -> Timings:
        assert self._session is not None
        return self._session.measure(self._frames, first, count, period_ns, kernels)

    def close(self) -> None:
        assert self._session is not None
        self._session.close()


def main() -> None:
    """The process: answers until the tuner's end of the socket is closed, whatever became of that."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    die_before_parent()
    link: Connection[Any, Any] = Connection(int(sys.argv[2]))
    worker = _Worker()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            what, arguments = link.recv()
            # The system ends it where it hangs and there is no tuner any more that would.
            signal.alarm(2 * math.ceil(float(sys.argv[3])))
            try:
                answer: tuple[object, object] = (None, getattr(worker, what)(*arguments))
            except TsmEdgeError as error:
                answer = ((error.problem, error.hint), None)
            except Exception as error:  # noqa: BLE001 - the outermost frame of a process
                answer = ((f"{type(error).__name__}: {error}", _AGAIN), None)
            signal.alarm(0)
            link.send(answer)
