"""Frames at places spread over a clip."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from encoded_clips import BIKES_FRAMES, clip

from tsm_edge.cards import load_model
from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.places import frames_at_places
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.source import open_source

CARD = dataclasses.replace(load_model("mobilenetv2-jester").preprocess, crop=32, short_side=36)


def test_places_are_spread_over_the_clip() -> None:
    found = frames_at_places(clip("bikes.mp4"), CARD, places=5, frames=3)
    assert [frames.shape for frames in found] == [(3, 3, 32, 32)] * 5
    process = Preprocessor(CARD)
    with open_source(str(clip("bikes.mp4")), SourceOptions()) as source:
        all_frames = [process(frame.image)[0].copy() for frame in source]
    assert len(all_frames) == BIKES_FRAMES
    for place, frames in enumerate(found):
        np.testing.assert_array_equal(frames, all_frames[place * 50 : place * 50 + 3])


def test_a_clip_of_fewer_frames_gives_those_it_has() -> None:
    film = Path(__file__).parents[1] / "cases" / "one_frame_in_5_s.mp4"
    assert [frames.shape for frames in frames_at_places(film, CARD)] == [(12, 3, 32, 32)]
    assert [frames.shape for frames in frames_at_places(film, CARD, frames=4)] == [(4, 3, 32, 32)] * 3


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file or folder"):
        frames_at_places(tmp_path / "clip.mp4", CARD)
