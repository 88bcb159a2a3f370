"""Code for Arm, run under QEMU and compared with ONNX Runtime; skipped, and said so, where QEMU is not installed."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import compile_onnx
from onnx_graphs import GraphBuilder, assert_nan_goes_through, small_network

from tsm_edge.artifact.folder import MODEL_ONNX, RUNNER, Artifact
from tsm_edge.artifact.golden import make_golden
from tsm_edge.artifact.reference import Reference
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.runner_report import read_told
from tsm_edge.cards import NetworkSpec, Preprocess, TargetCard, load_model, load_target
from tsm_edge.cards.architecture import architecture
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import ArtifactError
from tsm_edge.export.onnx import ExportRequest, export_onnx
from tsm_edge.files.atomic import file_sha256
from tsm_edge.verify import emulated
from tsm_edge.verify.emulated import emulated_outputs, emulator_command, verify_emulated

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


def need_qemu(name: str) -> None:
    """Skip the test where the emulator of a target, or its C library, is missing."""
    try:
        emulator_command(load_target(name))
    except ArtifactError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def small_mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNet-V2 as ONNX, narrow and for small frames: QEMU is slow."""
    network = NetworkSpec("mobilenet-v2", 27, width=0.35, frame_size=64)
    card = dataclasses.replace(
        load_model("mobilenetv2-jester"), name="small", network=network, preprocess=Preprocess(short_side=72, crop=64)
    )
    path = tmp_path_factory.mktemp("emulate") / MODEL_ONNX
    export_onnx(ExportRequest(card, path))
    return path


@pytest.mark.parametrize("name", ["raspberry-pi-4-32bit", "android-arm64", "jetson-nano-cpu"])
def test_mobilenet_on_a_board(name: str, small_mobilenet: Path, tmp_path: Path) -> None:
    need_qemu(name)
    artifact = compile_model(CompileRequest(load_target(name), tmp_path / name, onnx=small_mobilenet))
    result = verify_emulated(artifact, frames=6, threads=2)
    assert result.ran == f"tsm-runner on qemu-{architecture(artifact.manifest.target.cpu.triple)}"
    assert len(result.checks) == 12
    assert result.passed, result.checks
    assert all(check.magnitude > 0 for check in result.checks)


@pytest.mark.parametrize("name", ["raspberry-pi-4", "android-arm64"])
def test_a_boards_runner_benches(name: str, tmp_path: Path) -> None:
    """With the model beside it, and with the model inside; times of an emulator mean nothing."""
    need_qemu(name)
    artifact = compile_onnx(small_network(), tmp_path / "board", load_target(name), runner=True)
    command = [*emulator_command(load_target(name)), str(artifact.path / RUNNER), "bench"]
    options = ["--frames", "70", "--warmup", "0", "--threads", "2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=True)
    plan = Plan(frames=70, warmup_s=0, power="none")
    result = read_told(done.stdout, "board", artifact, plan, threads=2, seconds=120.0)
    assert result.latency_ms.p90 is not None
    assert result.verification is not None
    assert result.verification.passed
    assert result.environment_before is not None
    assert (result.environment_before.architecture, result.model.target) == ("aarch64", name)


@pytest.mark.parametrize("name", ["raspberry-pi-4", "raspberry-pi-3-32bit"])
def test_the_k_loop_by_blocks(name: str, tmp_path: Path) -> None:
    """Caches so small that every panel of weights outgrows them."""
    need_qemu(name)
    graph = GraphBuilder(9, 7)
    x = graph.relu(graph.conv(graph.frame, 48))
    y = graph.relu(graph.conv(graph.shift(x, 20), 100))
    y = graph.relu(graph.add(graph.conv(y, 48), x))
    model = graph.model(graph.head(graph.conv(y, 30, 3, 2), 5))
    target = load_target(name)
    target = dataclasses.replace(target, cpu=dataclasses.replace(target.cpu, l1d_kib=1, l2_kib=1))
    artifact = compile_onnx(model, tmp_path / name, target, runner=True)
    blocked = [kernel.rule for kernel in artifact.manifest.kernels if "k by" in kernel.tile]
    assert blocked == ["pointwise", "pointwise", "conv3x3"]
    result = verify_emulated(artifact, frames=3, threads=2)
    assert result.passed, result.checks


def half_network() -> onnx.ModelProto:
    """A layer of every kind: fused blocks, Winograd, groups, pooling, operators with rules of their own and without."""
    graph = GraphBuilder(18, 14)
    x = graph.relu(graph.conv(graph.frame, 24, 7, 2))
    graph.feed_back(graph.cache(graph.shapes[x]), x)
    x = graph.relu(graph.conv(graph.shift(x, 3), 64, 3))
    x = graph.relu(graph.conv(graph.conv(x, 64, 3), 32))
    y = graph.relu(graph.conv(graph.shift(x, 4), 96))
    x = graph.add(graph.conv(graph.relu(graph.depthwise(y)), 32), x)
    x = graph.add(x, graph.node("Sigmoid", [graph.conv(x, 32, 3, groups=2)], graph.shapes[x]))
    x = graph.node("Erf", [graph.max_pool(x, 3, 2, (1, 1, 1, 1))], (1, 32, 5, 4))
    y = graph.shift(x, 5)
    x = graph.add(graph.relu(graph.conv(y, 32)), y)
    return graph.model(graph.head(x, 5))


def test_half_precision_on_a_raspberry_pi_5(tmp_path: Path) -> None:
    need_qemu("raspberry-pi-5")
    precision = precision_named("fp16")
    target = load_target("raspberry-pi-5")
    artifact = compile_onnx(half_network(), tmp_path / "half", target, runner=True, precision=precision)
    result = verify_emulated(artifact, frames=4, threads=2)
    assert result.passed, result.checks
    # Sums in half differ from those in single precision, and by no more than they may.
    assert all(check.error > 1e-4 for check in result.checks[1:])
    rules = {kernel.rule for kernel in artifact.manifest.kernels}
    assert rules >= {"conv7x7", "grouped", "elementwise", "generic", "max_pool", "average_pool", "shift", "copy"}
    assert "winograd" in rules
    assert rules & {"inverted_residual", "expand_depthwise"}


def test_half_precision_is_not_run_by_a_cpu_without_it(tmp_path: Path) -> None:
    """QEMU refuses the instructions, as the CPU does."""
    need_qemu("raspberry-pi-5")
    graph = GraphBuilder(4, 4)
    model = graph.model(graph.head(graph.conv(graph.frame, 8), 3))
    precision = precision_named("fp16")
    artifact = compile_onnx(model, tmp_path / "half", load_target("raspberry-pi-5"), runner=True, precision=precision)
    qemu = emulator_command(load_target("raspberry-pi-4"))
    done = subprocess.run([*qemu, str(artifact.path / RUNNER), "bench", "--frames", "1"], capture_output=True)
    assert done.returncode == -signal.SIGILL


def test_threads_that_cannot_be_are_refused_before_anything_runs() -> None:
    with pytest.raises(ArtifactError, match="threads is 65, expected 1 to 64"):
        verify_emulated(Path("nowhere"), threads=65)


def test_full_size_mobilenet_on_a_raspberry_pi_4(golden_artifact: tuple[Artifact, Path], tmp_path: Path) -> None:
    need_qemu("raspberry-pi-4")
    onnx = golden_artifact[0].path / MODEL_ONNX
    artifact = compile_model(CompileRequest(load_target("raspberry-pi-4"), tmp_path / "pi", onnx=onnx))
    result = verify_emulated(artifact, frames=2)
    assert artifact.manifest.frame_shape == (1, 3, 224, 224)
    assert result.passed, result.checks


def test_stems_and_shifts_by_lanes(tmp_path: Path) -> None:
    """Frames and caches whose values 64-bit Arm takes out of vectors, as no other target does."""
    need_qemu("raspberry-pi-4")
    graph = GraphBuilder(13, 9)
    for out, kernel, stride in ((17, 3, 2), (24, 7, 2), (8, 3, 1), (5, 5, 1), (9, (1, 3), (1, 2))):
        stem = graph.conv(graph.frame, out, kernel, stride)
        graph.feed_back(graph.cache(graph.shapes[stem]), stem)
    for channels, shifted in ((16, 2), (24, 3), (9, 4), (23, 7), (64, 8)):
        x = graph.relu(graph.conv(graph.frame, channels))
        x = graph.conv(graph.shift(x, shifted), 13)
        graph.feed_back(graph.cache(graph.shapes[x]), x)
    model = graph.model(graph.head(graph.conv(graph.frame, 9), 3))
    artifact = compile_onnx(model, tmp_path / "out", load_target("raspberry-pi-4"), runner=True)
    result = verify_emulated(artifact, frames=2)
    assert result.passed, result.checks


@pytest.mark.parametrize("name", ["raspberry-pi-4", "raspberry-pi-3-32bit"])
def test_nan_goes_through(name: str, tmp_path: Path) -> None:
    """The runner's frames are bytes: the model makes NaN itself, of the roots of a few negative numbers."""
    need_qemu(name)
    graph = GraphBuilder(13, 9)
    x = graph.node("Add", [graph.conv(graph.frame, 12), graph.constant(2.7)], (1, 12, 13, 9))
    x = graph.node("Sqrt", [x], (1, 12, 13, 9))
    kernels = [
        graph.clip(graph.conv(graph.shift(x, 2), 9), -0.5, 0.75),
        graph.relu(graph.depthwise(x)),
        graph.relu(graph.conv(x, 10, 3)),
        graph.relu(graph.depthwise(graph.clip(graph.conv(graph.shift(x, 3), 40), 0, 6))),
        graph.max_pool(x, 3, 2, (1, 1, 1, 1)),
        graph.node("HardSwish", [x], (1, 12, 13, 9)),
        graph.node("Max", [x, graph.conv(graph.frame, 12)], (1, 12, 13, 9)),
        graph.node("LeakyRelu", [x], (1, 12, 13, 9)),
        graph.node("Relu", [graph.node("AveragePool", [x], (1, 12, 12, 8), kernel_shape=[2, 2])], (1, 12, 12, 8)),
    ]
    for tensor in kernels:
        graph.feed_back(graph.cache(graph.shapes[tensor]), tensor)
    model = graph.model(graph.head(graph.conv(graph.frame, 4), 3))
    artifact = compile_onnx(model, tmp_path / "out", load_target(name), runner=True)
    golden = make_golden(Reference(artifact.path / MODEL_ONNX, artifact.manifest), artifact.manifest, frames=2)
    for found, (logits, *caches) in zip(emulated_outputs(artifact, golden, threads=2), golden.outputs, strict=True):
        for ours, theirs in zip(found, [logits, logits, *caches], strict=True):
            assert_nan_goes_through(ours, theirs)
    shares = [np.isnan(cache).mean() for cache in golden.outputs[0][-len(kernels) :]]
    assert all(0 < share < 0.9 for share in shares), shares


def test_code_for_this_machine_runs_without_an_emulator(
    artifact_with_runner: Artifact, run_program: RunProgram
) -> None:
    done = run_program("verify", str(artifact_with_runner.path), "--emulate", "--frames", "5", "--threads", "2")
    assert done.returncode == 0, done.stderr
    assert "tsm-runner on this machine against ONNX Runtime, 5 frames" in " ".join(done.stdout.split())
    assert done.stderr.splitlines()[-1].startswith("all outputs agree")


def test_a_runner_that_computes_something_else_fails(
    artifact_with_runner: Artifact, native: TargetCard, tmp_path: Path
) -> None:
    other = compile_onnx(small_network(seed=9), tmp_path / "other", native, runner=True)
    shutil.copytree(artifact_with_runner.path, tmp_path / "mixed")
    shutil.copy(other.path / RUNNER, tmp_path / "mixed" / RUNNER)
    listed = {**artifact_with_runner.manifest.files, RUNNER: file_sha256(other.path / RUNNER)}
    mixed = Artifact(tmp_path / "mixed", dataclasses.replace(artifact_with_runner.manifest, files=listed))
    with pytest.raises(ArtifactError, match=r"not the model\.so that this tsm-runner was made for"):
        verify_emulated(mixed)
    shutil.copy(other.library, mixed.library)
    result = verify_emulated(mixed)
    assert not result.passed
    assert [check.name for check in result.checks if not check.passed][:2] == ["logits", "logits (explicit caches)"]


@pytest.mark.parametrize(
    ("script", "message"),
    [("kill -ILL $$", "stopped by SIGILL"), ("echo no >&2; exit 2", "tsm-runner: no"), ("exit 3", "exit code 3")],
)
def test_a_runner_that_stops_is_named(
    artifact_with_runner: Artifact, tmp_path: Path, script: str, message: str
) -> None:
    shutil.copytree(artifact_with_runner.path, tmp_path / "broken")
    (tmp_path / "broken" / RUNNER).write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(ArtifactError, match=message):
        verify_emulated(Artifact(tmp_path / "broken", artifact_with_runner.manifest))


def test_an_artifact_without_a_runner(small_artifact: Artifact, run_program: RunProgram) -> None:
    done = run_program("verify", str(small_artifact.path), "--emulate")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("has no tsm-runner; compile again without --no-runner")


def test_a_missing_emulator_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, program in (("raspberry-pi-4", "qemu-aarch64"), ("raspberry-pi-3-32bit", "qemu-arm")):
        with pytest.raises(ArtifactError, match=f"{program} is not installed.*apt-get install qemu-user"):
            emulator_command(load_target(name))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("raspberry-pi-3", ["qemu-aarch64", "-cpu", "cortex-a53"]),
        ("raspberry-pi-5", ["qemu-aarch64", "-cpu", "cortex-a76"]),
        ("android-pixel-1", ["qemu-aarch64", "-cpu", "cortex-a57"]),
        ("raspberry-pi-4-32bit", ["qemu-arm"]),
    ],
)
def test_the_emulator_lacks_what_the_cpu_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, options: list[str]
) -> None:
    program = tmp_path / options[0]
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("QEMU_LD_PREFIX", str(tmp_path))
    assert emulator_command(load_target(name)) == [str(program), *options[1:]]


def test_the_emulator_is_told_where_the_c_library_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_qemu("raspberry-pi-4")
    monkeypatch.delenv("QEMU_LD_PREFIX", raising=False)
    assert emulator_command(load_target("raspberry-pi-4"))[-2:] == ["-L", "/usr/aarch64-linux-gnu"]
    assert "-L" not in emulator_command(load_target("android-arm64"))
    monkeypatch.setitem(emulated.SYSTEMS, "aarch64", (str(tmp_path), "libc6-arm64-cross"))
    with pytest.raises(ArtifactError, match=r"has no C library, expected .* raspberry-pi-4; .*libc6-arm64-cross"):
        emulator_command(load_target("raspberry-pi-4"))
