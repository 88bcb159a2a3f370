"""How progress is told."""

from __future__ import annotations

import re
import time
from pathlib import Path

import onnx
import pytest
from onnx_graphs import small_network

from tsm_edge.cards import TargetCard
from tsm_edge.cli.main import entry_point
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.progress import Stages

STAGES = ["lowering", "generating", "linking", "linking"]


def test_stages_begin_at_the_share_of_those_before() -> None:
    told: list[tuple[str, float]] = []
    stages = Stages(lambda text, done: told.append((text, done)), {"read": 1.0, "think": 2.0, "write": 5.0})
    stages.begin("think", "thinking")
    stages.begin("write", "writing")
    assert told == [("thinking", 0.125), ("writing", 0.375)]


def test_a_compilation_tells_every_long_stage(native: TargetCard, tmp_path: Path) -> None:
    onnx.save(small_network(), str(tmp_path / "small.onnx"))
    told: list[tuple[str, float]] = []
    request = CompileRequest(native, tmp_path / "out", onnx=tmp_path / "small.onnx", runner=False)
    compile_model(request, lambda text, done: told.append((text, done)))
    texts, shares = zip(*told, strict=True)
    assert [text.split()[0] for text in texts] == ["reading", *STAGES[:3]]
    assert list(shares) == sorted(shares)
    assert 0 == shares[0] < shares[1] < shares[-1] < 1


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("target", "options", "then"),
    [
        ("native", ["--no-runner"], "tsm-edge verify out/small"),
        (
            "raspberry-pi-4",
            [],
            "tsm-edge verify out/small --emulate, or on the device: tsm-edge deploy out/small USER@HOST",
        ),
        ("android-arm64", ["--no-runner"], "tsm-edge deploy out/small --adb"),
    ],
)
def test_in_a_pipe_a_compilation_says_a_line_a_stage_the_whole_time_and_what_is_next(
    target: str,
    options: list[str],
    then: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_network(), "small.onnx")
    began_s = time.monotonic()
    assert entry_point(["compile", "--onnx", "small.onnx", "--target", target, "-o", "out/small", *options]) == 0
    waited_s = time.monotonic() - began_s
    output, errors = capsys.readouterr()
    stages = [line for line in errors.splitlines() if re.match(r"\[ ?\d+ %\] small for ", line)]
    assert [line.split("small for ")[1].split()[1] for line in stages] == STAGES[: 3 if options else 4]
    (seconds,) = re.findall(r"^compile time +(\d+\.\d) s, everything included$", output, re.MULTILINE)
    assert waited_s - 1 < float(seconds) < waited_s + 0.1
    assert errors.splitlines()[-1] == f"next: {then}"
