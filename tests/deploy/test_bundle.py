from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from conftest import RunProgram

from tsm_edge.deploy.bundle import write_bundle
from tsm_edge.errors import DeployError


def test_what_it_says_in_its_readme_works(run_program: RunProgram, model: Path, tmp_path: Path) -> None:
    result = run_program("deploy", str(model), "--bundle", "for-the-board.tar.gz")
    assert result.returncode == 0, result.stderr
    assert "model.so" in result.stdout
    device = tmp_path / "device"
    device.mkdir()
    commands = "tar xzf ../for-the-board.tar.gz && cd gestures && sha256sum -c SHA256SUMS && ./tsm-runner verify"
    done = subprocess.run(["sh", "-c", commands], cwd=device, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 5
    assert '"passed": true' in done.stdout
    readme = (device / "gestures/README.txt").read_text()
    for command in ("tar xzf", "cd gestures", "sha256sum -c SHA256SUMS", "./tsm-runner verify"):
        assert command in readme


def test_the_same_model_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    first = write_bundle(model, tmp_path / "a.tar.gz")
    copied = tmp_path / "elsewhere" / "gestures"
    shutil.copytree(model, copied)
    for path in copied.iterdir():
        os.utime(path, (time.time() + 1000,) * 2)
        path.chmod(0o600)
    second = write_bundle(copied, tmp_path / "b.tgz")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.size == first.path.stat().st_size
    with tarfile.open(first.path) as archive:
        names = {entry.name: (entry.mode, entry.mtime, entry.uid, entry.uname) for entry in archive}
    assert names["gestures/tsm-runner"] == (0o755, 0, 0, "")
    assert names["gestures/manifest.json"] == (0o644, 0, 0, "")
    assert "gestures/model.onnx" not in names


def test_mistakes(run_program: RunProgram, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"model\.zip: expected a name that ends in \.tar\.gz"):
        write_bundle(model, tmp_path / "model.zip")
    (tmp_path / "file").touch()
    with pytest.raises(DeployError, match=r"x\.tar\.gz: cannot be written \((Not a directory|File exists)\)"):
        write_bundle(model, tmp_path / "file" / "x.tar.gz")
    result = run_program("deploy", str(model), "--bundle", "x.tar.gz", "--dry-run")
    assert "x.tar.gz (nothing is written)" in result.stdout
    assert not (tmp_path / "x.tar.gz").exists()
