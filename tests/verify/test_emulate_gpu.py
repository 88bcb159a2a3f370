"""Models for GPUs, emulated: the artifact that a Jetson gets, under QEMU with a stand-in for its driver."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from artifacts import compile_onnx
from onnx_graphs import small_network

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import load_model, load_target
from tsm_edge.cards.precision import precision_named
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


# Largest errors of logits and of caches. The golden weights multiply what is lost on the way: with exact sums, halfs
# alone make errors of 1.0e-2 and 2.8e-2 (2 frames, rounded in PyTorch); the sums of halfs are on top of that.
LIMITS = {
    ("fp32", "golden"): (2e-5, 2e-5),
    ("fp16", "initial"): (5e-3, 2e-2),
    ("fp16", "golden"): (5e-2, 1e-1),
    ("fp16-fp32", "golden"): (5e-3, 2e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "weights"), LIMITS)
@pytest.mark.parametrize("name", ["jetson-nano", "jetson-tx2"])
def test_the_whole_network(name: str, precision: str, weights: str, golden_checkpoint: Path, tmp_path: Path) -> None:
    """Three frames with feedback, and a reset after the first; a minute each. The run: pytest -m slow tests/verify."""
    need_qemu()
    request = CompileRequest(
        load_target(name),
        tmp_path / name,
        load_model("mobilenetv2-jester"),
        checkpoint=golden_checkpoint if weights == "golden" else None,
        precision=precision_named(precision),
    )
    result = verify_emulated(compile_model(request), frames=3)
    errors = {check.name: check.error for check in result.checks}
    assert len(errors) == 12  # logits of both faces, ten caches
    assert result.passed or (precision, weights) == ("fp16", "golden")
    for check, error in errors.items():
        assert error <= LIMITS[precision, weights]["logits" not in check], (check, error)
