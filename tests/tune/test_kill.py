"""``kill -9`` of a real tuner, twenty times at random: every trial that was finished is there, the end is the same."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("tuning_process.py")
KILLS = 20


def start(records: Path, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    folder.mkdir()
    return subprocess.Popen([sys.executable, str(PROGRAM), str(records), str(folder)], env=environment)


def test_it_ends_as_if_undisturbed(program_environment: dict[str, str], tmp_path: Path) -> None:
    chance, whole, killed = random.Random(3), tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    began_s = time.monotonic()
    assert start(whole, tmp_path / "network", program_environment).wait(300) == 0
    usual_s = time.monotonic() - began_s
    lines: list[str] = []
    grown = 0
    for kill in range(KILLS):
        process = start(killed, tmp_path / f"network-{kill}", program_environment)
        # Most of its life is starting; half of the moments are later.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.3, 1.0) * usual_s)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        if killed.exists() and killed.read_bytes() == whole.read_bytes():
            break  # it was done before it was killed
        found = killed.read_text("utf-8").splitlines() if killed.exists() else []
        assert found[: len(lines)] == lines, "a finished trial is gone"
        grown += len(found) > len(lines)
        lines = found
    assert grown >= 3, "it was never killed in the middle"
    assert start(killed, tmp_path / "network-last", program_environment).wait(300) == 0
    assert killed.read_bytes() == whole.read_bytes()
