"""Ending a program with ``kill -9`` at random moments: for sweeps that are not part of the default run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

# Of each command; four commands make 200. TSM_EDGE_KILLS=5 gives a sample.
KILLS = int(os.environ.get("TSM_EDGE_KILLS", "50"))


def sweep(start: Callable[[int], subprocess.Popen[bytes]], check: Callable[[], None], seed: int) -> None:
    """Start a program again and again, kill it, and check what it left.

    Parameters
    ----------
    start : callable
        Starts the program, in a process group of its own; is given the number of the try.
    check : callable
        Fails where neither the earlier result nor the new one is there, whole.
    seed : int
        Of the moments. Every other one is near the end, where things get their names.
    """
    chance = random.Random(seed)
    began_s = time.monotonic()
    assert start(0).wait(300) == 0
    usual_s = time.monotonic() - began_s
    check()
    for number in range(1, KILLS + 1):
        share = chance.uniform(0.0, 1.1) if number % 2 else chance.uniform(0.8, 1.1)
        process = start(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(share * usual_s)
        with contextlib.suppress(ProcessLookupError):
            # Half of the time the programs that it started live on.
            end = os.killpg if chance.random() < 0.5 else os.kill
            end(process.pid, signal.SIGKILL)
        process.wait(60)
        check()
    assert start(KILLS + 1).wait(300) == 0
    check()
