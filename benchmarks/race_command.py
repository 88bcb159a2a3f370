"""What the commands that time things in turns share: their options, and how they run and end."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from stages import StageError

from tsm_edge.errors import TsmEdgeError


def say(text: str) -> None:
    """Tell on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)


def add_race_options(
    parser: argparse.ArgumentParser, threads: Sequence[int], rounds: int, block: int, timed: str
) -> None:
    """Give a parser ``--threads``, ``--rounds``, ``--block``, ``--nice`` and ``--json``; ``timed``: frames or clips."""
    add = parser.add_argument
    add("--threads", nargs="+", type=int, default=list(threads), help="one race for each (%(default)s)")
    add("--rounds", type=int, default=rounds, help="turns of each that races (%(default)s)")
    add("--block", type=int, default=block, help=f"timed {timed} of a turn (%(default)s)")
    add("--nice", type=int, default=0, help="niceness of the timed processes; below 0 only as root (%(default)s)")
    add("--json", type=Path, help="write all samples here")


def run_in_folder(run: Callable[[Path], None], work: Path | None = None) -> int:
    """Run in ``work``, or a temporary folder; return the exit code: 2 after an error, which is one line."""
    try:
        with tempfile.TemporaryDirectory(prefix="tsm-edge-race-") as scratch:
            folder = (work or Path(scratch)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            run(folder)
    except (StageError, TsmEdgeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
