"""The priority of a thread: work beside the network takes what that leaves over."""

from __future__ import annotations

import contextlib
import os
import sys


def be_last() -> None:
    """Let everything else go first: this thread, or a process that has only this one, computes in what is left over."""
    if sys.platform.startswith("linux"):  # elsewhere this would slow the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, 19)
