"""The C example, compiled as its own comment says, against nothing but the header and the library of an artifact."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from artifacts import compile_onnx, run_cc
from onnx_graphs import Floats, Reference, assert_close, small_network

from tsm_edge.artifact.folder import HEADER_FILE, LIBRARY, MODEL_ONNX, Artifact
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.session.local import OnlineSession

SOURCE = Path(__file__).resolve().parents[1] / "examples" / "step.c"


def build(artifact: Artifact, folder: Path, target: TargetCard) -> Path:
    """Compile the example beside a folder that has the header and the library only."""
    model, program = folder / "model", folder / "step"
    model.mkdir()
    for name in (HEADER_FILE, LIBRARY):
        shutil.copy(artifact.path / name, model)
    line = re.search(r"^ \* +cc (.*?-o step)\b", SOURCE.read_text(), re.MULTILINE)
    assert line is not None
    words = line[1].replace("'$ORIGIN/DIR'", f"$ORIGIN/{model.name}").replace("DIR", str(model)).split()
    files = {"step.c": str(SOURCE), "step": str(program)}
    run_cc(target, "-Wall", "-Wextra", "-Werror", *(files.get(word, word) for word in words))
    return program


def run(command: list[str | Path], frames: list[Floats]) -> Floats:
    """Logits the example prints, [frames, classes]."""
    data = b"".join(frame.tobytes() for frame in frames)
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    return np.array([line.split() for line in done.stdout.decode().splitlines()], np.float32)


def test_the_example_computes_what_the_session_computes(
    small_artifact: Artifact, native: TargetCard, tmp_path: Path
) -> None:
    frames = Reference(small_artifact.path / MODEL_ONNX).frames(4)
    found = run([build(small_artifact, tmp_path, native)], frames)
    with OnlineSession(small_artifact) as session:
        assert np.array_equal(found, np.concatenate([session.step(frame) for frame in frames]))


def test_the_example_runs_on_another_machine(tmp_path: Path) -> None:
    emulator, system = "qemu-aarch64", "/usr/aarch64-linux-gnu"
    if not shutil.which(emulator) or not Path(system, "lib/libc.so.6").exists():
        pytest.skip(f"needs {emulator} and a C library below {system}: apt-get install qemu-user libc6-arm64-cross")
    card = load_target("raspberry-pi-4")
    artifact = compile_onnx(small_network(), tmp_path / "model", card)
    folder = tmp_path / "device"
    folder.mkdir()
    program = build(artifact, folder, card)
    reference = Reference(artifact.path / MODEL_ONNX)
    frames = reference.frames(3)
    found = run([emulator, "-L", system, program], frames)
    assert_close(found, np.concatenate(reference.stream(frames)))


def test_the_example_is_short() -> None:
    assert len(SOURCE.read_text().splitlines()) <= 40
