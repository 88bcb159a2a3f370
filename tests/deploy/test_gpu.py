"""Models for GPUs go only where their driver is: asked of the device, before anything is copied."""

from __future__ import annotations

import dataclasses
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tsm_edge.cards import TargetCard, load_target
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


# CUDA, its driver for Linux, its PTX: "CUDA Toolkit and Corresponding Driver Versions" of NVIDIA's release notes, and
# "PTX Release History" of the PTX ISA (as in the table of NVIDIA's cuda-python, _ptx_utils.py).
RELEASES = """
10.0 410.48 6.3    10.1 418.39 6.4    10.2 440.33 6.5
11.0 450.36.06 7.0 11.1 455.23 7.1    11.2 460.27.03 7.2 11.3 465.19.01 7.3 11.4 470.42.01 7.4 11.5 495.29.05 7.5
11.6 510.39.01 7.6 11.7 515.43.04 7.7 11.8 520.61.05 7.8
12.0 525.60.13 8.0 12.1 530.30.02 8.1 12.2 535.54.03 8.2 12.3 545.23.06 8.3 12.4 550.54.14 8.4 12.5 555.42.02 8.5
12.6 560.28.03 8.5 12.8 570.26 8.7    12.9 575.51.03 8.8 13.0 580.65.06 9.0
"""
# L4T and the PTX of its CUDA: JetPack 4.2 to 4.3 have CUDA 10.0, 4.4 to 4.6 10.2, 5 11.4, 6.0 12.2, 6.1 12.6.
TEGRA = {"32.1": "6.3", "32.3.1": "6.3", "32.4.3": "6.5", "32.7.1": "6.5", "34.1": "7.4", "35.4.1": "7.4"}
TEGRA |= {"36.2": "8.2", "36.3": "8.2", "36.4": "8.5"}


def answers_of_releases() -> dict[str, tuple[dict[str, str], str]]:
    """What a machine answers → the newest PTX that its driver takes."""
    words = RELEASES.split()
    module = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Oct 19 18:56:32 UTC 2023"
    found = {
        f"CUDA {cuda}": ({"nvidia": module.format(driver), "driver": "1"}, ptx)
        for cuda, driver, ptx in zip(words[::3], words[1::3], words[2::3], strict=True)
    }
    for l4t, ptx in TEGRA.items():
        release, _, revision = l4t.partition(".")
        line = f"# R{release} (release), REVISION: {revision}, GCID: 1, BOARD: t210ref, EABI: aarch64"
        found[f"L4T {l4t}"] = ({"tegra": line, "driver": "1"}, ptx)
    return found


@pytest.mark.parametrize("release", answers_of_releases())
def test_a_driver_takes_the_ptx_that_nvidia_says(release: str) -> None:
    answers, newest = answers_of_releases()[release]
    versions = sorted({ptx for _, ptx in answers_of_releases().values()}, key=float)
    following = dict(pairwise(versions)).get(newest)
    check_gpu("board", answers, taking(newest))
    if following is not None:
        with pytest.raises(DeployError, match=f"takes PTX up to {newest}; the model .* \\(PTX {following}\\)"):
            check_gpu("board", answers, taking(following))


def taking(ptx: str) -> TargetCard:
    """A card that needs a version of PTX."""
    assert NANO.gpu is not None
    return dataclasses.replace(NANO, gpu=dataclasses.replace(NANO.gpu, ptx_isa=ptx))


def test_a_model_for_a_cpu_asks_for_no_gpu() -> None:
    check_gpu("board", {}, load_target("jetson-nano-cpu"))


def test_the_question_is_answered_by_a_plain_shell(tmp_path: Path) -> None:
    """Of this machine, whatever it has; nothing on stderr, and every answer in a line."""
    done = subprocess.run(["sh", "-c", ASK_GPU], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.stderr == ""
    names = [line.partition("=")[0] for line in done.stdout.splitlines()]
    assert names[:3] == ["tsm-tegra", "tsm-nvidia", "tsm-driver"]
