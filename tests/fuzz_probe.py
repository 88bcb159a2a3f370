"""A target of ``benchmarks/fuzz`` that does, seed by seed, everything the driver is to notice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tsm_edge.errors import TsmEdgeError

name = "fuzz_probe"


def make(seed: int) -> int:
    """The seed itself."""
    return seed


def run(given: int) -> None:
    """Do what the seed stands for."""
    match given:
        case 0:
            Path("out").mkdir()
            Path("out/mine.txt").write_text("allowed")
        case 1:
            raise TsmEdgeError("refused in words", "give another seed")
        case 2:
            raise ValueError("a defect")
        case 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 4:
            time.sleep(60)
        case 5:
            bytearray(2**30)
        case 6:
            Path("../../../evil").write_text("beside the output")
        case 7:
            Path(os.environ["FUZZ_PROBE"]).write_text("far away")
        case 8:
            os.write(2, b"a native library speaks\n")
