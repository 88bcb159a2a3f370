"""``train``, ``teach`` and ``evaluate`` as commands: what they say first, and options that would be ignored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tsm_edge.cli.main import entry_point
from tsm_edge.cli.watch import watch_command
from tsm_edge.errors import VideoError

# Runs the program and says when PyTorch is imported, which ends it.
PROGRAM = """
import builtins, sys
from tsm_edge.cli.main import entry_point

imported = builtins.__import__

def told(name, *rest):
    if name.partition(".")[0] == "torch":
        print("PyTorch now", file=sys.stderr)
        raise KeyboardInterrupt
    return imported(name, *rest)

builtins.__import__ = told
sys.exit(entry_point(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments", [["train", "-o", "run", "--data", "clips"], ["teach", "mine", "--clips", "clips"]]
)
def test_something_is_shown_before_pytorch_is_imported(
    arguments: list[str], program_environment: dict[str, str], tmp_path: Path
) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *words],
            capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=program_environment,
        )  # fmt: skip

    done = run(*arguments)
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["[  0 %] loading PyTorch", "PyTorch now", "tsm-edge: interrupted"]
    assert run(arguments[0], "--help").stderr == ""


def test_the_next_command_asks_for_a_window_only_where_there_can_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The OpenCV that is installed with tsm-edge has none."""
    for problem, shown in ((None, " --show"), (VideoError("no window", "none"), "")):
        monkeypatch.setattr("tsm_edge.live.window.why_no_window", lambda problem=problem: problem)
        expected = f"tsm-edge run 'out/my model' --camera 0 --every 2 --smooth{shown}"
        assert watch_command(Path("out/my model")) == expected


def test_options_that_would_be_ignored_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    teach, camera = ["teach", "mine", "--clips", "clips"], ["teach", "mine", "--camera", "0", "--labels", "a,b"]
    video = ["run", "model", "--video", "a.mp4"]
    cases = [
        ([*teach, "--labels", "a,b"], "--labels goes with --camera"),
        ([*teach, "--each", "10"], "--each goes with --camera"),
        ([*teach, "--seconds", "2"], "--seconds goes with --camera"),
        ([*camera, "--clips", "clips"], "expected either --clips DIR or --camera N|URL"),
        (["train", "-o", "run", "--data", "clips", "--per-epoch", "1920"], "--per-epoch is of generated clips"),
        (["evaluate", "model", "--data", "clips", "--clips", "1200"], "--clips is of generated clips"),
        (["evaluate", "model", "--fps", "12"], "--fps is of videos"),
        ([*video, "--name", "door"], "--name goes with --mqtt"),
        ([*video, "--record-quota", "1000"], "--record-quota goes with --record"),
        ([*video, "--record", "clips", "--spool", "spool"], "--spool goes with --events, --webhook or --mqtt"),
    ]
    for arguments, expected in cases:
        assert entry_point(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert expected in err
        assert err.count("\n") == 1, err
        assert out == ""
    assert not list(tmp_path.iterdir())


def test_a_word_that_could_be_a_folder_here_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Left out it means generated clips, whatever lies here: ``train -o motion`` makes such a folder itself."""
    monkeypatch.chdir(tmp_path)
    cases = [
        (["train", "-o", "run", "--data", "motion"], "generated clips", "--data ./motion, else leave --data out"),
        (["evaluate", "model", "--data", "motion"], "generated clips", "--data ./motion, else leave --data out"),
        (["train", "-o", "run", "--init", "motion"], "the shipped model", "--init ./motion, else rename it"),
    ]
    for arguments, meaning, both in cases:
        here = tmp_path / "motion"
        if "--init" in arguments:
            here.touch()  # a checkpoint is a file
        else:
            here.mkdir()
        assert entry_point(arguments) == 2
        err = capsys.readouterr().err
        assert f" motion means {meaning}, and there is a ./motion here: for that give {both}; try" in err
        assert err.count("\n") == 1
        if "--init" in arguments:
            here.unlink()
        else:
            here.rmdir()
    (tmp_path / "motion").mkdir()
    assert entry_point(["train", "-o", "run", "--data", "./motion"]) == 2
    assert "motion: has 0 classes of videos" in capsys.readouterr().err
    assert entry_point(["evaluate", "nowhere"]) == 2
    assert "nowhere: no such directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["motion"]
