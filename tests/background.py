"""Programs that run beside a test: their output in a file, ended with everything they started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tsm_edge.rpc.place import Endpoint

# Programs end with the test process, however that ends; where util-linux is missing they may outlive it.
_SETPRIV = shutil.which("setpriv")
_DIES_WITH_US = [_SETPRIV, "--pdeathsig", "KILL"] if _SETPRIV else []


class Background:
    """A program in a process group of its own.

    Parameters
    ----------
    command : sequence of str
    log : Path
        Its stdout and stderr.
    environment : mapping
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*_DIES_WITH_US, *command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                cwd=log.parent,
                start_new_session=True,
            )

    def output(self) -> str:
        """Everything it has printed."""
        return self.log.read_text("utf-8", errors="replace")

    def wait_for(self, pattern: str, timeout_s: float = 60.0, count: int = 1) -> re.Match[str]:
        """Wait until it has printed ``pattern`` ``count`` times; returns the last match."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            matches = list(re.finditer(pattern, self.output()))
            if len(matches) >= count:
                return matches[count - 1]
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.output()}"
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} within {timeout_s} s: {self.output()}")

    def interrupt(self, timeout_s: float = 30.0) -> int:
        """Press Ctrl-C and return the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End it and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


Start = Callable[..., Background]


def served_at(server: Background) -> Endpoint:
    """Where a ``tsm-edge serve`` that was started listens; waits until it does."""
    match = server.wait_for(r"serving on (\S+):(\d+)")
    server.wait_for("tunnel first|other machines can connect")
    return Endpoint(match[1], int(match[2]))
