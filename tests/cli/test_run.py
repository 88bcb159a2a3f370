"""``tsm-edge run`` as a real process, with a stand-in for the compiled model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from encoded_clips import clip, cut_off, damaged, index_first, only_sound
from fake_session import open_fake
from mjpeg_server import MjpegServer, Send, serving, steady, wait_until
from terminal import run_on_terminal

from tsm_edge.cli.main import entry_point
from tsm_edge.video.source import open_source

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, str(TESTS / "run_cli_with_fake_session.py"), "run"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_a_frame_and_a_summary(run: Run) -> None:
    result = run("model", "--video", clip("bikes.mp4"), "--limit", 20)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    pattern = re.compile(
        r"frame (\d+) +\d+\.\d\d s  level \d +\d+\.\d %  decode +\d+\.\d ms  preprocess +\d+\.\d ms  step +\d+\.\d ms"
    )
    matches = [pattern.fullmatch(line) for line in lines[:20]]
    assert [match and int(match[1]) for match in matches] == list(range(20))
    summary = "\n".join(lines[20:])
    for text in (
        "median (ms)",
        "p90 (ms)",
        "preprocess",
        "20 predictions on 20 frames",
        "frames/s",
        "limit of 20 frames",
    ):
        assert text in summary


def test_a_narrow_window_gets_lines_that_fit_it(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = [*PROGRAM[1:], "model", "--video", str(clip("bikes.mp4")), "--limit", "3"]
    code = f"import sys, runpy; sys.argv = {arguments!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    shown = {}
    for columns in ("80", "120"):
        text = run_on_terminal(code, {**environment, "COLUMNS": columns, "TERM": "xterm"})
        shown[columns] = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
        assert max(map(len, shown[columns])) <= int(columns)
    assert re.fullmatch(r"frame 0 +0\.00 s  level \d +\d+\.\d %  step +\d+\.\d ms", shown["80"][0])
    assert "decode" in shown["120"][0]


def test_json_is_one_object_a_line_and_then_a_summary(run: Run) -> None:
    result = run("model", "--video", clip("carphone_pristine.mp4"), "--json", "--every", 2, "--threads", 1)
    assert result.returncode == 0, result.stderr
    *frames, summary = json_lines(result.stdout)
    assert [frame["index"] for frame in frames] == list(range(0, 120, 2))
    assert set(frames[0]) == {
        "type", "index", "time_s", "label", "class_index", "probability",
        "decode_ms", "preprocess_ms", "step_ms", "latency_ms", "reset",
    }  # fmt: skip
    assert {frame["type"] for frame in frames} == {"frame"}
    assert summary["type"] == "summary"
    assert (summary["frames"], summary["predictions"], summary["complete"]) == (120, 60, True)
    assert summary["step"].keys() == {"median_ms", "p90_ms"}


def test_labels_that_the_terminal_cannot_show(run: Run, environment: dict[str, str]) -> None:
    environment["PYTHONIOENCODING"] = "latin-1"
    result = run("japanese-model", "--video", clip("bikes.mp4"), "--limit", 2)
    assert result.returncode == 0, result.stderr
    assert " s  ????????" in result.stdout
    as_json = run("japanese-model", "--video", clip("bikes.mp4"), "--limit", 2, "--json")
    assert "スワイプ" in json_lines(as_json.stdout)[0]["label"]


def test_random_weights_are_said_aloud(run: Run) -> None:
    said = "random weights: predictions mean nothing"
    result = run("random-model", "--video", clip("bikes.mp4"), "--limit", 2)
    assert said in result.stderr
    assert result.stdout.splitlines()[-1] == said
    as_json = run("random-model", "--video", clip("bikes.mp4"), "--limit", 2, "--json")
    assert said in as_json.stderr
    assert json_lines(as_json.stdout)[-1]["random_weights"] is True
    assert said not in run("model", "--video", clip("bikes.mp4"), "--limit", 2).stderr


def test_the_annotated_video_is_written(run: Run, tmp_path: Path) -> None:
    result = run("model", "--video", clip("bikes.mp4"), "--out", "annotated.mp4", "--limit", 30, "--smooth")
    assert result.returncode == 0, result.stderr
    assert "annotated video: annotated.mp4" in result.stdout
    with open_source(tmp_path / "annotated.mp4") as video:
        assert (video.info.width, video.info.height, video.info.fps) == (640, 272, 25.0)
        assert sum(1 for _ in video) == 30


def test_mistakes_are_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tsm_edge.session.open.open_session", open_fake)
    (tmp_path / "empty.mp4").touch()
    bikes, missing = str(clip("bikes.mp4")), str(tmp_path / "missing.mp4")
    half = cut_off(tmp_path / "half.mp4", clip("bikes.mp4"), 0.5)
    cases = [
        ([], "expected either --video FILE|URL or --camera N"),
        (["--video", "a.mp4", "--camera", "0"], "expected either --video FILE|URL or --camera N"),
        (["--video", missing], "missing.mp4: no such file"),
        (["--video", str(tmp_path / "empty.mp4")], "is empty (0 bytes)"),
        (["--video", str(only_sound(tmp_path / "sound.wav"))], "sound but no video stream"),
        (["--video", str(half)], "is cut off: its index"),
        (["--camera", "97"], "/dev/video97 does not exist"),
        (["--video", bikes, "--out", "out.gif"], "expected a name that ends in .mp4"),
        (["--video", bikes, "--gap", "0"], "Invalid value for '--gap': 0.0 is not in the range x>0"),
        (["--video", bikes, "--gap", "nan"], "Invalid value for '--gap': 'nan' is not a number"),
        (["--video", bikes, "--reconnect", "-1"], "Invalid value for '--reconnect': -1.0 is not in the range x>=0"),
        (["--video", bikes, "--every", "0"], "--every"),
        (["--video", bikes, "--threads", "4294967297"], "4294967297 is not in the range 1<=x<=64"),
        (["--video", bikes, "--rpc", ""], "--rpc is empty: expected a value"),
        (["--video", bikes, "--out="], "--out is empty: expected a value"),
        (["--video", ""], "--video is empty: expected a value"),
        (["--video", "http://127.0.0.1:9/x"], "no video could be opened there"),
        (["--video", "http://admin:s3cret@127.0.0.1:9/x"], "http://admin:***@127.0.0.1:9/x: no video"),
        (["rtsp://admin:s3cret@camera/1"], "extra argument (rtsp://admin:***@camera/1)"),
    ]
    for arguments, expected in cases:
        assert entry_point(["run", "model", *arguments]) == 2, arguments
        out, err = capfd.readouterr()
        assert expected in err
        assert err.count("\n") == 1, err
        assert out == ""


def test_a_headless_opencv_says_what_to_install(run: Run) -> None:
    import cv2

    if "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    result = run("model", "--video", clip("bikes.mp4"), "--show")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "tsm-edge: error: --show needs a window, but the installed OpenCV is headless; pip install opencv-python"
    ]


def test_a_cut_off_file_is_run_as_far_as_it_goes_without_chatter(run: Run, tmp_path: Path) -> None:
    whole = index_first(tmp_path / "whole.mp4", clip("bikes.mp4"))
    cut_off(tmp_path / "cut.mp4", whole, 0.4)
    result = run("model", "--video", "cut.mp4", "--json")
    assert result.returncode == 0, result.stderr
    *frames, summary = json_lines(result.stdout)
    assert summary["complete"] is False
    expected = f"decoded {len(frames)} of 250 frames: the rest is cut off"
    assert result.stderr == f"warning: video cut.mp4: {expected}\n"


def test_the_decoders_own_lines_are_for_debugging(run: Run, tmp_path: Path) -> None:
    damaged(tmp_path / "damaged.mp4", clip("bikes.mp4"), at=0.1, size=20_000)
    assert run("model", "--video", "damaged.mp4").stderr.count("\n") == 1
    assert "[h264 @" in run("model", "--video", "damaged.mp4", "--debug").stderr


def test_a_live_stream_that_ends(run: Run) -> None:
    with serving(steady(60, interval_s=0.02)) as server:
        result = run("model", "--video", server.url, "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    *frames, summary = json_lines(result.stdout)
    assert summary["dropped"] + len(frames) == 60
    assert summary["ended"] == "the sender closed the stream"


def test_a_live_stream_that_is_lost_is_summed_up_and_exit_2(run: Run) -> None:
    def script(server: MjpegServer, send: Send) -> None:
        if server.connections > 1:
            return
        steady(30, interval_s=0.01)(server, send)

    with serving(script) as server:
        result = run("model", "--video", server.url, "--json", "--reconnect", 0.5)
    assert result.returncode == 2
    *frames, summary = json_lines(result.stdout)
    assert len(frames) == summary["predictions"]
    assert summary["complete"] is False
    assert len(result.stderr.splitlines()) == 1
    assert "not back within 0.5 s" in result.stderr


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("number", "code", "said", "as_json"),
    [
        (signal.SIGINT, 130, "interrupted", True),
        (signal.SIGINT, 130, "interrupted", False),
        (signal.SIGTERM, 143, "ended by SIGTERM", True),
        (signal.SIGHUP, 129, "ended by SIGHUP", False),
    ],
)
def test_a_signal_finishes_the_video_and_sums_up(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals, code: int, said: str, as_json: bool
) -> None:
    options = ["--json"] if as_json else []
    with serving(steady(2000, interval_s=0.02)) as server:
        process = subprocess.Popen(
            [*PROGRAM, "model", "--video", server.url, "--out", "out.mp4", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        head = [process.stdout.readline() for _ in range(5)]
        began = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    assert time.monotonic() - began < 5
    assert err == f"tsm-edge: {said}\n"
    if as_json:
        summary = json_lines("".join(head) + out)[-1]
        assert (summary["type"], summary["ended"]) == ("summary", said)
    else:
        assert f"ended: {said}" in out
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    with open_source(tmp_path / "out.mp4") as video:
        assert sum(1 for _ in video) >= 2


@pytest.mark.real_time
def test_ctrl_c_while_waiting_for_a_stream(environment: dict[str, str], tmp_path: Path) -> None:
    def script(server: MjpegServer, send: Send) -> None:
        server.pause(30)

    with serving(script) as server:
        process = subprocess.Popen(
            [*PROGRAM, "model", "--video", server.url],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip
        wait_until(lambda: server.connections > 0)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "tsm-edge: interrupted\n"
    assert time.monotonic() - began < 3
