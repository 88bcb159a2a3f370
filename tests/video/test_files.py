"""What has a path and is no ordinary video file: pipes, devices, odd names, web pages."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from encoded_clips import clip, encode, plain

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.source import open_source

QUICK = SourceOptions(open_timeout_s=0.3, read_timeout_s=0.3)


def refusal(place: Path, options: SourceOptions = QUICK) -> str:
    with pytest.raises(VideoError) as caught, open_source(place, options) as source:
        list(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def write_into(pipe: Path, write: Callable[[int], None]) -> threading.Thread:
    def work() -> None:
        descriptor = os.open(pipe, os.O_WRONLY)
        try:
            write(descriptor)
        except BrokenPipeError:
            pass
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_video_through_a_pipe_is_read_to_its_end(pipe: Path, tmp_path: Path) -> None:
    data = encode(tmp_path / "clip.ts", [plain(10 * index) for index in range(20)], "mpeg2video").read_bytes()

    def write(descriptor: int) -> None:
        for at in range(0, len(data), 1000):
            os.write(descriptor, data[at : at + 1000])

    thread = write_into(pipe, write)
    with open_source(pipe) as source:
        frames = list(source)
    thread.join(5)
    assert len(frames) == 20
    assert source.complete


@pytest.mark.real_time
def test_a_pipe_into_which_nobody_writes_is_given_up(pipe: Path) -> None:
    began = time.monotonic()
    assert "nothing came through this pipe for 0.3 s; start the program that writes" in refusal(pipe)
    assert time.monotonic() - began < 3


def test_a_pipe_that_falls_silent_is_given_up(pipe: Path) -> None:
    done = threading.Event()

    def write(descriptor: int) -> None:
        os.write(descriptor, b"\x47" + bytes(187))
        done.wait(5)

    thread = write_into(pipe, write)
    assert "nothing came through this pipe" in refusal(pipe)
    done.set()
    thread.join(5)


def test_what_is_no_video_in_a_pipe_is_refused(pipe: Path) -> None:
    thread = write_into(pipe, lambda descriptor: os.write(descriptor, b"not a video\n" * 100) and None)
    assert "what comes through this pipe is not a video" in refusal(pipe)
    thread.join(5)


@pytest.mark.real_time
def test_a_pipe_that_drips_is_given_up(pipe: Path) -> None:
    def write(descriptor: int) -> None:
        for _ in range(500):
            os.write(descriptor, b"\x47")
            time.sleep(0.01)

    began = time.monotonic()
    thread = write_into(pipe, write)
    assert "what comes through this pipe is not a video" in refusal(pipe)
    assert time.monotonic() - began < 3
    thread.join(5)


@pytest.mark.real_time
def test_ctrl_c_ends_the_waiting_for_a_pipe_at_once(pipe: Path, tmp_path: Path) -> None:
    data = encode(tmp_path / "clip.ts", [plain(10)] * 20, "mpeg2video").read_bytes()
    done = threading.Event()

    def write(descriptor: int) -> None:
        os.write(descriptor, data[: len(data) // 2])
        time.sleep(0.2)
        signal.raise_signal(signal.SIGINT)
        done.wait(5)

    thread = write_into(pipe, write)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_source(pipe, SourceOptions(read_timeout_s=20)) as source:
        list(source)
    assert time.monotonic() - began < 5
    done.set()
    thread.join(5)


def test_devices_are_refused() -> None:
    assert "is a device or a socket, expected a video file" in refusal(Path("/dev/null"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of other systems are text")
def test_a_name_that_is_no_text_is_opened(tmp_path: Path) -> None:
    path = Path(os.fsdecode(bytes(tmp_path / "bad") + b"\xff.mp4"))
    shutil.copy(clip("carphone_pristine.mp4"), path)
    with open_source(path) as source:
        assert sum(1 for _ in source) == 120


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<!DOCTYPE html>\n<html><head></head></html>", "is a web page, not a video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
    ],
)
def test_a_download_that_went_wrong_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert expected in refusal(path)
