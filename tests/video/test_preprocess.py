"""Preprocessing against a reference written the plain way in PyTorch: resize everything, crop, divide, normalise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from encoded_clips import clip

from tsm_edge.cards import Preprocess, height_width
from tsm_edge.video.preprocess import Cut, Preprocessor, plan_axis

CARD = Preprocess()
# One level of 255 in units of the smallest standard deviation.
LEVEL = 1 / 255 / min(CARD.std)


def resized_for_a_square(card: Preprocess, height: int, width: int) -> tuple[int, int]:
    """As torchvision's ``Resize(short_side)``."""
    if height <= width:
        return card.short_side, int(card.short_side * width / height)
    return int(card.short_side * height / width), card.short_side


def reference(image: np.ndarray, card: Preprocess = CARD, size: tuple[int, int] | None = None) -> np.ndarray:
    height, width = image.shape[:2]
    size = size or resized_for_a_square(card, height, width)
    rows, columns = height_width(card.crop)
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    tensor = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False, antialias=False)
    top, left = round((size[0] - rows) / 2), round((size[1] - columns) / 2)
    tensor = tensor[:, :, top : top + rows, left : left + columns] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))
    return ((tensor - mean) / std).numpy()


def real_frame(name: str, width: int, height: int) -> np.ndarray:
    """A frame of a real clip, scaled to another size (camera pictures are smooth; noise would not be like them)."""
    ok, image = cv2.VideoCapture(str(clip(name))).read()
    assert ok
    return cv2.cvtColor(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize(
    ("width", "height"),
    [(640, 272), (176, 144), (1280, 720), (640, 480), (480, 640), (333, 517), (101, 75), (256, 256), (64, 48)],
)
def test_equals_the_plain_recipe_within_rounding_to_whole_levels(width: int, height: int) -> None:
    image = real_frame("bigbuckbunny.mp4", width, height)
    difference = np.abs(Preprocessor(CARD)(image) - reference(image))
    assert difference.mean() < 0.5 * LEVEL
    assert difference.max() < 4 * LEVEL


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        # Margin 160/128: the frame is to cover 160 x 280.
        (640, 360, (160, 284)),  # wider than the crop: its height decides
        (640, 480, (210, 280)),  # its width does
        (360, 640, (497, 280)),
        (280, 160, (160, 280)),
    ],
)
def test_a_crop_that_is_not_square_is_covered(width: int, height: int, size: tuple[int, int]) -> None:
    card = Preprocess(short_side=160, crop=(128, 224))
    assert card.resized(height, width) == size
    image = real_frame("bigbuckbunny.mp4", width, height)
    output = Preprocessor(card)(image)
    assert output.shape == (1, 3, 128, 224)
    difference = np.abs(output - reference(image, card, size))
    assert difference.mean() < 0.5 * LEVEL
    assert difference.max() < 4 * LEVEL


def test_a_square_crop_is_cut_from_what_upstream_resizes_to() -> None:
    random = np.random.default_rng(0)
    for height, width in random.integers(1, 5000, (300, 2)).tolist():
        for card in (CARD, Preprocess(short_side=256, crop=(224, 224)), Preprocess(short_side=32, crop=32)):
            assert card.resized(height, width) == resized_for_a_square(card, height, width)


def test_is_exact_where_nothing_is_resized() -> None:
    image = real_frame("bikes.mp4", 300, 256)
    np.testing.assert_allclose(Preprocessor(CARD)(image), reference(image), atol=1e-5)


def test_channels_stay_in_rgb_order() -> None:
    red = np.zeros((300, 300, 3), np.uint8)
    red[..., 0] = 255
    output = Preprocessor(CARD)(red)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(output.mean(axis=(0, 2, 3)), expected, rtol=1e-5)


def test_output_is_one_contiguous_buffer_for_frames_of_any_size() -> None:
    preprocess = Preprocessor(CARD)
    first = preprocess(real_frame("bikes.mp4", 640, 272))
    assert first.shape == (1, 3, 224, 224)
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    portrait = real_frame("bikes.mp4", 90, 160)
    second = preprocess(portrait)
    assert second is first
    assert np.abs(second - reference(portrait)).max() < 4 * LEVEL


@pytest.mark.parametrize(("width", "height"), [(5, 101), (101, 5), (1, 1)])
def test_extreme_shapes(width: int, height: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert np.abs(Preprocessor(CARD)(image) - reference(image)).max() < 5 * LEVEL


def test_extreme_shapes_are_not_resized_whole() -> None:
    # The whole would be 512 000 pixels wide.
    cut = plan_axis(4000, 512_000, 224, 255_888)
    assert cut.size <= 8
    assert cut.resized <= 1024


@pytest.mark.parametrize("source", [75, 144, 272, 480, 517, 640, 1080, 1279, 1920])
def test_the_part_taken_maps_to_the_same_samples_as_the_whole(source: int) -> None:
    for resized in (256, int(256 * 16 / 9), 602):
        cut = plan_axis(source, resized, 224, round((resized - 224) / 2))
        first = round((resized - 224) / 2)
        whole = (np.arange(224) + first + 0.5) * source / resized - 0.5
        part = cut.start + (np.arange(224) + cut.offset + 0.5) * cut.size / cut.resized - 0.5
        assert np.abs(whole - part).max() <= 1 / 64
        # Nothing the samples read lies outside the part, unless it lies outside the frame as well.
        assert np.floor(whole.clip(0)).min() >= cut.start - 1 / 64
        assert np.ceil(whole.clip(max=source - 1)).max() <= cut.start + cut.size - 1 + 1 / 64


def test_wide_frames_are_not_resized_whole() -> None:
    assert plan_axis(1920, 455, 224, 116).resized < 300
    assert plan_axis(480, 256, 224, 16) == Cut(start=30, size=420, resized=224, offset=0)
