"""Generated clips: what a seed decides, that opposite motions look alike, and that a stream holds together."""

from __future__ import annotations

import numpy as np
import pytest

from tsm_edge.training.clips import MotionClips, bank, draw_scene, speeds_of
from tsm_edge.training.data import SEEN_AFTER, UNSEEN
from tsm_edge.training.motions import LABELS, PAIRS, Path, fade_seen, offsets, placed
from tsm_edge.training.render import Camera, render
from tsm_edge.training.stream import draw_stream

SIZE, FRAMES = 32, 8


def clips(split: str = "train", seed: int = 0, streamed: float = 0.0) -> MotionClips:
    return MotionClips(split, seed, FRAMES, SIZE, streamed)  # type: ignore[arg-type]


def test_a_number_decides_a_clip() -> None:
    frames, labels = clips().batch([3, 14])
    assert frames.shape == (2, FRAMES, SIZE, SIZE, 3)
    assert frames.dtype == np.uint8
    again, _ = clips().clip(14)
    assert (again == frames[1]).all()
    assert (labels[1, SEEN_AFTER:] == 14 % len(LABELS)).all()
    assert (labels[:, :SEEN_AFTER] == UNSEEN).all()


@pytest.mark.parametrize(("split", "seed"), [("validation", 0), ("test", 0), ("train", 1)])
def test_splits_and_seeds_share_nothing(split: str, seed: int) -> None:
    assert not (clips(split, seed).clip(5)[0] == clips().clip(5)[0]).all()
    ours, theirs = bank("train", 0).textures, bank(split, seed).textures  # type: ignore[arg-type]
    assert not ({texture.tobytes() for texture in ours} & {texture.tobytes() for texture in theirs})


def paths(label: int, count: int = 400) -> list[Path]:
    random = np.random.default_rng(label)
    return [placed(offsets(label, FRAMES, speeds_of("train"), random), label == 0, random) for _ in range(count)]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_opposite_motions_are_each_other_backwards(one: int, other: int) -> None:
    """No bag of frames tells them apart: the values of all frames have the same distribution, their order has not."""
    ours, theirs = paths(one), paths(other)
    moving = {1: "x", 3: "y", 5: "size", 7: "angle", 10: "opacity"}[one]
    for name in ("x", "y", "size", "opacity"):
        mine, others = (np.sort(np.concatenate([getattr(path, name) for path in each])) for each in (ours, theirs))
        assert np.abs(mine - others).max() < 0.12, name
    ways = [np.sign([getattr(path, moving)[-1] - getattr(path, moving)[0] for path in each]) for each in (ours, theirs)]
    assert abs(ways[0].mean()) == abs(ways[1].mean()) == 1
    assert ways[0][0] == -ways[1][0]


def test_what_moves_is_the_object_and_where_it_should() -> None:
    """An object on its way to the right: the centre of what differs from the background moves as its path says."""
    random = np.random.default_rng(0)
    scene = draw_scene(bank("train", 0), random)
    x = np.linspace(0.3, 0.7, 5, dtype=np.float32)
    rest = np.zeros(5, np.float32)
    camera = Camera(np.zeros((5, 2), np.float32), np.ones(5, np.float32))
    seen, nothing = (
        render(scene, Path(x, rest + 0.5, rest - 0.5, rest, rest + shown), camera, 96, 96, random).astype(int)
        for shown in (1, 0)
    )
    changed = np.abs(seen - nothing).max(-1) > 0
    centres = [np.nonzero(frame)[1].mean() / 96 for frame in changed]
    assert np.allclose(np.diff(centres), np.diff(x), atol=0.02)


def test_an_object_covers_a_tenth_to_half_of_the_frame() -> None:
    random = np.random.default_rng(1)
    camera = Camera(np.zeros((1, 2), np.float32), np.ones(1, np.float32))
    one, half = np.zeros(1, np.float32), np.full(1, 0.5, np.float32)
    for _ in range(30):
        scene = draw_scene(bank("test", 0), random)
        # At a third of its size, so that it is seen whole.
        seen, nothing = (
            render(
                scene, Path(half, half, one - np.float32(np.log(3)), one, one + shown), camera, 192, 192, random
            ).astype(int)
            for shown in (1, 0)
        )
        share = 9 * (np.abs(seen - nothing).max(-1) > 0).mean()
        assert 0.08 < share < 0.6


def test_pieces_of_a_stream_have_no_label_until_their_motion_is_seen() -> None:
    labels = np.stack([clips(streamed=1.0).clip(index)[1] for index in range(40)])
    unseen = (labels == UNSEEN).sum(1)
    assert unseen.min() == SEEN_AFTER
    assert unseen.max() > SEEN_AFTER
    assert (labels[:, -1] == np.arange(40) % len(LABELS)).all()


def test_a_fade_has_no_label_before_a_third_of_it() -> None:
    fade = np.array([0.1, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.0], np.float32)
    assert fade_seen(fade) == 4
    assert fade_seen(fade[::-1]) == 3
    assert fade_seen(np.ones(8, np.float32)) == 0


def test_a_stream_goes_on_where_it_was_and_shows_every_motion() -> None:
    stream = draw_stream(48, seed=4)
    assert {segment.label for segment in stream.segments} == set(range(len(LABELS)))
    assert sum(segment.frames for segment in stream.segments) == len(stream.path)
    assert [stream.truth(segment.first) for segment in stream.segments] == [s.label for s in stream.segments]
    visible = stream.path.opacity[1:] > 0.5
    jumps = np.hypot(np.diff(stream.path.x), np.diff(stream.path.y))
    assert jumps[visible].max() < 0.3  # the widest shake of a frame
    frames = next(stream.frames(48, 64))
    assert frames.shape == (stream.segments[0].frames, 48, 64, 3)
