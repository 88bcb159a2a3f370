"""Folders of pictures as videos."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoded_clips import jpeg, plain

from tsm_edge.errors import VideoError
from tsm_edge.video.file_source import FileSource
from tsm_edge.video.source import open_source


def write(folder: Path, names: list[str]) -> Path:
    """Write pictures whose brightness is ten times their place in the list."""
    folder.mkdir()
    for place, name in enumerate(names):
        cv2.imwrite(str(folder / name), plain(10 * place))
    return folder


def brightness(place: Path) -> list[int]:
    with open_source(place) as source:
        return [round(float(frame.image.mean()) / 10) for frame in source]


def refusal(place: Path) -> str:
    with pytest.raises(VideoError) as caught:
        open_source(place)
    return str(caught.value)


def test_a_folder_of_numbered_pictures_is_a_video(tmp_path: Path) -> None:
    folder = write(tmp_path / "1", [f"{number:05d}.jpg" for number in range(1, 13)])
    (folder / "labels.txt").write_text("Swiping Left\n")
    with open_source(folder) as source:
        frames = list(source)
    assert source.complete
    assert not source.info.live
    assert (source.info.width, source.info.height, source.info.frame_count) == (64, 48, 12)
    assert [round(float(frame.image.mean()) / 10) for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(12) / 25)
    assert [frame.discontinuity for frame in frames] == ["start"] + [""] * 11


def test_numbers_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    folder = write(tmp_path / "frames", [f"img_{number}.png" for number in (1, 2, 9, 10, 11, 100)])
    assert brightness(folder) == [0, 1, 2, 3, 4, 5]


def test_a_pattern_takes_what_it_matches(tmp_path: Path) -> None:
    folder = write(tmp_path / "clip", [f"{number:04d}.jpg" for number in (7, 8, 9)])
    (folder / "thumbnail.jpg").write_bytes(jpeg(plain(250)))
    assert brightness(folder / "%04d.jpg") == [0, 1, 2]
    assert brightness(folder / "%d.jpg") == [0, 1, 2]
    (folder / "00003.jpg").write_bytes(jpeg(plain(30)))  # which %04d never writes
    assert brightness(folder / "%04d.jpg") == [0, 1, 2]
    os.mkfifo(folder / "0010.jpg")  # nobody writes into it
    assert brightness(folder / "%04d.jpg") == [0, 1, 2]
    assert "no file has such a name" in refusal(folder / "frame%04d.jpg")
    assert "the folder" in refusal(folder / "missing" / "%04d.jpg")
    (folder / "a%02d.jpg").write_bytes(jpeg(plain(90)))
    assert brightness(folder / "a%02d.jpg") == [9]  # a file of just that name


def test_a_damaged_picture_is_passed_over_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "frames", [f"{number}.jpg" for number in range(5)])
    (folder / "2.jpg").write_bytes(b"no picture")
    with open_source(folder) as source:
        frames = list(source)
    assert [round(float(frame.image.mean()) / 10) for frame in frames] == [0, 1, 3, 4]
    assert (source.complete, source.ended) == (False, "decoded 4 of 5 frames: 1 picture is damaged")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.jpg").write_bytes(b"no picture")
    assert "has no picture that can be decoded" in refusal(tmp_path / "bad")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    assert "is a folder without pictures" in refusal(tmp_path)
    (tmp_path / "clip.mp4").touch()
    assert f"try one of the videos in it: {tmp_path / 'clip.mp4'}" in refusal(tmp_path)


def test_seeking(tmp_path: Path) -> None:
    with open_source(write(tmp_path / "f", [f"{number}.png" for number in range(10)])) as source:
        assert isinstance(source, FileSource)
        source.seek(0.2)
        frame = source.read()
        assert frame is not None
        assert (frame.index, frame.time_s, frame.discontinuity) == (5, 0.2, "seek")
        assert round(float(frame.image.mean())) == 50
        with pytest.raises(VideoError, match="cannot seek"):
            source.seek(9.0)
