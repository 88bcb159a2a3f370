"""A step of a model in integers on the camera's bytes: the same logits, and no frame of floats in between."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.artifact.folder import Artifact
from tsm_edge.artifact.golden import network_input
from tsm_edge.artifact.reference import Reference
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.architecture import runs_here
from tsm_edge.cards.precision import INT8
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.compile.quantised import noise
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession
from tsm_edge.verify.emulated import emulator_command

SIZE = (20, 28)


def compiled(target: TargetCard, folder: Path) -> tuple[Artifact, Program]:
    g = GraphBuilder(*SIZE)
    x = g.relu(g.conv(g.frame, 8, 3, 2))
    onnx.save(g.model(g.head(g.relu(g.conv(g.shift(x, 2), 24)), 5)), str(folder / "model.onnx"))
    programs: list[Program] = []
    request = CompileRequest(
        target,
        folder / "out",
        onnx=folder / "model.onnx",
        precision=INT8,
        calibration=lambda preprocess: noise(SIZE, preprocess),
    )
    artifact = compile_model(request, inspect=lambda program, _: programs.append(program))
    return artifact, programs[0]


def pictures(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return list(random.integers(0, 256, (count, *SIZE, 3), np.uint8))


@pytest.fixture(scope="module")
def native_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Program]:
    target = next((card for name in ("x86-64-v4-vnni", "x86-64-v3-vnni") if runs_here(card := load_target(name))), None)
    if target is None:
        pytest.skip("this CPU has no VNNI")
    return compiled(target, tmp_path_factory.mktemp("bytes"))


def test_bytes_and_floats_give_the_same_logits(native_bytes: tuple[Artifact, Program]) -> None:
    artifact, program = native_bytes
    assert [call.spec.rule for call in program.byte_calls] == ["frame_levels"]
    assert program.replaced_calls == 1
    library = Library(artifact)
    for threads in (1, 3):
        on_bytes, on_floats, mixed = (OnlineSession(library, threads) for _ in range(3))
        for index, picture in enumerate(pictures(6)):
            frame = network_input(picture, artifact.manifest.preprocess)
            wanted = on_floats.step(frame).copy()
            np.testing.assert_array_equal(on_bytes.step_bytes(picture), wanted)
            found = mixed.step_bytes(picture) if index % 2 else mixed.step(frame)
            np.testing.assert_array_equal(found, wanted)
        assert wanted.any()


def test_two_precisions_and_four_streams(native_bytes: tuple[Artifact, Program], small_artifact: Artifact) -> None:
    """Interleaved in one process, each with feedback and a reset: what each reference says."""
    streams = []
    for artifact in (native_bytes[0], small_artifact):
        library = Library(artifact)
        for seed, threads in ((10, 1), (11, 2)):
            reference = Reference(artifact.reference, artifact.manifest)
            frames = np.random.default_rng(seed).standard_normal((6, *artifact.manifest.frame.shape), np.float32)
            streams.append((OnlineSession(library, threads), reference, frames, artifact.manifest))
    for step in range(6):
        for session, reference, frames, manifest in streams:
            if step == 4:
                session.reset()
                reference.reset()
            wanted, found = reference.step(frames[step])[0].reshape(-1), session.step(frames[step]).reshape(-1)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=manifest.tolerance * np.abs(wanted).max())
    assert {manifest.precision for *_, manifest in streams} == {"fp32", "int8"}


@pytest.mark.parametrize("name", ["raspberry-pi-4", "raspberry-pi-5"])
def test_on_arm(name: str, tmp_path: Path) -> None:
    """``tsm-runner stream`` takes cropped frames as bytes."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: apt-get install qemu-user")
    target = load_target(name)
    artifact, program = compiled(target, tmp_path)
    assert program.byte_calls
    given = pictures(4)
    command = [*emulator_command(target), str(artifact.runner), "stream"]
    data = b"".join(picture.tobytes() for picture in given)
    out = subprocess.run(command, input=data, check=True, stdout=subprocess.PIPE, cwd=artifact.path).stdout
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == len(given)
    reference = Reference(artifact.reference, artifact.manifest)
    for line, picture in zip(lines, given, strict=True):
        logits = reference.step(network_input(picture, artifact.manifest.preprocess))[0].reshape(-1)
        likely = np.exp(logits - logits.max())
        assert line["index"] == int(logits.argmax())
        assert line["probability"] == pytest.approx(float(likely.max() / likely.sum()), abs=6e-5)
