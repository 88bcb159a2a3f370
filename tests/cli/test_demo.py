"""What ``tsm-edge demo`` refuses before its long stages."""

from __future__ import annotations

from pathlib import Path

import pytest

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
