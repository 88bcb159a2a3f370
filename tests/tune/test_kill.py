"""``kill -9`` of a real tuner, twenty times at random: every trial that was finished is there, the end is the same."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("tuning_process.py")
KILLS = 20
LONGEST_DELAY_S = 0.02


def tune(records: Path, folder: Path, environment: dict[str, str], *killed: object) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    command = [sys.executable, str(PROGRAM), str(records), str(folder), *map(str, killed)]
    return subprocess.run(command, env=environment, timeout=300, stdout=subprocess.PIPE, text=True, check=False)


def test_it_ends_as_if_undisturbed(program_environment: dict[str, str], tmp_path: Path) -> None:
    chance, whole, killed = random.Random(3), tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    undisturbed = tune(whole, tmp_path / "network", program_environment)
    assert undisturbed.returncode == 0
    # So that it is never done before it is killed.
    most = int(undisturbed.stdout) // (KILLS + 5)
    lines: list[str] = []
    grown = 0
    for kill in range(KILLS):
        when = chance.randint(1, most), chance.uniform(0.0, LONGEST_DELAY_S)
        done = tune(killed, tmp_path / f"network-{kill}", program_environment, *when)
        assert done.returncode == -signal.SIGKILL
        # What follows the last end of a line is the trial in flight.
        found = killed.read_text("utf-8").split("\n")[:-1] if killed.exists() else []
        assert found[: len(lines)] == lines, "a finished trial is gone"
        grown += len(found) > len(lines)
        lines = found
    assert grown > KILLS // 2, "it was hardly ever killed in the middle"
    assert tune(killed, tmp_path / "network-last", program_environment).returncode == 0
    assert killed.read_bytes() == whole.read_bytes()
