"""``kill -9`` at random moments of compile, export and run: the earlier result or the new one is there, whole."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from encoded_clips import clip
from killing import sweep
from onnx_graphs import small_network

from tsm_edge.artifact.folder import load_artifact
from tsm_edge.video.source import open_source

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[bytes]"]
TESTS = Path(__file__).resolve().parent
CARD = """
description = "small and narrow"
source = "this test"
[network]
backbone = "mobilenet-v2"
classes = 3
width = 0.1
frame_size = 32
[preprocess]
short_side = 32
crop = 32
"""


@pytest.fixture
def start(program_environment: dict[str, str], tmp_path: Path) -> Start:
    """Start a Python program in a folder and a process group of its own."""
    (tmp_path / "scratch").mkdir()
    environment = {**program_environment, "TMPDIR": str(tmp_path / "scratch")}
    environment["PYTHONPATH"] = f"{environment['PYTHONPATH']}:{TESTS}"

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    return begin


def assert_only(folder: Path, *names: str) -> None:
    """The last, whole run has removed what the killed ones left; programs they started may have written until now."""
    deadline_s = time.monotonic() + 10
    while sorted(path.name for path in folder.iterdir()) != sorted(names) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_compile(start: Start, tmp_path: Path) -> None:
    for seed in (0, 1):
        onnx.save(small_network(seed=seed), str(tmp_path / f"{seed}.onnx"))

    def compile_one(number: int) -> subprocess.Popen[bytes]:
        return start("-m", "tsm_edge.cli", "compile", "--onnx", f"{number % 2}.onnx", "-o", "out/model", "--no-runner")

    def check() -> None:
        assert load_artifact(tmp_path / "out" / "model").manifest.model in ("0", "1")

    sweep(compile_one, check, seed=1)
    assert_only(tmp_path / "out", "model")
    assert_only(tmp_path / "scratch")


def test_export(start: Start, tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(CARD)

    def export(number: int) -> subprocess.Popen[bytes]:
        return start("-m", "tsm_edge.cli", "export", "./card.toml", "-o", "out/model.onnx", "--seed", str(number % 2))

    def check() -> None:
        onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"), full_check=True)

    sweep(export, check, seed=2)
    assert_only(tmp_path / "out", "model.onnx")


def test_run(start: Start, tmp_path: Path) -> None:
    video = tmp_path / "out" / "annotated.mp4"
    video.parent.mkdir()
    frames = {0: 120, 1: 80}

    def run(number: int) -> subprocess.Popen[bytes]:
        program = [str(TESTS / "run_cli_with_fake_session.py"), "run", "model", "--video", str(clip("bikes.mp4"))]
        return start(*program, "--out", str(video), "--limit", str(frames[number % 2]))

    def check() -> None:
        with open_source(video) as source:
            assert sum(1 for _ in source) in frames.values()
            assert source.complete

    sweep(run, check, seed=3)
    assert_only(video.parent, "annotated.mp4")
