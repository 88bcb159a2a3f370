"""Frames of clips, as upstream's own code gives them.

``cases/sampling.json`` was written by running the public code (mit-han-lab/temporal-shift-module, ``ops/dataset.py``
and ``ops/transforms.py``), not by this project's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from encoded_clips import case

from tsm_edge.errors import VideoError
from tsm_edge.video.crops import offsets
from tsm_edge.video.sampling import Kind, Sampling, section_plan

TABLE = json.loads(case("sampling.json").read_text("utf-8"))


def test_the_table_covers_what_there_is() -> None:
    assert {row["kind"] for row in TABLE["clips"]} == {"uniform", "twice", "dense"}
    assert {row["frames"] for row in TABLE["clips"]} == {8, 16}
    assert len(TABLE["clips"]) > 100
    assert {row["crops"] for row in TABLE["crops"]} == {1, 3}


@pytest.mark.parametrize("kind", ["uniform", "twice", "dense"])
def test_clips_are_upstreams(kind: str) -> None:
    ours: dict[str, tuple[Kind, int]] = {"uniform": ("uniform", 1), "twice": ("uniform", 2), "dense": ("dense", 10)}
    for row in TABLE["clips"]:
        if row["kind"] == kind:
            plans = Sampling(*ours[kind]).plans(row["count"], row["frames"], row["length"])
            assert [list(plan) for plan in plans] == row["plans"], row


def test_crops_are_upstreams() -> None:
    for row in TABLE["crops"]:
        places = offsets(tuple(row["resized"]), tuple(row["crop"]), row["crops"])
        # Where upstream cuts the same part three times, it is cut once here.
        assert [list(place) for place in places] == [list(one) for one in dict.fromkeys(map(tuple, row["offsets"]))], (
            row
        )


@pytest.mark.parametrize("count", [1, 2, 5, 63, 64, 65, 1000, 18_000])
@pytest.mark.parametrize("how", [("uniform", 1), ("uniform", 2), ("dense", 1), ("dense", 2), ("dense", 10)])
@pytest.mark.parametrize("length", [1, 5])
def test_every_number_is_one_of_a_frame(count: int, how: tuple[Kind, int], length: int) -> None:
    plans = Sampling(*how).plans(count, 8, length)
    assert len(plans) == how[1]
    assert all(len(plan) == 8 and min(plan) >= 0 and max(plan) < count for plan in plans)


def test_dense_clips_have_no_more_frames_than_they_span() -> None:
    """Upstream's step of 64 // 65 frames is none: it would show one frame 65 times."""
    assert Sampling("dense", 1).plans(64, 64) == (tuple(range(64)),)
    with pytest.raises(VideoError, match="a dense clip is of 64 consecutive frames, the network takes 65"):
        Sampling("dense", 1).plans(1000, 65)


def test_one_dense_clip_is_the_middle_one() -> None:
    assert Sampling("dense", 1).plans(264, 8) == (tuple(range(100, 164, 8)),)


def test_a_section_is_sampled_as_a_video_of_its_own() -> None:
    (alone,) = Sampling().plans(50, 8)
    assert section_plan(100, 50, 8) == tuple(100 + index for index in alone)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        (("uniform", 10), "10 uniform clips, expected 1 or 2; for ten clips: --sampling dense"),
        (("dense", 3), "3 dense clips, expected 1 or 2 or 10; upstream takes 10"),
        (("uniform", 0), "0 uniform clips, expected 1 or 2"),
    ],
)
def test_other_numbers_of_clips_are_refused(how: Any, problem: str) -> None:
    with pytest.raises(VideoError, match=problem):
        Sampling(*how)


def test_other_numbers_of_crops_are_refused() -> None:
    with pytest.raises(VideoError, match="5 crops, expected 1 or 3; 1 is the centre"):
        offsets((256, 340), (224, 224), 5)
