"""Clips of events: what is in them, what becomes of the old ones, and of a disk that is full."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mjpeg_server import wait_until

from tsm_edge.errors import EventError, VideoError
from tsm_edge.events import recorder as recorder_module
from tsm_edge.events.event import Event, EventType, rfc3339
from tsm_edge.events.recorder import Recorder, Recording
from tsm_edge.live.observer import Snapshot, Totals
from tsm_edge.live.result import FrameResult
from tsm_edge.video.base import SourceInfo
from tsm_edge.video.source import open_source
from tsm_edge.video.writer import VideoFile

INFO = SourceInfo("camera 0", True, 64, 48, 25.0, None)
EVENT_ID = "0123456789abcdef"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the thread its turn on a busy machine, too: what it does is looked at, not when."""
    monkeypatch.setattr(recorder_module, "be_last", lambda: None)


def snapshot(level: int) -> Snapshot:
    result = FrameResult(0, 0.0, "wave", 0, 0.9, 1.0, 1.0, 1.0, 1.0, "", np.zeros(2, np.float32))
    image = np.full((48, 64, 3), level, np.uint8)
    return Snapshot(image, result, Totals(1, 1, 0, 0), time.time(), time.monotonic())


def event(kind: EventType, number: int = 0) -> Event:
    moment = rfc3339(1.7e9 + number)
    return Event(f"{kind}-{number}", kind, EVENT_ID, "Wave, twice/Ü", 0, 0.9, moment, 0.0, 0, "model", "camera 0")


def feed(recorder: Recorder, levels: range) -> None:
    for level in levels:
        recorder.see(snapshot(level))
        time.sleep(0.02)


def test_a_clip_has_what_was_before_and_after(tmp_path: Path) -> None:
    recorder = Recorder(Recording(tmp_path, before_s=0.35, after_s=0.3), INFO)
    feed(recorder, range(0, 50))  # of these about the last 17 are still known
    recorder.note(event("start"))
    feed(recorder, range(50, 70))
    recorder.note(event("end"))
    feed(recorder, range(70, 120))
    wait_until(lambda: recorder.counts[0].delivered == 1)
    recorder.close()
    (clip,) = tmp_path.iterdir()
    assert clip.name == f"20231114T221320000Z-Wave-twice-{EVENT_ID[:8]}.mp4"
    with open_source(clip) as video:
        shown = [round(float(frame.image.mean())) for frame in video]
    assert shown == sorted(shown)
    assert 25 <= shown[0] < 49
    assert 70 < shown[-1] < 110


def test_overlapping_events_share_a_clip_which_ends_at_its_longest(tmp_path: Path) -> None:
    recorder = Recorder(Recording(tmp_path, after_s=5.0, longest_s=0.4), INFO)
    feed(recorder, range(0, 5))
    for number in range(3):
        recorder.note(event("start", number))
    feed(recorder, range(5, 40))
    wait_until(lambda: recorder.counts[0].delivered == 1)
    recorder.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_oldest_clips_go_first_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(bytes(50_000))
    for day in range(1, 6):
        (tmp_path / f"2023110{day}T000000000Z-wave-0000000{day}.mp4").write_bytes(bytes(30_000))
    recorder = Recorder(Recording(tmp_path, after_s=0.0, quota_bytes=60_100), INFO)
    feed(recorder, range(0, 10))
    recorder.note(event("start"))
    recorder.note(event("end"))
    recorder.close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left[0] == "20231105T000000000Z-wave-00000005.mp4"
    assert left[-1] == "holiday.mp4"
    assert len(left) == 3  # and the new one
    assert sum(path.stat().st_size for path in tmp_path.glob("2*.mp4")) <= 60_100


def test_a_full_disk_loses_a_clip_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = VideoFile.write
    full = [True]

    def fail(self: VideoFile, image: object, time_s: float) -> None:
        if full:
            raise VideoError(f"cannot be written ({errno.ENOSPC})", "make room")
        write(self, image, time_s)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoFile, "write", fail)
    recorder = Recorder(Recording(tmp_path, after_s=0.0), INFO)
    feed(recorder, range(0, 10))
    recorder.note(event("start", 1))
    recorder.note(event("end", 1))
    wait_until(lambda: recorder.counts[0].lost == 1)
    assert list(tmp_path.iterdir()) == []
    full.clear()
    recorder.note(event("start", 2))
    recorder.note(event("end", 2))
    wait_until(lambda: recorder.counts[0].delivered == 1)
    recorder.close()


@pytest.mark.real_time
def test_a_thread_that_cannot_keep_up_leaves_frames_out(tmp_path: Path) -> None:
    recorder = Recorder(Recording(tmp_path), INFO)
    frames = [snapshot(0) for _ in range(300)]
    began_s = time.monotonic()
    for frame in frames:
        recorder.see(frame)
    assert time.monotonic() - began_s < 0.2
    recorder.close()
    encoded, left_out = recorder.counts[1].delivered, recorder.counts[1].lost
    assert left_out > 0
    assert encoded + left_out == 300


def test_writing_what_was_before_leaves_no_frame_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = VideoFile.write

    def slowly(self: VideoFile, image: object, time_s: float) -> None:
        time.sleep(0.01)
        write(self, image, time_s)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoFile, "write", slowly)
    recorder = Recorder(Recording(tmp_path, before_s=9.0, after_s=0.2), INFO)
    feed(recorder, range(0, 60))
    left_out = recorder.left_out  # this machine may be busy
    recorder.note(event("start"))  # 60 frames are to be written, which takes 0.6 s: 30 frames of the camera
    feed(recorder, range(60, 110))
    recorder.note(event("end"))
    recorder.close()
    (clip,) = tmp_path.iterdir()
    with open_source(clip) as video:
        assert sum(1 for _ in video) >= 90 - recorder.left_out
    assert recorder.left_out - left_out < 15


def test_memory_for_the_seconds_before_is_bounded(tmp_path: Path) -> None:
    recorder = Recorder(Recording(tmp_path, before_s=60.0, ring_bytes=10_000), INFO)
    feed(recorder, range(0, 60))
    recorder.close()
    assert 5_000 < sum(len(still.jpeg) for still in recorder._ring) <= 10_000


@pytest.mark.real_time
def test_a_disk_that_hangs_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()
    monkeypatch.setattr(recorder_module, "_LONGEST_END_S", 0.2)
    monkeypatch.setattr(VideoFile, "write", lambda *_: going.wait(10))
    recorder = Recorder(Recording(tmp_path, after_s=0.0), INFO)
    feed(recorder, range(0, 3))
    recorder.note(event("start"))
    began_s = time.monotonic()
    recorder.close()
    assert time.monotonic() - began_s < 5
    going.set()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EventError, match="--record"):
        Recorder(Recording(tmp_path / "file"), INFO)
