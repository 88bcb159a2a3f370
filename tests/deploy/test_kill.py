"""``kill -9`` at random moments of a deployment: the earlier model or the new one is on the device, whole."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from killing import sweep

pytestmark = pytest.mark.slow


def contents(folder: Path) -> dict[str, str]:
    """Name and hash of each file that is not hidden."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def test_deploy(program_environment: dict[str, str], board: Any, model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    (other / "tsm_edge.h").write_text("/* of another model */")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["files"]["tsm_edge.h"] = hashlib.sha256((other / "tsm_edge.h").read_bytes()).hexdigest()
    (other / "manifest.json").write_text(json.dumps(manifest))
    models = (model, other)
    expected = [{name: sha for name, sha in contents(path).items() if name != "model.onnx"} for path in models]
    there = board.home / "there"

    def deploy(number: int) -> subprocess.Popen[bytes]:
        words = ["deploy", str(models[number % 2]), "board-anew:there", "--ssh-config", str(board.config)]
        return subprocess.Popen(
            [sys.executable, "-m", "tsm_edge.cli", *words, "--no-verify"],
            env=program_environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def check() -> None:
        # A script that renames over there goes on without us, for a moment.
        deadline_s = time.monotonic() + 5
        while contents(there) not in expected and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert contents(there) in expected

    sweep(deploy, check, seed=4)
    assert not [path.name for path in there.iterdir() if path.name.startswith(".")]
