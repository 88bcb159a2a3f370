"""What a decoder, a frame count and a time stamp say, checked against what is known to be in the files."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from encoded_clips import case, clip, encode, index_first, plain, write_mjpeg

from tsm_edge.errors import VideoError
from tsm_edge.video.base import Frame, VideoSource
from tsm_edge.video.source import open_source

Image = npt.NDArray[np.uint8]


def read(place: Path) -> tuple[list[Frame], VideoSource]:
    with open_source(place) as source:
        return list(source), source


def refusal(place: Path) -> str:
    with pytest.raises(VideoError) as caught:
        open_source(place)
    message = str(caught.value)
    assert "\n" not in message
    return message


def times_s(frames: Iterable[Frame]) -> list[float]:
    return [round(frame.time_s, 3) for frame in frames]


def quadrants(index: int, width: int, height: int) -> Image:
    """A picture whose four quadrants have known levels, different in each frame."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, : width // 2] = 60 + 10 * index
    image[: height // 2, width // 2 :] = 200 - 10 * index
    return image


def levels(image: Image) -> list[float]:
    """Mean of each quadrant, without the borders that a codec blurs."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    parts = [image[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    return [float(part[height // 4 : -height // 4, width // 4 : -width // 4].mean()) for part in parts]


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options", "size"),
    [
        ("h264.mp4", "libx264", "yuv420p", {}, (64, 64)),
        ("hevc.mp4", "libx265", "yuv420p", {"x265-params": "interlace=tff:log-level=none"}, (64, 64)),
        ("mpeg2.mpg", "mpeg2video", "yuv420p", {}, (64, 64)),
        ("mpeg2.ts", "mpeg2video", "yuv420p", {}, (64, 64)),
        ("dv.avi", "dvvideo", "yuv420p", {}, (720, 576)),
        ("prores.mov", "prores_ks", "yuv422p10le", {}, (64, 64)),
        ("ffv1.mkv", "ffv1", "yuv420p", {}, (64, 64)),
    ],
)
@pytest.mark.parametrize("interlaced", [True, False])
def test_pictures_are_the_real_ones(
    tmp_path: Path,
    name: str,
    codec: str,
    pixels: str,
    options: dict[str, str],
    size: tuple[int, int],
    interlaced: bool,
) -> None:
    if not interlaced:
        options = {}
    images = [quadrants(index, *size) for index in range(6)]
    path = encode(tmp_path / name, images, codec, pixels, options, interlaced)
    frames, source = read(path)
    assert len(frames) == 6
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_allclose(levels(frame.image), levels(image), atol=6)
    assert source.complete
    assert times_s(frames) == [0.0, 0.04, 0.08, 0.12, 0.16, 0.2]


def test_a_video_after_another_shows_nothing_of_it(tmp_path: Path) -> None:
    bright, _ = read(encode(tmp_path / "bright.mp4", [plain(250, 320, 240)] * 3, "libx264"))
    frames, _ = read(case("interlaced.mp4"))
    assert bright[0].image.mean() > 240
    assert 80 < frames[0].image.mean() < 95
    assert len({frame.image.tobytes() for frame in frames}) == len(frames) == 15


def test_colours_are_those_the_file_states(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :, 2] = 200  # red
    frames, _ = read(encode(tmp_path / "red.mkv", [image], "ffv1", "yuv444p"))
    np.testing.assert_allclose(frames[0].image[32, 32], [200, 0, 0], atol=3)


def test_av1_is_decoded(tmp_path: Path) -> None:
    path = encode(tmp_path / "new.mp4", [plain(level) for level in (50, 200)], "libsvtav1", options={"preset": "12"})
    frames, _ = read(path)
    assert [round(float(frame.image.mean()), -1) for frame in frames] == [50, 200]


def test_an_animated_webp_is_named(tmp_path: Path) -> None:
    path = encode(tmp_path / "moving.webp", [plain(level) for level in (50, 200)], "libwebp_anim", "yuv420p")
    assert "is an animated WebP, which this FFmpeg cannot decode; save it as" in refusal(path)


def test_an_unknown_codec_is_named_in_mp4_and_matroska(tmp_path: Path) -> None:
    mp4 = tmp_path / "unknown.mp4"
    mp4.write_bytes(clip("bikes.mp4").read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzz"))
    assert "its codec zzzz is none that this FFmpeg can decode" in refusal(mp4)
    known = encode(tmp_path / "known.mkv", [plain(10)], "ffv1")
    matroska = tmp_path / "unknown.mkv"
    matroska.write_bytes(known.read_bytes().replace(b"V_FFV1", b"V_NEW9"))
    assert "its codec V_NEW9 is none that this FFmpeg can decode" in refusal(matroska)


def test_sound_is_no_video_whatever_is_on_its_cover(tmp_path: Path) -> None:
    assert "has sound but no video" in refusal(case("sound_only.webm"))
    assert "has sound but no video stream (its picture is the cover)" in refusal(case("cover_art.mp3"))


@pytest.mark.parametrize(("name", "frames"), [("edit_list.mp4", 45), ("variable_rate.webm", 30)])
def test_a_healthy_file_whose_count_is_wrong_is_whole(name: str, frames: int) -> None:
    decoded, source = read(case(name))
    assert len(decoded) == frames
    assert source.complete
    assert source.ended == "end of the video"


@pytest.mark.parametrize("name", ["copy.ts", "copy.avi", "copy.mkv", "copy.mpg"])
def test_containers_without_a_right_count_are_whole_too(tmp_path: Path, name: str) -> None:
    frames, source = read(encode(tmp_path / name, [plain(10 * index) for index in range(20)], "mpeg4"))
    assert (len(frames), source.complete, source.ended) == (20, True, "end of the video")
    assert times_s(frames) == [round(0.04 * index, 3) for index in range(20)]


@pytest.mark.parametrize("name", ["cut.mp4", "cut.avi", "cut.mkv"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_cut_off_file_is_told_by_its_own_sizes(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(12)]
    whole = encode(tmp_path / f"whole{Path(name).suffix}", images, "mpeg4")
    if name.endswith(".mp4"):
        whole = index_first(tmp_path / "ordered.mp4", whole)
    path = tmp_path / name
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    frames, source = read(path)
    assert 0 < len(frames) < 12
    assert not source.complete
    assert source.ended.startswith(f"decoded {len(frames)}")
    assert source.ended.endswith("the rest is cut off")


def test_a_file_that_is_removed_while_it_is_read_was_whole(tmp_path: Path) -> None:
    path = encode(tmp_path / "gone.mkv", [plain(10)] * 3, "ffv1")
    with open_source(path) as source:
        path.unlink()
        assert sum(1 for _ in source) == 3
        assert source.complete


def test_without_pyav_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert "needs PyAV (FFmpeg for Python); try: pip install av" in refusal(clip("bikes.mp4"))


def test_times_are_the_files_own(tmp_path: Path) -> None:
    stamps = [0.0, 0.1, 0.15, 0.9, 1.7]
    images = [plain(10 * index) for index in range(5)]
    frames, _ = read(encode(tmp_path / "uneven.mkv", images, "ffv1", times_s=stamps))
    assert times_s(frames) == stamps


def test_a_negative_first_time_shifts_no_other(tmp_path: Path) -> None:
    stamps = [-0.04, 0.0, 0.1, 0.2]
    frames, _ = read(encode(tmp_path / "early.mkv", [plain(index) for index in range(4)], "ffv1", times_s=stamps))
    assert times_s(frames) == stamps
    late, _ = read(encode(tmp_path / "late.mkv", [plain(1)] * 3, "ffv1", times_s=[5.0, 5.1, 5.2]))
    assert times_s(late) == [0.0, 0.1, 0.2]


def test_b_frames_in_avi_keep_their_order(tmp_path: Path) -> None:
    images = [plain(10 * index) for index in range(20)]
    frames, _ = read(encode(tmp_path / "b.avi", images, "mpeg4", options={"bf": "2", "b_strategy": "0"}))
    assert times_s(frames) == [round(0.04 * index, 3) for index in range(20)]
    np.testing.assert_allclose([frame.image.mean() for frame in frames], np.arange(0, 200, 10), atol=9)


def test_a_change_of_size_is_delivered_as_it_is_and_marked(tmp_path: Path) -> None:
    path = write_mjpeg(tmp_path / "both.mjpeg", [plain(10), plain(20), plain(30, 96, 40), plain(40, 96, 40)])
    frames, source = read(path)
    assert [frame.image.shape[:2] for frame in frames] == [(48, 64), (48, 64), (40, 96), (40, 96)]
    assert [frame.discontinuity for frame in frames] == ["start", "", "new size", ""]
    assert (source.info.width, source.info.height) == (64, 48)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_rotated_recording_is_turned(tmp_path: Path, quarter_turns: int) -> None:
    image = quadrants(3, 96, 64)
    path = encode(tmp_path / "phone.mp4", [image] * 2, "libx264")
    data = bytearray(path.read_bytes())
    one = 0x10000
    matrix = {1: (0, one, -one, 0), 2: (-one, 0, 0, -one), 3: (0, -one, one, 0)}[quarter_turns]  # clockwise
    at = data.index(b"tkhd") + 4 + 40
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[at + place : at + place + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    frames, _ = read(path)
    expected = np.rot90(image, -quarter_turns)
    assert frames[0].image.shape == expected.shape
    np.testing.assert_allclose(levels(frames[0].image), levels(expected), atol=6)


def test_a_broadcast_that_was_joined_in_the_middle_is_whole(tmp_path: Path) -> None:
    images = [plain(5 * index) for index in range(40)]
    options = {"bf": "2", "x264-params": "open-gop=1:keyint=12"}
    data = encode(tmp_path / "all.ts", images, "libx264", options=options).read_bytes()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(data[188 * (len(data) // 188 // 3) :])
    frames, source = read(joined)
    assert 10 < len(frames) < 40
    assert (source.complete, source.ended) == (True, "end of the video")


def test_damage_at_the_very_beginning_is_damage(tmp_path: Path) -> None:
    path = encode(tmp_path / "damaged.mov", [plain(10 * index) for index in range(20)], "mjpeg", "yuvj420p")
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    data[at : at + 600] = bytes(600)
    path.write_bytes(data)
    frames, source = read(path)
    assert len(frames) == 19
    assert times_s(frames)[0] == 0.04
    assert (source.complete, source.ended) == (False, "decoded 19 of 20 frames: 1 piece is damaged")


def test_damage_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = encode(tmp_path / "damaged.avi", [plain(10 * index) for index in range(20)], "mjpeg", "yuvj420p")
    data = bytearray(path.read_bytes())
    at = data.index(b"00dc", data.index(b"movi") + 5000) + 8
    data[at : at + 600] = bytes(600)  # all of one frame
    path.write_bytes(data)
    frames, source = read(path)
    assert len(frames) == 19
    assert frames[-1].time_s == pytest.approx(0.76)
    assert (source.complete, source.ended) == (False, "decoded 19 of 20 frames: 1 piece is damaged")
