"""Video files, good and bad, through the real decoder."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoded_clips import (
    BIKES_FPS,
    BIKES_FRAMES,
    BIKES_SIZE,
    clip,
    cut_off,
    damaged,
    index_first,
    only_sound,
    plain,
    without_frames,
    write_avi,
    write_mjpeg,
)
from mjpeg_server import serving_file

from tsm_edge.errors import VideoError
from tsm_edge.video.file_source import FileSource
from tsm_edge.video.source import open_source


def refusal(place: str | Path | int) -> str:
    with pytest.raises(VideoError) as caught:
        open_source(place)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_real_clip_gives_every_frame_as_rgb_with_its_time() -> None:
    with open_source(clip("bikes.mp4")) as source:
        frames = list(source)
    assert (source.info.width, source.info.height) == BIKES_SIZE
    assert source.info.fps == BIKES_FPS
    assert not source.info.live
    assert len(frames) == source.info.frame_count == BIKES_FRAMES
    assert [frame.index for frame in frames] == list(range(BIKES_FRAMES))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(BIKES_FRAMES) / BIKES_FPS, atol=1e-6)
    assert [frame.discontinuity for frame in frames] == ["start"] + [""] * (BIKES_FRAMES - 1)
    assert all(frame.decode_ms > 0 for frame in frames)
    assert source.ended == "end of the video"
    assert source.complete
    assert source.dropped == 0
    _, bgr = cv2.VideoCapture(str(clip("bikes.mp4"))).read()
    assert np.array_equal(frames[0].image, bgr[..., ::-1])


@pytest.mark.parametrize("name", ["carphone_pristine.mp4", "bigbuckbunny.mp4"])
def test_other_real_clips_are_decoded_to_the_end(name: str) -> None:
    with open_source(clip(name)) as source:
        assert sum(1 for _ in source) == source.info.frame_count
        assert source.complete


@pytest.mark.parametrize(("width", "height"), [(101, 75), (75, 101), (17, 16), (16, 200)])
def test_odd_and_portrait_sizes(tmp_path: Path, width: int, height: int) -> None:
    path = write_mjpeg(tmp_path / "odd.mjpeg", [plain(level, width, height) for level in (0, 100, 200)])
    with open_source(path) as source:
        assert (source.info.width, source.info.height) == (width, height)
        assert source.info.frame_count is None
        frames = list(source)
    assert [round(float(frame.image.mean()), -1) for frame in frames] == [0, 100, 200]
    assert {frame.image.shape for frame in frames} == {(height, width, 3)}


def test_greyscale_video_becomes_three_channels(tmp_path: Path) -> None:
    path = write_avi(tmp_path / "grey.avi", [np.full((48, 64), level, np.uint8) for level in (10, 200)])
    with open_source(path) as source:
        frames = list(source)
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 2
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 200]


def test_a_picture_with_alpha_is_a_video_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), np.full((20, 30, 4), 90, np.uint8))
    with open_source(path) as source:
        assert [frame.image.shape for frame in source] == [(20, 30, 3)]


def test_names_that_look_like_protocols_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_avi(tmp_path / "take:1.avi", [plain(10)])
    with open_source("take:1.avi") as source:
        assert len(list(source)) == 1


def test_what_is_not_a_video_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.mp4")
    assert "is a folder" in refusal(tmp_path)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert "is empty (0 bytes)" in refusal(empty)
    text = tmp_path / "notes.mp4"
    text.write_text("not a video\n" * 100)
    assert "is not a video file" in refusal(text)
    assert "sound but no video" in refusal(only_sound(tmp_path / "sound.wav"))
    assert "has no frames" in refusal(without_frames(tmp_path / "none.avi"))
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(50_000))
    assert "is not a video file" in refusal(noise)


def test_an_mp4_of_sound_alone_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    data = clip("bikes.mp4").read_bytes()
    sound = tmp_path / "song.m4a"
    sound.write_bytes(data.replace(b"vide", b"soun").replace(b"avc1", b"mp4a"))
    assert "sound but no video" in refusal(sound)
    unknown = tmp_path / "unknown.mp4"
    unknown.write_bytes(data.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzz"))
    assert "its codec zzzz is none that this FFmpeg can decode" in refusal(unknown)


def test_a_cut_off_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    assert "is cut off: its index" in refusal(cut_off(tmp_path / "half.mp4", clip("bikes.mp4"), 0.5))


def test_a_cut_off_stream_ends_cleanly_and_counts(tmp_path: Path) -> None:
    whole = index_first(tmp_path / "whole.mp4", clip("bikes.mp4"))
    with open_source(cut_off(tmp_path / "cut.mp4", whole, 0.6)) as source:
        decoded = sum(1 for _ in source)
    assert 100 < decoded < 200
    assert not source.complete
    assert source.ended == f"decoded {decoded} of 250 frames: the rest is cut off"


def test_a_damaged_stretch_is_passed_over_and_is_a_gap(tmp_path: Path) -> None:
    path = damaged(tmp_path / "damaged.mp4", clip("bikes.mp4"), at=0.3, size=50_000)
    with open_source(path) as source:
        frames = list(source)
    assert 200 <= len(frames) < 245
    assert frames[-1].time_s == pytest.approx(9.96)  # it went on to the end
    apart = np.diff([frame.time_s for frame in frames])
    assert (apart > 0).all()
    breaks = [(frame.index, frame.discontinuity) for frame in frames if frame.discontinuity]
    assert breaks == [(0, "start"), (int(np.argmax(apart)) + 1, "gap")]
    assert not source.complete
    assert source.ended.startswith(f"decoded {len(frames)} of 250 frames")


def test_seeking_marks_the_next_frame() -> None:
    with open_source(clip("bikes.mp4")) as source:
        assert isinstance(source, FileSource)
        source.read()
        source.seek(4.0)
        frame = source.read()
        following = source.read()
        assert frame is not None
        assert following is not None
        assert (frame.discontinuity, frame.time_s, frame.index) == ("seek", 4.0, 100)
        assert following.discontinuity == ""
        assert sum(1 for _ in source) == 148
        source.seek(0.0)  # also after the end
        again = source.read()
        assert again is not None
        assert (again.discontinuity, again.time_s) == ("seek", 0.0)
        with pytest.raises(VideoError, match="cannot seek"):
            source.seek(-1.0)


def test_slow_videos_have_no_gaps(tmp_path: Path) -> None:
    path = write_avi(tmp_path / "slow.avi", [plain(10)] * 4, fps=0.5)
    with open_source(path) as source:
        assert [frame.discontinuity for frame in source] == ["start", "", "", ""]


def test_a_video_file_served_over_http_loses_no_frame(tmp_path: Path) -> None:
    path = index_first(tmp_path / "whole.mp4", clip("carphone_pristine.mp4"))
    with serving_file(path) as url, open_source(url) as source:
        assert not source.info.live
        time.sleep(0.2)
        assert sum(1 for _ in source) == 120


def test_a_missing_camera_is_named() -> None:
    assert "/dev/video97 does not exist" in refusal(97)


def test_a_pipeline_needs_gstreamer() -> None:
    if "GStreamer:                   YES" in cv2.getBuildInformation():
        pytest.skip("this OpenCV has GStreamer")
    assert "built without GStreamer" in refusal("videotestsrc ! videoconvert ! appsink")
