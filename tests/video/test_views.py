"""What networks of clips are shown: crops, as the live preprocessing makes them, and fields of optical flow."""

from __future__ import annotations

import numpy as np
import pytest

from tsm_edge.cards import Preprocess
from tsm_edge.errors import VideoError
from tsm_edge.video.flow import FIELDS, FlowMethod, flow_bytes, flow_method
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.views import FlowView, RgbView

CARD = Preprocess(short_side=64, crop=48)
FLOW_CARD = Preprocess(short_side=64, crop=48, mean=(0.5, 0.5, 0.5), std=(0.226, 0.226, 0.226))


def frames(count: int, height: int = 72, width: int = 120) -> dict[int, np.ndarray]:
    random = np.random.default_rng(3)
    return {index: random.integers(0, 256, (height, width, 3), np.uint8) for index in range(count)}


def test_a_clip_is_its_frames_as_the_live_preprocessing_makes_them() -> None:
    images, view = frames(6), RgbView(CARD, 1)
    kept = {index: view.keep(image) for index, image in images.items()}
    (clip,) = view.clips((0, 2, 2, 5), 6, kept)
    assert (clip.shape, clip.dtype) == ((4, 3, 48, 48), np.float32)
    for place, index in enumerate((0, 2, 2, 5)):
        assert np.array_equal(clip[place], Preprocessor(CARD)(images[index])[0])


def test_what_is_kept_of_a_frame_does_not_hold_the_frame() -> None:
    view = RgbView(CARD, 3)
    for picture in view.keep(frames(1, 720, 1280)[0]):
        assert picture.base is None
        assert picture.nbytes == 48 * 48 * 3


def test_three_crops_are_left_right_and_centre() -> None:
    import cv2

    (image,), view = frames(1).values(), RgbView(CARD, 3)
    clips = list(view.clips((0,), 1, {0: view.keep(image)}))
    resized = cv2.resize(image, (106, 64), interpolation=cv2.INTER_LINEAR)
    # (106 - 48) // 4 = 14 and (64 - 48) // 4 = 4: upstream's steps.
    for clip, column in zip(clips, (0, 56, 28), strict=True):
        part = resized[8:56, column : column + 48].astype(np.float32) / 255
        expected = (part - np.float32(CARD.mean)) / np.float32(CARD.std)
        assert np.abs(clip[0] - expected.transpose(2, 0, 1)).max() < 0.1
        assert np.abs(clip[0] - expected.transpose(2, 0, 1)).mean() < 0.01


def test_a_portrait_has_one_place_for_three_crops_at_full_resolution() -> None:
    view = RgbView(Preprocess(short_side=64, crop=64), 3)
    image = frames(1, 120, 72)[0]
    assert len(list(view.clips((0,), 1, {0: view.keep(image)}))) == 1


def shifting(by: tuple[int, int], count: int) -> list[np.ndarray]:
    """A smooth texture of 64 x 96 that moves by so many pixels right and down each frame."""
    import cv2

    large = np.random.default_rng(4).integers(0, 256, (200, 240), np.uint8)
    large = cv2.GaussianBlur(large, (0, 0), 2.5)
    large = cv2.normalize(large, None, 0, 255, cv2.NORM_MINMAX)
    parts = [large[60 - by[1] * n : 124 - by[1] * n, 70 - by[0] * n : 166 - by[0] * n] for n in range(count)]
    return [np.repeat(part[..., None], 3, 2) for part in parts]


@pytest.mark.parametrize("name", ["auto", "dis", "farneback"])
def test_flow_is_where_the_picture_went(name: str) -> None:
    view = FlowView(FLOW_CARD, 1, flow_method(name))  # type: ignore[arg-type]
    images = shifting((3, -2), 8)
    kept = {index: view.keep(image) for index, image in enumerate(images)}
    (clip,) = view.clips((0, 2), 8, kept)
    assert (clip.shape, clip.dtype) == ((2, 10, 48, 48), np.float32)
    pixels = (clip * 0.226 + 0.5) * 40 - 20  # upstream's bytes, undone
    assert np.abs(np.median(pixels[:, 0::2], axis=(2, 3)) - 3).max() < 0.4
    assert np.abs(np.median(pixels[:, 1::2], axis=(2, 3)) + 2).max() < 0.4


def numbered(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Instead of flow: the brightness of both frames as displacements."""
    field = np.zeros((*before.shape, 2), np.float32)
    field[..., 0], field[..., 1] = before.mean() / 16, after.mean() / 16
    return field


def test_the_channels_are_x_and_y_of_five_fields_from_the_frame_on() -> None:
    view = FlowView(FLOW_CARD, 1, FlowMethod("numbered", False, numbered))
    kept = {index: np.full((64, 106), 16 * index, np.uint8) for index in range(12)}
    assert view.steps(12) == 11
    assert view.needs((0, 9), 12) == frozenset({*range(6), 9, 10, 11})
    (clip,) = view.clips((0, 9), 12, kept)
    shown = np.rint((clip[:, :, 0, 0] * 0.226 + 0.5) * 40 - 20).astype(int).tolist()
    assert shown[0] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    # The last field, from frame 10 to 11, stands for those after the end, as upstream's loader repeats it.
    assert shown[1] == [9, 10, 10, 11, 10, 11, 10, 11, 10, 11]


def test_a_video_of_one_frame_does_not_move() -> None:
    view = FlowView(FLOW_CARD, 1, flow_method("dis"))
    image = shifting((0, 0), 1)[0]
    (clip,) = view.clips((0,) * 4, 1, {0: view.keep(image)})
    assert view.needs((0,) * 4, 1) == {0}
    assert np.abs(clip * 0.226).max() < 0.02


def test_displacements_become_bytes_as_in_tsns_tools() -> None:
    field = np.array([[[-30.0, -20.0], [0.0, 20.0]], [[31.0, 10.0], [0.08, -0.08]]], np.float32)
    assert flow_bytes(field).tolist() == [[[0, 0], [128, 255]], [[255, 191], [128, 127]]]
    assert FIELDS == 5


def test_an_algorithm_that_is_not_there_is_named() -> None:
    import cv2

    if hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create"):
        pytest.skip("this OpenCV has TV-L1")
    with pytest.raises(VideoError, match=r"no TV-L1, .*; pip install opencv-contrib-python-headless, or: --flow dis"):
        flow_method("tvl1")
    method = flow_method("auto")
    assert (method.name, method.stand_in) == ("DIS", True)
