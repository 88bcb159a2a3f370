"""Commands that are ended at random moments, by signals and by force: what was there before, or the new thing, whole.

Minutes long, so not part of the default run: ``pytest -m slow tests/test_random_endings.py``.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from encoded_clips import clip
from onnx_graphs import small_network

from tsm_edge.artifact.folder import load_artifact
from tsm_edge.video.source import open_source

pytestmark = pytest.mark.slow

MOMENTS = 40
TESTS = Path(__file__).resolve().parent
CARD = """
description = "small"
source = "a test"
[network]
backbone = "resnet-18"
classes = 3
frame_size = 32
[preprocess]
short_side = 32
crop = 32
"""


@dataclass(frozen=True)
class Command:
    """A command that writes one thing, and how to see that the thing is whole."""

    arguments: Sequence[str]
    output: str
    check: Callable[[Path], None]
    program: Sequence[str] = ("-m", "tsm_edge.cli")


def check_video(path: Path) -> None:
    with open_source(path) as source:
        assert sum(1 for _ in source) >= 1
        assert source.complete


def check_artifact(path: Path) -> None:
    assert load_artifact(path).manifest.model == "model"


def check_onnx(path: Path) -> None:
    onnx.checker.check_model(onnx.load(str(path)))


COMMANDS = {
    "compile": Command(["compile", "--onnx", "model.onnx", "-o", "out", "--no-runner"], "out", check_artifact),
    "export": Command(["export", "./small.toml", "-o", "out.onnx"], "out.onnx", check_onnx),
    "run": Command(
        ["run", "model", "--video", str(clip("bikes.mp4")), "--out", "out.mp4"],
        "out.mp4",
        check_video,
        (str(TESTS / "run_cli_with_fake_session.py"),),
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_was_there_or_the_new_thing_is_whole(
    name: str, tmp_path: Path, program_environment: dict[str, str]
) -> None:
    command, random_moments = COMMANDS[name], random.Random(f"{name} 7")
    scratch, work = tmp_path / "scratch", tmp_path / "work"
    scratch.mkdir()
    work.mkdir()
    onnx.save(small_network(), str(work / "model.onnx"))
    (work / "small.toml").write_text(CARD)
    environment = {
        **program_environment,
        "TMPDIR": str(scratch),
        "PYTHONPATH": f"{program_environment['PYTHONPATH']}:{TESTS}",
    }

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *command.program, *command.arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=work, env=environment,
        )  # fmt: skip

    def left() -> set[str]:
        return {str(path.relative_to(tmp_path)) for path in (*work.glob(".*"), *scratch.glob("tsm-edge*"))}

    began_s = time.monotonic()
    assert start().wait(300) == 0
    takes_s = time.monotonic() - began_s
    for _ in range(MOMENTS):
        number = random_moments.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
        before = left()
        process = start()
        time.sleep(random_moments.uniform(0.05, 1.1) * takes_s)
        process.send_signal(number)
        # Before its first line, Python itself ends by the signal.
        assert process.wait(120) in (0, 128 + number, -number)
        command.check(work / command.output)
        if number != signal.SIGKILL:
            assert left() <= before, number.name
    assert start().wait(300) == 0
    command.check(work / command.output)
    assert not left()
