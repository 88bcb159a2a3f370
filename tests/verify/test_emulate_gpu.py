"""Models for GPUs, emulated: the artifact that a Jetson gets, under QEMU with a stand-in for its driver."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from artifacts import compile_onnx
from onnx_graphs import small_network

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import load_model, load_target
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import ArtifactError
from tsm_edge.verify.emulated import verify_emulated

pytest.importorskip("nvidia.cuda_nvrtc", reason="NVRTC is not installed: pip install tsm-edge[cuda]")


def need_qemu() -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: apt-get install qemu-user libc6-arm64-cross")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("nano")
    return compile_onnx(small_network(), folder / "model", load_target("jetson-nano"), runner=True)


def test_a_jetsons_artifact(nano: Artifact) -> None:
    need_qemu()
    result = verify_emulated(nano, frames=3)
    assert result.ran == "tsm-runner on qemu-aarch64 and a stand-in for its GPU"
    assert result.passed, result.checks
    assert all(check.magnitude > 0 for check in result.checks)


def test_a_kernel_that_fails_is_named(nano: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    need_qemu()
    monkeypatch.setenv("STANDIN_FAIL", "cuStreamSynchronize=700@3")
    with pytest.raises(ArtifactError, match=r"cuStreamSynchronize .* failed: CUDA_ERROR_ILLEGAL_ADDRESS \(700\)"):
        verify_emulated(nano, frames=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jetson-nano", "jetson-tx2", "cuda-sm75"])
def test_the_golden_checkpoint(name: str, golden_checkpoint: Path, tmp_path: Path) -> None:
    """Three frames with feedback, and a reset after the first. Minutes: the stand-in checks every access."""
    need_qemu()
    card = load_model("mobilenetv2-jester")
    artifact = compile_model(CompileRequest(load_target(name), tmp_path / name, card, checkpoint=golden_checkpoint))
    result = verify_emulated(artifact, frames=3)
    assert result.passed, result.checks
    assert max(check.error for check in result.checks) <= 2e-5
