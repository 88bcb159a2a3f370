"""From an RGB frame to the network's input, as the model card says: resize, centre crop, scale, normalise.

The recipe is torchvision's ``Resize(short_side)``, ``CenterCrop(crop)``, ``ToTensor``, ``Normalize`` (bilinear, half
pixel centres, no antialiasing), with the work cut to what the crop shows: only that part of the frame is resized, and
``/255``, mean and standard deviation are one multiply-add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsm_edge.cards import Preprocess, height_width
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.video.capture import Image
from tsm_edge.video.crops import offsets

# A cut may shift the picture by this much, in source pixels: half of what OpenCV's own remapping rounds to.
_SHIFT_PX = 1 / 64


@dataclass(frozen=True)
class Cut:
    """What is needed of one axis of a frame.

    Attributes
    ----------
    start, size : int
        First source pixel, and how many.
    resized : int
        Their number after resizing.
    offset : int
        Where the crop begins in the resized part.
    """

    start: int
    size: int
    resized: int
    offset: int


def plan_axis(source: int, resized: int, crop: int, first: int) -> Cut:
    """Find the smallest part of an axis that resizes to the same crop as the whole axis does.

    Resizing maps pixel edge ``i`` of the result to ``i * source / resized``. Where that is (nearly) a whole number
    the source can be cut without moving any sample; the axis' own ends always qualify.

    Parameters
    ----------
    source, resized : int
        Length of the whole axis before and after resizing, pixels.
    crop : int
        Pixels wanted; at most ``resized``.
    first : int
        The first of them, in the resized axis.
    """
    edges = np.arange(resized + 1) * (source / resized)
    shift = np.abs(edges - np.rint(edges))
    shift[[0, -1]] = 0.0
    # The outermost samples of the crop read the source half a (scaled) pixel inside its edges; at an end of the axis
    # resizing repeats the border, elsewhere the part must contain what they read.
    reach = 0.5 - 0.5 * source / resized
    index = np.arange(resized + 1)
    fits_start = (index == 0) | (edges <= edges[first] - reach)
    fits_end = (index == resized) | (edges >= edges[first + crop] + reach)
    low = int(np.flatnonzero((shift <= _SHIFT_PX) & fits_start & (index <= first))[-1])
    high = int(np.flatnonzero((shift <= _SHIFT_PX) & fits_end & (index >= first + crop))[0])
    start = round(float(edges[low]))
    return Cut(start, round(float(edges[high])) - start, high - low, first - low)


class Cropper:
    """Cuts the pictures that a network is shown from frames, resizing only what they show.

    Parameters
    ----------
    card : Preprocess
        Sizes in pixels.
    crops : int
        Of a frame: 1, or 3 (:func:`tsm_edge.video.crops.offsets`).
    """

    def __init__(self, card: Preprocess, crops: int = 1) -> None:
        self._card = card
        self._crop = height_width(card.crop)
        self._crops = crops
        self._shape = (0, 0)
        self._cuts: tuple[tuple[Cut, Cut], ...] = ()

    def __call__(self, image: Image) -> tuple[Image, ...]:
        """Return the crops of a frame.

        Parameters
        ----------
        image : ndarray
            uint8 RGB ``[H, W, 3]``, any size; sizes may change from frame to frame.

        Returns
        -------
        tuple of ndarray
            uint8 RGB ``[height, width, 3]`` of the crop; maybe a view of the frame.
        """
        if image.shape[:2] != self._shape:
            self._plan(image.shape[0], image.shape[1])
        return tuple(self._cut(image, rows, columns) for rows, columns in self._cuts)

    def _cut(self, image: Image, rows: Cut, columns: Cut) -> Image:
        import cv2

        part = image[rows.start : rows.start + rows.size, columns.start : columns.start + columns.size]
        if part.shape[:2] != (rows.resized, columns.resized):
            part = cv2.resize(part, (columns.resized, rows.resized), interpolation=cv2.INTER_LINEAR)
        return part[rows.offset : rows.offset + self._crop[0], columns.offset : columns.offset + self._crop[1]]

    def _plan(self, height: int, width: int) -> None:
        resized = self._card.resized(height, width)
        self._cuts = tuple(
            (plan_axis(height, resized[0], self._crop[0], row), plan_axis(width, resized[1], self._crop[1], column))
            for row, column in offsets(resized, self._crop, self._crops)
        )
        self._shape = (height, width)


class Normaliser:
    """From pictures to the network's input: scaled, mean and standard deviation in one multiply-add.

    Parameters
    ----------
    card : Preprocess
        Mean and standard deviation of RGB scaled to 0..1.
    """

    def __init__(self, card: Preprocess) -> None:
        self._scale, self._offset = scale_and_offset(card)

    def __call__(self, picture: Image, output: npt.NDArray[np.float32]) -> None:
        """Write a picture, uint8 RGB ``[height, width, 3]``, as float32 ``[3, height, width]`` into ``output``."""
        import cv2

        for channel, plane in enumerate(cv2.split(picture)):
            target = output[channel]
            np.multiply(plane, self._scale[channel], out=target, dtype=np.float32)
            target += self._offset[channel]


class Preprocessor:
    """Turns frames into the network's input, in one buffer that is used again for every frame.

    Parameters
    ----------
    card : Preprocess
        Sizes in pixels, mean and standard deviation of RGB scaled to 0..1.
    """

    def __init__(self, card: Preprocess) -> None:
        self._cropped = Cropper(card)
        self._normalise = Normaliser(card)
        self._output = np.zeros((1, 3, *height_width(card.crop)), np.float32)

    def __call__(self, image: Image) -> npt.NDArray[np.float32]:
        """Preprocess one frame.

        Parameters
        ----------
        image : ndarray
            uint8 RGB ``[H, W, 3]``, any size; sizes may change from frame to frame.

        Returns
        -------
        ndarray
            float32 ``[1, 3, height, width]`` of the crop, C-contiguous; overwritten by the next call.
        """
        (picture,) = self._cropped(image)
        self._normalise(picture, self._output[0])
        return self._output
