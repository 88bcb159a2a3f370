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


def plan_axis(source: int, resized: int, crop: int) -> Cut:
    """Find the smallest part of an axis that resizes to the same crop as the whole axis does.

    Resizing maps pixel edge ``i`` of the result to ``i * source / resized``. Where that is (nearly) a whole number
    the source can be cut without moving any sample; the axis' own ends always qualify.

    Parameters
    ----------
    source, resized : int
        Length of the whole axis before and after resizing, pixels.
    crop : int
        Pixels wanted from its centre; at most ``resized``.
    """
    first = round((resized - crop) / 2)
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


class Preprocessor:
    """Turns frames into the network's input, in one buffer that is used again for every frame.

    Parameters
    ----------
    card : Preprocess
        Sizes in pixels, mean and standard deviation of RGB scaled to 0..1.
    """

    def __init__(self, card: Preprocess) -> None:
        self._card = card
        self._crop = height_width(card.crop)
        self._output = np.zeros((1, 3, *self._crop), np.float32)
        self._scale, self._offset = scale_and_offset(card)
        self._shape = (0, 0)
        self._rows = self._columns = Cut(0, 0, 0, 0)

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
        import cv2

        if image.shape[:2] != self._shape:
            self._plan(image.shape[0], image.shape[1])
        rows, columns = self._rows, self._columns
        part = image[rows.start : rows.start + rows.size, columns.start : columns.start + columns.size]
        if part.shape[:2] != (rows.resized, columns.resized):
            part = cv2.resize(part, (columns.resized, rows.resized), interpolation=cv2.INTER_LINEAR)
        part = part[rows.offset : rows.offset + self._crop[0], columns.offset : columns.offset + self._crop[1]]
        for channel, plane in enumerate(cv2.split(part)):
            target = self._output[0, channel]
            np.multiply(plane, self._scale[channel], out=target, dtype=np.float32)
            target += self._offset[channel]
        return self._output

    def _plan(self, height: int, width: int) -> None:
        rows, columns = self._card.resized(height, width)
        self._rows = plan_axis(height, rows, self._crop[0])
        self._columns = plan_axis(width, columns, self._crop[1])
        self._shape = (height, width)
