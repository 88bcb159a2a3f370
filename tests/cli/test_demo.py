"""What ``tsm-edge demo`` refuses before its long stages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cli.main import entry_point


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--video", "nope.mp4"], "video nope.mp4: no such file"),
        (["--video", "notes.txt"], "notes.txt"),
        (["--video", "http://admin:s3cret@127.0.0.1:9/x"], "stream http://admin:***@127.0.0.1:9/x: no video"),
        (["--threads", "65"], "65 is not in the range 1<=x<=64"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tsm_edge.demo.compile_model", lambda *_args, **_options: pytest.fail("compiled"))
    Path("notes.txt").write_text("no video")
    assert entry_point(["demo", "-o", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_demo_ends_with_the_command_for_a_camera(
    motion_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("tsm_edge.demo.compile_model", lambda *_args, **_options: motion_artifact)
    monkeypatch.setattr("tsm_edge.demo._SEGMENTS", 2)
    assert entry_point(["demo", "-o", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"ms a frame \(p90 .* ms\), 1 thread$", out, re.MULTILINE)
    assert "of 2 motions, by the labels after their first 8 frames" in out
    assert err.splitlines()[-1] == f"next: tsm-edge run {motion_artifact.path} --camera 0 --every 2 --smooth"
