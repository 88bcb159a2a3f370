"""Models for GPUs go only where their driver is: asked of the device, before anything is copied."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tsm_edge.cards import load_target
from tsm_edge.deploy.gpu import ASK_GPU, check_gpu
from tsm_edge.errors import DeployError

NANO = load_target("jetson-nano")
JETPACK = (
    "# R32 (release), REVISION: {}, GCID: 29818004, BOARD: t210ref, EABI: aarch64, DATE: Sat Feb 19 17:05:08 UTC 2022"
)
DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}.129.03  Thu Oct 19 18:56:32 UTC 2023"


@pytest.mark.parametrize(
    "answers",
    [
        {"tegra": JETPACK.format("7.1"), "driver": "1"},
        {"tegra": JETPACK.format("4.3"), "driver": "1"},
        {"nvidia": DRIVER.format("535"), "driver": "2"},
        {"tegra": "something new", "driver": "1"},
    ],
)
def test_devices_that_have_what_it_takes(answers: dict[str, str]) -> None:
    check_gpu("board", answers, NANO)


@pytest.mark.parametrize(
    ("answers", "problem", "hint"),
    [
        ({}, "board has no libcuda.so.1, the model is compiled for the GPU of jetson-nano", "comes with JetPack"),
        (
            {"tegra": JETPACK.format("1.0"), "driver": "1"},
            "board has L4T 32.1 (JetPack 4.2 or later), whose driver takes PTX up to 6.3; the model is compiled for "
            "jetson-nano (PTX 6.4)",
            "install JetPack 4.4 or later there, or compile for an older card",
        ),
        (
            {"nvidia": DRIVER.format("410"), "driver": "1"},
            "board has NVIDIA's driver 410, whose driver takes PTX up to 6.3;",
            "install driver 418 or later there",
        ),
        (
            {"tegra": JETPACK.format("7.1"), "driver": "1", "gpu-refused": "/dev/nvhost-gpu"},
            "board: the user there may not use the GPU (/dev/nvhost-gpu)",
            "sudo usermod -aG video USER",
        ),
    ],
)
def test_devices_that_have_not(answers: dict[str, str], problem: str, hint: str) -> None:
    with pytest.raises(DeployError) as caught:
        check_gpu("board", answers, NANO)
    assert caught.value.problem.startswith(problem)
    assert hint in caught.value.hint


def test_a_model_for_a_cpu_asks_for_no_gpu() -> None:
    check_gpu("board", {}, load_target("jetson-nano-cpu"))


def test_the_question_is_answered_by_a_plain_shell(tmp_path: Path) -> None:
    """Of this machine, whatever it has; nothing on stderr, and every answer in a line."""
    done = subprocess.run(["sh", "-c", ASK_GPU], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.stderr == ""
    names = [line.partition("=")[0] for line in done.stdout.splitlines()]
    assert names[:3] == ["tsm-tegra", "tsm-nvidia", "tsm-driver"]
