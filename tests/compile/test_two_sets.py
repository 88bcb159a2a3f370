"""Two sets of int8 kernels in one file for Android: the CPU it runs on decides, and both are exact."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.artifact.folder import RUNNER, Artifact
from tsm_edge.cards import load_target
from tsm_edge.cards.precision import INT8
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.compile.quantised import noise

SIZE = (16, 20)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("phone")
    g = GraphBuilder(*SIZE)
    x = g.relu(g.conv(g.frame, 8, 3, 2))
    y = g.relu(g.depthwise(g.relu(g.conv(g.shift(x, 2), 24))))
    onnx.save(g.model(g.head(g.add(g.conv(y, 8), x), 5)), str(folder / "model.onnx"))
    return compile_model(
        CompileRequest(
            load_target("android-arm64"),
            folder / "out",
            onnx=folder / "model.onnx",
            precision=INT8,
            calibration=lambda preprocess: noise(SIZE, preprocess),
        )
    )


@pytest.mark.parametrize(("cpu", "dots"), [("cortex-a53", False), ("cortex-a57", False), ("cortex-a76", True)])
def test_the_cpu_decides_and_both_are_exact(cpu: str, dots: bool, artifact: Artifact, tmp_path: Path) -> None:
    """QEMU refuses a dot product as a Cortex-A53, and lists the instructions that it translates."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: apt-get install qemu-user")
    runner, log = artifact.path / RUNNER, tmp_path / "instructions"
    command = ["qemu-aarch64", "-cpu", cpu, "-d", "in_asm", "-D", str(log), str(runner), "verify", "--threads", "2"]
    result = subprocess.run(command, cwd=artifact.path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert artifact.manifest.tolerance == 0
    words = re.findall(r"^0x[0-9a-f]+: +([0-9a-f]{8}) ", log.read_text("utf-8", "replace"), re.MULTILINE)
    assert len(words) > 1000
    assert any(is_dot(int(word, 16)) for word in words) == dots


def is_dot(word: int) -> bool:
    """SDOT of vectors, whole or by lane (Arm Architecture Reference Manual); QEMU's disassembler may not know it."""
    return word & 0xFFE0FC00 == 0x4E809400 or word & 0xFFC0F400 == 0x4F80E000
