"""Live sources, over a real HTTP connection that streams, stalls, hangs up and comes back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from mjpeg_server import MjpegServer, Send, serving, steady, wait_until

from tsm_edge.errors import VideoError
from tsm_edge.video.camera import OpenCvCapture
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.grabber import Grabber, LiveSource
from tsm_edge.video.source import open_source

QUICK = SourceOptions(open_timeout_s=1.0, read_timeout_s=0.5)


def level(image: Any) -> int:
    """Brightness of a frame: what the server numbered it with, give or take what JPEG changed."""
    return round(float(np.asarray(image).mean()))


def test_a_fast_reader_gets_every_frame_and_a_clean_end() -> None:
    with serving(steady(40)) as server, open_source(server.url) as source:
        frames = list(source)
        assert source.info.live
        assert (source.info.width, source.info.height) == (64, 48)
        assert len(frames) + source.dropped == 40
        assert source.dropped <= 20  # those that came in one burst while the stream was being opened
        levels = [level(frame.image) for frame in frames]
        assert levels == sorted(levels)
        assert levels[-1] == pytest.approx(39, abs=1)
        assert [frame.discontinuity for frame in frames] == ["start"] + [""] * (len(frames) - 1)
        assert source.ended == "the sender closed the stream"
        assert server.connections == 1


def test_a_slow_reader_gets_the_newest_frame_and_the_others_are_counted() -> None:
    with serving(steady(200, interval_s=0.01)) as server, open_source(server.url) as source:
        behind, indices = [], []
        for _ in range(8):
            frame = source.read()
            assert frame is not None
            behind.append(server.sent - level(frame.image))
            indices.append(frame.index)
            time.sleep(0.1)
        # 10 frames arrive in each pause: a queue would be 70 frames behind by now.
        assert behind[-1] < 30
        assert source.dropped == indices[-1] + 1 - len(indices)
        assert source.dropped > 5


def test_time_runs_with_the_clock() -> None:
    with serving(steady(30, interval_s=0.03)) as server, open_source(server.url) as source:
        times = [frame.time_s for frame in source]
        assert times[0] < 0.3
        assert times == sorted(times)
        assert 0.5 < times[-1] < 2.0


def test_a_pause_longer_than_the_gap_is_marked_even_if_its_frame_is_dropped() -> None:
    second_half = threading.Event()

    def script(server: MjpegServer, send: Send) -> None:
        for index in range(20):
            send(index)
            server.pause(0.01)
        second_half.wait(5)
        server.pause(0.8)
        for index in range(100, 120):
            send(index)
            server.pause(0.01)

    options = SourceOptions(gap_s=0.5, read_timeout_s=3.0)
    with serving(script) as server, open_source(server.url, options) as source:
        assert isinstance(source, LiveSource)
        first = source.read()
        assert first is not None
        assert first.discontinuity == "start"
        second_half.set()
        wait_until(lambda: server.sent >= 35)  # the frame after the pause came and went
        frame = source.read()
        assert frame is not None
        assert level(frame.image) > 100
        assert frame.discontinuity == "gap"
        assert {following.discontinuity for following in source} <= {""}


@pytest.mark.real_time
def test_a_stream_that_stalls_is_given_up_in_bounded_time() -> None:
    def script(server: MjpegServer, send: Send) -> None:
        for index in range(20):
            send(index)
            server.pause(0.01)
        server.pause(30)

    with serving(script) as server, open_source(server.url, QUICK) as source:
        began = time.monotonic()
        with pytest.raises(VideoError, match=r"no frame for \d\.\d s after \d+ frames"):
            list(source)
        assert time.monotonic() - began < 3


def test_a_stream_that_hangs_up_is_reconnected_as_a_new_stream() -> None:
    def script(server: MjpegServer, send: Send) -> None:
        steady(20, interval_s=0.01, first_level=100 * server.connections - 80)(server, send)

    options = SourceOptions(reconnect_s=3.0, read_timeout_s=1.0)
    with serving(script) as server, open_source(server.url, options) as source:
        breaks = []
        while server.connections < 3 or len(breaks) < 3:
            frame = source.read()
            assert frame is not None
            if frame.discontinuity:
                breaks.append((frame.discontinuity, 100 * (level(frame.image) // 100)))
    assert breaks[:3] == [("start", 0), ("new stream", 100), ("new stream", 200)]


@pytest.mark.real_time
def test_reconnecting_is_given_up_in_bounded_time() -> None:
    options = SourceOptions(reconnect_s=0.5, open_timeout_s=0.5, read_timeout_s=0.5)
    with serving(steady(20, interval_s=0.01)) as server:
        source = open_source(server.url, options)
        read = source.read()
    assert read is not None
    began = time.monotonic()
    with pytest.raises(VideoError, match=r"lost after \d+ frames, and not back within 0\.5 s"):
        list(source)
    assert time.monotonic() - began < 5
    source.close()


def test_a_refused_connection_is_named_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/stream"
        with pytest.raises(VideoError, match=f"stream {url}: no video"):
            open_source(url, QUICK)


@pytest.mark.real_time
def test_a_server_that_never_answers_is_given_up_in_bounded_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        began = time.monotonic()
        with pytest.raises(VideoError, match="no video could be opened there within 1 s"):
            open_source(f"http://127.0.0.1:{silent.getsockname()[1]}/stream", QUICK)
        assert time.monotonic() - began < 4


def test_a_web_page_is_not_a_stream() -> None:
    def script(server: MjpegServer, send: Send) -> None:
        server.pause(0.01)

    with serving(script) as server, pytest.raises(VideoError, match="no video could be opened"):
        open_source(server.url, QUICK)


class ScriptedCamera:
    """Stands for ``cv2.VideoCapture`` of a camera, which cannot be unplugged in a test; None: a frame it lost."""

    def __init__(self, images: list[Any], interval_s: float = 0.002) -> None:
        self._images = list(images)
        self._interval_s = interval_s
        self.released = False

    def grab(self) -> bool:
        time.sleep(self._interval_s)
        return bool(self._images)

    def retrieve(self, image: Any = None) -> tuple[bool, Any]:
        """Do as OpenCV does: write into a buffer that fits, and say that a frame was read even where none was."""
        scripted = self._images.pop(0)
        if scripted is None:
            return True, image
        if image is not None and (image.shape, image.dtype) == (scripted.shape, scripted.dtype):
            np.copyto(image, scripted)
            return True, image
        return True, scripted

    def get(self, prop: int) -> float:
        return 30.0 if prop == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        self.released = True


def frames_of(count: int) -> list[Any]:
    return [np.full((48, 64, 3), index % 256, np.uint8) for index in range(count)]


def test_an_unplugged_camera_is_an_error_after_its_last_frame() -> None:
    camera = ScriptedCamera(frames_of(30))
    source = LiveSource(lambda: OpenCvCapture(camera), "camera 0", SourceOptions(), may_end=False)
    seen: list[int] = []
    with pytest.raises(VideoError, match=r"camera 0: stopped giving frames after 30 frames; check its cable"), source:
        seen.extend(frame.index for frame in source)
    assert seen[-1] == 29
    assert source.dropped == 30 - len(seen)
    assert camera.released


def test_a_camera_plugged_in_again_is_a_new_stream() -> None:
    cameras = [ScriptedCamera(frames_of(5)), ScriptedCamera(frames_of(500))]
    waiting = iter(cameras)
    source = LiveSource(lambda: OpenCvCapture(next(waiting)), "camera 0", SourceOptions(reconnect_s=2.0), may_end=False)
    with source:
        for frame in source:
            if frame.discontinuity == "new stream":
                break
        assert frame.index >= 5
    assert [camera.released for camera in cameras] == [True, True]


def test_a_camera_without_a_single_frame_is_an_error() -> None:
    with pytest.raises(VideoError, match="camera 0: opened, but gave no frame"):
        LiveSource(lambda: OpenCvCapture(ScriptedCamera([])), "camera 0", SourceOptions(), may_end=False)


def test_an_impossible_frame_reaches_the_reader_as_an_error() -> None:
    camera = ScriptedCamera([np.zeros((4, 4, 2), np.uint8)])
    with pytest.raises(VideoError, match="expected 1, 3 or 4 channels"):
        LiveSource(lambda: OpenCvCapture(camera), "camera 0", SourceOptions(), may_end=False)
    assert camera.released


def test_closing_ends_the_thread_and_lets_go_of_the_source() -> None:
    def grabbers() -> int:
        return sum(thread.name == "tsm-edge-grabber" for thread in threading.enumerate())

    before = grabbers()
    camera = ScriptedCamera(frames_of(1000))
    grabber = Grabber(lambda: OpenCvCapture(camera), "camera 0", SourceOptions(), may_end=False)
    assert grabber.take() is not None
    assert grabbers() == before + 1
    grabber.close()
    assert grabbers() == before
    assert camera.released


def test_an_error_while_opening_is_the_readers() -> None:
    def fail() -> Any:
        raise VideoError("camera 0: cannot be opened", "plug it in")

    opener: Callable[[], Any] = fail
    with pytest.raises(VideoError, match="cannot be opened"):
        LiveSource(opener, "camera 0", SourceOptions(), may_end=False)
