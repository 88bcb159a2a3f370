"""Frames by their number are the frames that decoding everything gives, in every kind of file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from encoded_clips import (
    case,
    clip,
    cut_off,
    damaged,
    encode,
    index_first,
    jpeg,
    plain,
    without_frames,
    write_avi,
    write_mjpeg,
)

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import Recording, SourceOptions
from tsm_edge.video.decoder import Decoder
from tsm_edge.video.files import open_file
from tsm_edge.video.indexed import IndexedVideo, _ByTable, open_indexed
from tsm_edge.video.source import open_source


def noise(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames that a codec can neither predict nor confuse: blocks of changing brightness that move."""
    random = np.random.default_rng(5)
    small = random.integers(0, 256, (count, height // 8, width // 8, 3), np.uint8)
    return [np.kron(each, np.ones((8, 8, 1), np.uint8)) for each in small]


def all_frames(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with open_source(path) as source:
        frames = [(frame.image, frame.time_s) for frame in source]
    return [image for image, _ in frames], [time_s for _, time_s in frames]


def assert_same(path: Path, wanted: Sequence[int]) -> IndexedVideo:
    """Fetch frames and compare them, and the times of all, with those of a whole pass."""
    images, times_s = all_frames(path)
    with open_indexed(path) as video:
        assert video.count == len(images)
        np.testing.assert_allclose(video.times_s, times_s, atol=1e-6)
        wanted = sorted({index for index in wanted if index < len(images)})
        found = list(video.fetch(wanted))
    assert [index for index, _ in found] == wanted
    for index, image in found:
        assert np.array_equal(image, images[index]), f"frame {index} of {path.name}"
    return video


def uses_the_table(video: IndexedVideo) -> bool:
    return isinstance(video._reach, _ByTable)


SPARSE = [0, 3, 17, 18, 60, 119, 123, 180, 249]


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4"])
def test_real_clips(name: str) -> None:
    assert uses_the_table(assert_same(clip(name), SPARSE))


def test_every_frame_one_after_the_other() -> None:
    assert_same(clip("carphone_pristine.mp4"), range(120))


@pytest.mark.parametrize(
    ("name", "by_table"),
    [("interlaced.mp4", True), ("edit_list.mp4", True), ("one_frame_in_5_s.mp4", True), ("variable_rate.webm", None)],
)
def test_files_that_made_trouble(name: str, by_table: bool | None) -> None:
    video = assert_same(case(name), range(0, 400, 7))
    assert by_table is None or uses_the_table(video) == by_table


@pytest.mark.parametrize(
    ("codec", "options", "name"),
    [
        ("libx264", {"g": "30", "bf": "3", "b_pyramid": "normal", "sc_threshold": "0"}, "closed.mp4"),
        ("libx264", {"x264-params": "keyint=25:bframes=3:open-gop=1:scenecut=0"}, "open.mp4"),
        ("libx264", {"g": "1000"}, "one_key.mkv"),
        ("libx265", {"x265-params": "keyint=20:bframes=4:open-gop=1:log-level=none"}, "open.mkv"),
        ("libvpx-vp9", {"g": "20", "cpu-used": "8", "deadline": "realtime"}, "vp9.webm"),
        ("libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}, "vp8.webm"),
        ("mpeg4", {"g": "12", "bf": "2"}, "mpeg4.mp4"),
        ("mpeg4", {"g": "12", "bf": "2"}, "mpeg4.avi"),
        ("mpeg2video", {"g": "12", "bf": "2"}, "mpeg2.mpg"),
        ("libx264", {"g": "20", "bf": "2"}, "broadcast.ts"),
    ],
)
def test_codecs_and_containers(codec: str, options: dict[str, str], name: str, tmp_path: Path) -> None:
    import av

    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot encode {codec}")
    path = encode(tmp_path / name, noise(90), codec, options=options)
    assert_same(path, [1, 2, 29, 30, 31, 55, 74, 75, 89])
    assert_same(path, [24])
    assert_same(path, [60, 61, 62])


def test_frames_that_come_in_bursts(tmp_path: Path) -> None:
    gaps = itertools.cycle([0.003, 0.003, 0.2, 0.04])
    times_s = list(itertools.accumulate(itertools.islice(gaps, 79), initial=0.0))
    path = encode(tmp_path / "bursts.mp4", noise(80), "libx264", options={"g": "20", "bf": "2"}, times_s=times_s)
    assert uses_the_table(assert_same(path, [1, 2, 3, 41, 42, 43, 78, 79]))


def test_a_container_without_times(tmp_path: Path) -> None:
    assert not uses_the_table(assert_same(write_mjpeg(tmp_path / "bare.mjpeg", noise(30)), [0, 7, 29]))
    assert_same(write_avi(tmp_path / "lossless.avi", noise(30)), [5, 29])


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"{index}.jpg").write_bytes(jpeg(plain(20 * index)))
    assert_same(tmp_path, [0, 2, 10, 11])
    assert_same(tmp_path / "%d.jpg", [9, 11])


def test_damage_shifts_no_frame_that_is_whole(tmp_path: Path) -> None:
    path = damaged(tmp_path / "damaged.mp4", index_first(tmp_path / "whole.mp4", clip("bikes.mp4")), 0.5, 2000)
    whole, _ = all_frames(clip("bikes.mp4"))
    with open_indexed(path) as video:
        assert video.count == 250
        found = dict(video.fetch([0, 20, 240]))
    assert np.array_equal(found[20], whole[20])
    assert np.array_equal(found[240], whole[240])


def test_a_cut_off_file_gives_what_there_is(tmp_path: Path) -> None:
    path = cut_off(tmp_path / "cut.mp4", index_first(tmp_path / "whole.mp4", clip("bikes.mp4")), 0.5)
    whole, _ = all_frames(clip("bikes.mp4"))
    with open_indexed(path) as video:
        found = dict(video.fetch([10, video.count - 5]))
        assert np.array_equal(found[10], whole[10])
        assert "the rest is cut off" in video.trouble()


def test_a_file_that_is_written_anew_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its frames are counted in a second pass, which finds another file."""
    path, empty = write_avi(tmp_path / "x.avi", noise(5)), without_frames(tmp_path / "empty.avi")
    opened: list[Path] = []

    def open_anew(place: Path, options: SourceOptions) -> Recording:
        if opened:
            os.replace(empty, place)
        opened.append(place)
        return open_file(place, options)

    monkeypatch.setattr("tsm_edge.video.indexed.open_file", open_anew)
    with pytest.raises(VideoError, match=r"x\.avi: changed while it was read"):
        open_indexed(path)


def test_frames_that_are_not_wanted_are_hardly_decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 300 frames with a key frame every 10 only those from the key frame on are decoded."""
    path = encode(tmp_path / "keys.mp4", noise(300), "libx264", options={"g": "10", "sc_threshold": "0", "bf": "0"})
    decoded = []
    original = Decoder._decode

    def count(self: Decoder, packet: object) -> None:
        decoded.append(packet)
        original(self, packet)

    monkeypatch.setattr(Decoder, "_decode", count)
    with open_indexed(path) as video:
        assert [index for index, _ in video.fetch([55, 205, 299])] == [55, 205, 299]
    assert len(decoded) < 100


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.touch(), "is empty (0 bytes)"),
        (lambda path: path.write_text("hello " * 99), "is not a video file"),
        (os.mkfifo, "is a pipe, expected a file: frames are chosen from all of it; save it to a file"),
        (lambda path: None, "no such file"),
    ],
)
def test_what_is_no_video_is_refused(make: Callable[[Path], object], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    make(path)
    with pytest.raises(VideoError) as caught:
        open_indexed(path)
    assert problem in str(caught.value)
