"""One kernel tuned end to end on 64-bit Arm: ``tsm-edge serve`` in an Arm Python under QEMU, and its records used.

``benchmarks/rpc_aarch64.sh WORKDIR`` fetches such a Python; ``TSM_EDGE_ARM_PYTHON=WORKDIR`` names it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from artifacts import compile_onnx
from background import Background, served_at
from onnx_graphs import small_network

import tsm_edge
from tsm_edge.cards import load_target
from tsm_edge.compile.records import read_records

pytestmark = pytest.mark.slow

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def board(tmp_path: Path) -> Background:
    work, qemu = Path(os.environ.get("TSM_EDGE_ARM_PYTHON", "")), shutil.which("qemu-aarch64")
    if qemu is None or not (work / "ready").is_file():
        pytest.skip("no Arm Python under QEMU: make one with benchmarks/rpc_aarch64.sh, name it TSM_EDGE_ARM_PYTHON")
    environment = {
        **os.environ,
        "QEMU_LD_PREFIX": str(work / "root"),
        "PYTHONHOME": str(work / "root/usr"),
        "PYTHONPATH": f"{work / 'site'}:{Path(tsm_edge.__file__).resolve().parents[1]}",
        "TMPDIR": str(tmp_path),
    }
    python = str(work / "root/usr/bin/python3.11")
    command = [qemu, python, "-m", "tsm_edge.cli", "serve", "--port", "0", "--key", "board"]
    return Background(command, tmp_path / "board.log", environment)


def test_one_kernel_is_tuned_on_an_emulated_board(board: Background, run_program: RunProgram, tmp_path: Path) -> None:
    target = load_target("raspberry-pi-4")
    artifact = compile_onnx(small_network(), tmp_path / "model", target)
    place = str(served_at(board))
    try:
        arguments = ("--rpc", place, "--key", "board", "--kernels", "conv_0", "--budget", "90s", "-o", "pi.jsonl")
        done = run_program("tune", str(artifact.path), *arguments, "--json", timeout=400)
        assert done.returncode == 0, done.stderr
        tuned = json.loads(done.stdout)["tuned"]
        assert tuned["tried"] > 0
        assert tuned["wrong"] == 0
        found = read_records(tmp_path / "pi.jsonl")
        assert {record.about["layer"] for record in found.records} == {"conv_0"}
        if not tuned["accepted"]:
            return
        caches = [f"--cache={cache.input}={cache.output}" for cache in artifact.manifest.caches]
        names = ("--onnx", "model.onnx", *caches, "--target", target.name, "--records", "pi.jsonl", "-o", "tuned")
        assert run_program("compile", *names, timeout=240).returncode == 0
        verified = run_program("verify", "tuned", "--rpc", place, "--key", "board", timeout=240)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        board.kill()
