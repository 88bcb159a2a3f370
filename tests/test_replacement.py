"""Readers of an artifact that is replaced again and again never fail, and never mix the old one with the new one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tsm_edge.artifact.folder import LIBRARY, Artifact, latest_artifact, load_artifact, read_listed
from tsm_edge.deploy.bundle import write_bundle
from tsm_edge.deploy.files import files_of
from tsm_edge.errors import ArtifactError
from tsm_edge.files.replacement import again_if_replaced
from tsm_edge.session.local import OnlineSession
from tsm_edge.verify.compare import verify_artifact

WRITER = """
import itertools, shutil, sys, time
from pathlib import Path
from tsm_edge.compile.package.output import writing_artifact
print("ready", flush=True)
for source in itertools.cycle(sys.argv[3:]):
    with writing_artifact(Path(sys.argv[1])) as folder:
        for file in Path(source).iterdir():
            shutil.copy(file, folder)
    time.sleep(float(sys.argv[2]))
"""


def session(path: Path, _scratch: Path) -> object:
    with OnlineSession(path) as opened:
        shape = opened.manifest.frame_shape
        return opened.step(np.zeros(shape, np.float32)).shape[-1] == opened.manifest.classes


READERS: dict[str, Callable[[Path, Path], object]] = {
    "load": lambda path, _scratch: load_artifact(path),
    "latest": lambda path, _scratch: latest_artifact(path.parent),
    "session": session,
    "verify": lambda path, _scratch: verify_artifact(path, frames=2).passed,
    "bundle": lambda path, scratch: write_bundle(path, scratch / "x.tar.gz"),
    "files": again_if_replaced(lambda path, _scratch: files_of(load_artifact(path))),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_during_replacement(
    reader: str, small_artifact: Artifact, other_artifact: Artifact, tmp_path: Path
) -> None:
    model = tmp_path / "out" / "model"
    sources = [str(small_artifact.path), str(other_artifact.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # A bundle takes longer to read than the folder to replace: without a pause it could try for ever.
    pause_s = "0.15" if reader == "bundle" else "0.005"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(model), pause_s, *sources], stdout=subprocess.PIPE, env=environment
    ) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            while not model.exists():
                assert writer.poll() is None
            for _ in range(10 if reader == "bundle" else 40):
                assert READERS[reader](model, tmp_path)
            assert writer.poll() is None
        finally:
            writer.kill()


def test_what_was_loaded_before_is_not_mixed_with_what_is_there_now(
    small_artifact: Artifact, other_artifact: Artifact, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.symlink_to(small_artifact.path)
    artifact = load_artifact(model)
    model.unlink()
    model.symlink_to(other_artifact.path)
    for name in (LIBRARY, "manifest.json"):
        with pytest.raises(ArtifactError, match=f"{name}: was replaced since the artifact was loaded; run it again"):
            read_listed(artifact, name)
    with pytest.raises(ArtifactError, match="another manifest inside"):
        OnlineSession(artifact)


def test_a_failure_of_another_kind_is_told_at_once(tmp_path: Path) -> None:
    calls = []

    @again_if_replaced
    def read(path: Path) -> None:
        calls.append(path)
        raise ArtifactError("damaged", "compile it again")

    with pytest.raises(ArtifactError):
        read(tmp_path)
    assert len(calls) == 1
    with pytest.raises(ArtifactError):
        read(tmp_path / "absent")
    assert len(calls) == 2
