"""Frames become RGB once, whatever OpenCV delivers; addresses and pipelines are told from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions, is_pipeline, is_url, to_rgb


def test_bgr_becomes_rgb() -> None:
    bgr = np.zeros((2, 3, 3), np.uint8)
    bgr[...] = (10, 20, 30)
    assert to_rgb(bgr)[0, 0].tolist() == [30, 20, 10]


def test_grey_is_repeated_and_alpha_dropped() -> None:
    grey = np.full((2, 3), 7, np.uint8)
    for image in (grey, grey[..., None]):
        assert to_rgb(image).tolist() == np.full((2, 3, 3), 7).tolist()
    bgra = np.zeros((2, 3, 4), np.uint8)
    bgra[...] = (10, 20, 30, 40)
    assert to_rgb(bgra).shape == (2, 3, 3)
    assert to_rgb(bgra)[0, 0].tolist() == [30, 20, 10]


def test_sixteen_bits_keep_the_upper_eight() -> None:
    assert to_rgb(np.full((2, 2), 0xABCD, np.uint16))[0, 0].tolist() == [0xAB] * 3


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_frames_are_refused(image: np.ndarray) -> None:
    with pytest.raises(VideoError, match="expected 1, 3 or 4 channels"):
        to_rgb(image)


def test_places_are_told_apart(tmp_path: Path) -> None:
    assert is_url("rtsp://host/stream")
    assert not is_url("C:/clip.mp4")
    assert not is_url(str(tmp_path / "a.mp4"))
    assert is_pipeline("videotestsrc ! appsink")
    odd = tmp_path / "a ! b.mp4"
    odd.touch()
    assert not is_pipeline(str(odd))


@pytest.mark.parametrize("wrong", [{"gap_s": 0.0}, {"read_timeout_s": -1.0}, {"reconnect_s": -1.0}])
def test_impossible_waits_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(VideoError, match=next(iter(wrong))):
        SourceOptions(**wrong)
