"""Models in 8-bit integers under QEMU as the CPUs of Arm boards: equal to ONNX Runtime on the same integers.

Minutes: ``pytest -m slow tests/test_emulate_int8.py``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tsm_edge.cards import load_model, load_target
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.verify.emulated import emulator_command, verify_emulated
from tsm_edge.verify.quality import LEAST_DB

# Of which QEMU is the CPU named here: it refuses instructions that the CPU lacks.
BOARDS = {
    "raspberry-pi-3": "cortex-a53",
    "jetson-nano-cpu": "cortex-a57",
    "raspberry-pi-4": "cortex-a72",
    "raspberry-pi-5": "cortex-a76",
}


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_mobilenetv2_is_exact(board: str, tmp_path: Path) -> None:
    """Logits and every cache of 16 frames with feedback, and a reset half way."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: apt-get install qemu-user")
    assert BOARDS[board] in emulator_command(load_target(board))
    check_exact("mobilenetv2-jester", board, tmp_path)


@pytest.mark.slow
def test_resnet50_is_exact(tmp_path: Path) -> None:
    """The same of the larger network, on the board with dot products."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: apt-get install qemu-user")
    check_exact("resnet50-kinetics", "raspberry-pi-5", tmp_path)


def check_exact(model: str, board: str, folder: Path) -> None:
    """Compile, run 16 frames, compare."""
    request = CompileRequest(
        load_target(board), folder / board, load_model(model), seed=0, precision=precision_named("int8")
    )
    result = verify_emulated(compile_model(request), frames=16)
    assert result.tolerance == 0
    assert result.passed, result.checks
    assert all(check.error == 0 and check.magnitude > 0 for check in result.checks)
    assert result.quality_db is not None
    assert result.quality_db >= LEAST_DB
