"""Who gives way: work beside the network to the network, a process to the one that began it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def be_last() -> None:
    """Let everything else go first: this thread, or a process that has only this one, computes in what is left over."""
    if sys.platform.startswith("linux"):  # elsewhere this would slow the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, 19)


def die_before_parent() -> None:
    """Where memory runs out, this process ends and not the one that began it (Linux only)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
