"""``tsm-edge label``, and ``run`` with networks of clips, as real processes with a stand-in for the compiled model."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clip_session import open_clip_session
from encoded_clips import clip, plain, write_avi

from tsm_edge.cli.main import entry_point

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, str(TESTS / "run_cli_with_clip_session.py")]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder ``videos`` of five, of level 1, 3, 5, 7 and 9, whose names are their levels."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for level in (1, 3, 5, 7, 9):
        write_avi(folder / f"{level}.avi", [plain(round(25.5 * level + 12.75))] * 12)
    return folder


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_a_video_to_stdout(run: Run, videos: Path) -> None:
    done = run("label", "model", "videos")
    assert done.returncode == 0, done.stderr
    lines = json_lines(done.stdout)
    assert [(line["video"], line["label"]) for line in lines] == [
        (f"videos/{level}.avi", f"level {level}") for level in (1, 3, 5, 7, 9)
    ]
    assert set(lines[0]) == {
        "type", "video", "label", "class_index", "probability", "top",
        "frames", "duration_s", "bytes", "clips", "decode_s", "network_s", "trouble",
    }  # fmt: skip
    assert [guess["class_index"] for guess in lines[0]["top"]][:1] == [1]
    assert len(lines[0]["top"]) == 5
    assert done.stderr.startswith("labelled 5 of 5 videos; 5 now, in ")


def test_a_bad_video_is_a_line_and_an_exit_code(run: Run, videos: Path) -> None:
    (videos / "4.mp4").write_text("no video")
    done = run("label", "model", "videos", "-o", "out/labels.jsonl")
    assert done.returncode == 1
    settings, *lines = json_lines((videos.parent / "out/labels.jsonl").read_text())
    assert (settings["type"], settings["sampling"], settings["crops"]) == ("settings", "uniform", 1)
    assert [line["type"] for line in lines] == ["video", "video", "error", "video", "video", "video"]
    assert lines[2]["error"].startswith("video videos/4.mp4: is not a video file")
    assert "1 of 6 videos could not be labelled: their lines say why" in done.stderr
    assert done.stdout == ""
    again = run("label", "model", "videos", "-o", "out/labels.jsonl")
    assert again.returncode == 1
    assert "goes on after 6 of 6 videos" in again.stderr
    shutil.copy(videos / "5.avi", videos / "4.mp4")
    mended = run("label", "model", "videos", "-o", "out/labels.jsonl", "--retry")
    assert mended.returncode == 0, mended.stderr
    assert json_lines((videos.parent / "out/labels.jsonl").read_text())[-1]["label"] == "level 5"
    assert run("label", "model", "videos", "-o", "out/labels.jsonl").returncode == 0


def test_another_file_of_the_same_name_is_labelled_anew(run: Run, videos: Path) -> None:
    (videos / "4.mp4").write_text("no video")
    assert run("label", "model", "videos", "-o", "labels.jsonl").returncode == 1
    write_avi(videos / "9.avi", [plain(round(25.5 * 2 + 12.75))] * 30)
    write_avi(videos / "4.mp4", [plain(round(25.5 * 4 + 12.75))] * 12)
    done = run("label", "model", "videos", "-o", "labels.jsonl")
    assert done.returncode == 0, done.stderr
    assert "goes on after 4 of 6 videos" in done.stderr
    lines = json_lines((videos.parent / "labels.jsonl").read_text())[-2:]
    assert [(line["video"], line["label"]) for line in lines] == [
        ("videos/4.mp4", "level 4"),
        ("videos/9.avi", "level 2"),
    ]
    assert lines[1]["bytes"] == (videos / "9.avi").stat().st_size


def test_what_cannot_be_begun_leaves_nothing(videos: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """A file system that is full: here a limit for files."""
    full = f"ulimit -f 0; exec {' '.join(PROGRAM)} label model videos -o new/x.jsonl"
    done = subprocess.run(
        ["bash", "-c", full], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "new/x.jsonl: cannot be written (File too large); make room" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("left", ["", '{"ty', '{"type": "settings", "clips'])
def test_a_run_that_was_killed_in_its_first_line_begins_anew(run: Run, videos: Path, tmp_path: Path, left: str) -> None:
    (tmp_path / "x.jsonl").write_text(left)
    done = run("label", "model", "videos/5.avi", "-o", "x.jsonl")
    assert done.returncode == 0, done.stderr
    assert [line["type"] for line in json_lines((tmp_path / "x.jsonl").read_text())] == ["settings", "video"]


def test_the_setting_that_differs_is_named(run: Run, videos: Path) -> None:
    begin = ["label", "model", "videos/5.avi", "-o", "x.jsonl"]
    assert run(*begin, "--with", "model-8f").returncode == 0
    for options, expected in (
        (["--with", "model-8f", "--weight", "2"], "was begun with networks 2 weight 1.0, not 2.0; give the same"),
        ([], "was begun with number of networks 2, not 1"),
        (["--with", "model-8f", "--crops", "3"], "was begun with crops 1, not 3"),
    ):
        done = run(*begin, *options)
        assert done.returncode == 2
        assert expected in done.stderr


def test_a_run_that_was_killed_goes_on_where_it_was(
    run: Run, videos: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    command = [*PROGRAM, "label", "model", "videos", "-o", "labels.jsonl"]
    labels = tmp_path / "labels.jsonl"
    process = subprocess.Popen(command, cwd=tmp_path, env={**environment, "TSM_TEST_SLOW_S": "0.5"})
    deadline = time.monotonic() + 30
    while not labels.exists() or labels.read_text().count("\n") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    before = labels.read_text()
    with labels.open("a") as file:
        file.write('{"type": "video", "video": "videos/5.a')  # as a power cut leaves it
    done = run(*command[2:])
    assert done.returncode == 0, done.stderr
    assert labels.read_text().startswith(before)
    _, *lines = json_lines(labels.read_text())
    assert [line["label"] for line in lines] == [f"level {level}" for level in (1, 3, 5, 7, 9)]
    assert f"goes on after {before.count(chr(10)) - 1} of 5 videos" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once(
    videos: Path, environment: dict[str, str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "label", "model", "videos", "-o", "labels.jsonl"],
        cwd=tmp_path, env={**environment, "TSM_TEST_SLOW_S": "0.5"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    labels, deadline = tmp_path / "labels.jsonl", time.monotonic() + 30
    while not labels.exists() or labels.read_text().count("\n") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert len(err.splitlines()) == 1
    assert labels.read_text().endswith("}\n")


def test_networks_together(run: Run, videos: Path) -> None:
    options = ["--with", "model-8f", "--weight", "2", "--clips", "2", "--crops", "3", "--scores", "softmax"]
    done = run("label", "model", "videos/5.avi", *options, "-o", "x.jsonl")
    assert done.returncode == 0, done.stderr
    settings, line = json_lines((videos.parent / "x.jsonl").read_text())
    assert [network["frames"] for network in settings["networks"]] == [4, 8]
    assert [network["weight"] for network in settings["networks"]] == [1, 2]
    # 64 x 48 pixels become 53 x 40, three crops of two clips for each of two networks.
    assert (line["label"], line["clips"]) == ("level 5", 12)


def test_two_streams_say_which_flow_it_is(run: Run, tmp_path: Path) -> None:
    write_avi(tmp_path / "x.avi", [plain(130, 128, 128)] * 10)
    done = run("label", "model", "x.avi", "--with", "model-flow", "--flow", "farneback")
    assert done.returncode == 0, done.stderr
    assert "optical flow: Farnebäck's" in done.stderr


def test_progress_is_a_bar_on_a_terminal(videos: Path, environment: dict[str, str], tmp_path: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "label", "model", "videos", "-o", "x.jsonl"],
        cwd=tmp_path, env={**environment, "TSM_TEST_SLOW_S": "0.3", "TERM": "xterm", "COLUMNS": "100"}, stderr=child,
    )  # fmt: skip
    os.close(child)
    shown = b""
    try:
        while block := os.read(parent, 4096):
            shown += block
    except OSError:  # the end of a terminal on Linux
        pass
    assert process.wait(timeout=30) == 0
    assert b"2/5" in shown
    assert "━".encode() in shown


def test_run_gives_the_label_of_the_whole_video(run: Run, videos: Path) -> None:
    done = run("run", "model", "--video", "videos/7.avi")
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["label", "probability", "(%)"]
    assert rows[0].startswith("level 7")
    assert len(rows) == 6
    assert rows[5].startswith("12 frames, 0.44 s; clips shown: 1; decoding ")
    (line,) = json_lines(run("run", "model", "--video", "videos/7.avi", "--json", "--sampling", "dense").stdout)
    assert (line["type"], line["label"], line["clips"]) == ("video", "level 7", 10)


def test_run_gives_a_label_over_time(run: Run, tmp_path: Path) -> None:
    write_avi(tmp_path / "x.avi", [plain(round(25.5 * level + 12.75)) for level in (2, 8) for _ in range(50)])
    done = run("run", "model", "--video", "x.avi", "--sliding", "2")
    assert done.returncode == 0, done.stderr
    first, _, last, empty, end = done.stdout.splitlines()
    assert first.startswith("    0.00 to     2.00 s  level 2  ")
    assert last.startswith("    2.00 to     4.00 s  level 8  ")
    assert empty == ""
    assert end.startswith("100 frames, 3.96 s; clips shown: 3; ")
    *sections, summary = json_lines(run("run", "model", "--video", "x.avi", "--sliding", "2", "--json").stdout)
    assert [(line["type"], line["start_s"], line["label"]) for line in sections[::2]] == [
        ("section", 0.0, "level 2"),
        ("section", 2.0, "level 8"),
    ]
    assert summary["type"] == "summary"


def test_random_weights_are_said_aloud(run: Run, videos: Path) -> None:
    assert "random weights: predictions mean nothing" in run("label", "random", "videos/1.avi").stderr


def test_mistakes_are_one_line_and_exit_2(
    tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tsm_edge.session.open.open_session", open_clip_session)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine\n")
    (tmp_path / "other.jsonl").write_text('{"type": "settings", "sampling": "dense"}\n')
    bikes = str(clip("bikes.mp4"))
    run, label = ["run", "model", "--video", bikes], ["label", "model", "videos"]
    cases: list[tuple[list[str], str]] = [
        (["label", "model"], "Missing argument 'VIDEO...'"),
        (["label", "model", "missing"], "missing: no such file or folder; check the path"),
        ([*label, "--clips", "3"], "3 uniform clips, expected 1 or 2; for ten clips: --sampling dense"),
        ([*label, "--clips", "0"], "0 uniform clips, expected 1 or 2"),
        ([*run, "--crops", "0"], "0 crops, expected 1 or 3; 1 is the centre: --crops 1"),
        ([*label, "--crops", "5"], "5 crops, expected 1 or 3; 1 is the centre: --crops 1"),
        ([*label, "--weight", "2"], "2 weights 1, 2 for 1 networks, expected a positive one for each; give --weight"),
        ([*label, "--with", "other"], "knows other classes (10) than levels of model (10)"),
        ([*label, "--frames", "8"], "was compiled for 4 frames, not 8; leave out --frames"),
        (
            [*label, "--with", "model-8f", "--rpc", "127.0.0.1:9"],
            "127.0.0.1:9: has room for one network at a time, exp",
        ),
        ([*label, "--retry"], "--retry is for the lines of a file: expected -o FILE.jsonl with it"),
        (["label", "tsn", "videos", "--frames", "65", "--sampling", "dense"], "takes 65; leave out --sampling dense"),
        (["label", "online", "videos"], "is an online model, which takes one frame after another"),
        ([*label, "-o", "notes.txt"], "notes.txt: is no file of labels; choose another file: -o FILE.jsonl"),
        ([*label, "-o", "videos/1.avi"], "videos/1.avi"),
        ([*label, "-o", "other.jsonl"], "other.jsonl: was begun with clips None, not 1; give the same settings"),
        ([*label, "-o", "videos"], "videos: cannot be written (Is a directory)"),
        (["run", "online", "--video", bikes, "--clips", "2"], "--clips is for networks of clips"),
        (["run", "online", "--video", bikes, "--sliding", "2"], "--sliding is for networks of clips"),
        ([*run, "--every", "2"], "--every is for online networks, and levels of model takes clips of 4 frames of a"),
        ([*run, "--smooth"], "--smooth is for online networks"),
        ([*run, "--quiet"], "--quiet is for online networks"),
        ([*run, "--flow", "dis"], "flow is dis, and no network here takes optical flow; leave out --flow"),
        ([*label, "--flow", "dis"], "flow is dis, and no network here takes optical flow; leave out --flow"),
        ([*run, "--page", "8080"], "--page is for online networks"),
        (["run", "model", "--camera", "0"], "--camera is for online networks"),
        ([*run, "--sliding", "2", "--clips", "2"], "--clips is for whole videos: expected it or --sliding, not both"),
        ([*run, "--sliding", "0"], "sections of 0 s, expected 0.1 to 3600 s"),
        (["run", "model", "--video", "http://127.0.0.1:9/x"], "expected a file, not a stream"),
        (["run", "model", "--video", "missing.mp4"], "missing.mp4: no such file"),
    ]
    for arguments, expected in cases:
        assert entry_point(arguments) == 2, arguments
        out, err = capfd.readouterr()
        assert expected in err, err
        assert err.count("\n") == 1, err
        assert out == ""
    assert (tmp_path / "notes.txt").read_text() == "mine\n"
    assert (tmp_path / "other.jsonl").read_text().count("\n") == 1


def test_two_runs_do_not_write_one_file(run: Run, videos: Path, environment: dict[str, str], tmp_path: Path) -> None:
    first = subprocess.Popen(
        [*PROGRAM, "label", "model", "videos", "-o", "x.jsonl"],
        cwd=tmp_path, env={**environment, "TSM_TEST_SLOW_S": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "x.jsonl").exists() or not (tmp_path / "x.jsonl").stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = run("label", "model", "videos", "-o", "x.jsonl")
        assert second.returncode == 2
        assert "x.jsonl: another run writes it; wait for it, or choose another file" in second.stderr
    finally:
        first.kill()
        first.wait(timeout=20)
