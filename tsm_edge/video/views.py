"""How a network of clips sees a video: which frames it needs, what is kept of each, and a clip of them as its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tsm_edge.cards import Preprocess, height_width
from tsm_edge.cards.normalisation import scale_and_offset
from tsm_edge.video.capture import Image
from tsm_edge.video.crops import offsets
from tsm_edge.video.flow import FIELDS, FlowMethod, flow_bytes
from tsm_edge.video.preprocess import Cropper, Normaliser
from tsm_edge.video.sampling import Plan

Floats = npt.NDArray[np.float32]


class View(Protocol):
    """How a network sees a video; one for all videos.

    Attributes
    ----------
    length : int
        Steps of the video that belong to one of a plan: 1 frame, or 5 fields of flow.
    """

    length: int

    def steps(self, count: int) -> int:
        """What a video of ``count`` frames has to choose from: frames, or fields between them."""

    def needs(self, plan: Plan, count: int) -> frozenset[int]:
        """The frames that a clip is made of, of a video of ``count``."""

    def keep(self, image: Image) -> Any:
        """What of a frame, uint8 RGB ``[H, W, 3]``, is kept until its clips are made: small, whatever its size."""

    def clips(self, plan: Plan, count: int, kept: Mapping[int, Any]) -> Iterator[Floats]:
        """Make a clip from what was kept of its frames: float32 ``[T, channels, height, width]``, one for each crop."""


class RgbView:
    """Frames as they are.

    Parameters
    ----------
    card : Preprocess
    crops : int
        Of each frame: 1 or 3.
    """

    length = 1

    def __init__(self, card: Preprocess, crops: int) -> None:
        self._crop = height_width(card.crop)
        self._cropped = Cropper(card, crops)
        self._normalise = Normaliser(card)

    def steps(self, count: int) -> int:
        return count

    def needs(self, plan: Plan, count: int) -> frozenset[int]:
        return frozenset(plan)

    def keep(self, image: Image) -> tuple[Image, ...]:
        # A copy: a view would keep the whole frame.
        return tuple(np.array(picture) for picture in self._cropped(image))

    def clips(self, plan: Plan, count: int, kept: Mapping[int, Any]) -> Iterator[Floats]:
        for crop in range(min(len(kept[index]) for index in plan)):
            clip = np.empty((len(plan), 3, *self._crop), np.float32)
            for place, index in enumerate(plan):
                self._normalise(kept[index][crop], clip[place])
            yield clip


class FlowView:
    """Five fields of optical flow from each frame of the plan on, x and y of each: ten channels.

    The flow is computed on frames of the size that crops are cut from. The last field stands for those after it.

    Parameters
    ----------
    card : Preprocess
        Mean and standard deviation are the same for all channels.
    crops : int
        Of each frame: 1 or 3.
    method : FlowMethod
    """

    length = FIELDS

    def __init__(self, card: Preprocess, crops: int, method: FlowMethod) -> None:
        self._card = card
        self._crop = height_width(card.crop)
        self._crops = crops
        self._method = method
        scale, offset = scale_and_offset(card)
        self._scale, self._offset = scale[0], offset[0]

    def steps(self, count: int) -> int:
        return max(count - 1, 1)

    def needs(self, plan: Plan, count: int) -> frozenset[int]:
        fields = {field for start in plan for field in self._fields(start, count)}
        return frozenset(index for field in fields for index in (field, min(field + 1, count - 1)))

    def keep(self, image: Image) -> Image:
        import cv2

        return _resized(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), self._card.resized(*image.shape[:2]))

    def clips(self, plan: Plan, count: int, kept: Mapping[int, Any]) -> Iterator[Floats]:
        found: dict[int, Image] = {}
        for start in plan:
            for field in self._fields(start, count):
                if field not in found:
                    before = kept[field]
                    # Some videos change their size in the middle.
                    after = _resized(kept[min(field + 1, count - 1)], before.shape)
                    found[field] = flow_bytes(self._method.compute(before, after))
        sizes = {field.shape[:2] for field in found.values()}
        places = {size: offsets(size, self._crop, self._crops) for size in sizes}
        for crop in range(min(map(len, places.values()))):
            clip = np.empty((len(plan), 2 * FIELDS, *self._crop), np.float32)
            for place, start in enumerate(plan):
                for number, field in enumerate(self._fields(start, count)):
                    row, column = places[found[field].shape[:2]][crop]
                    part = found[field][row : row + self._crop[0], column : column + self._crop[1]]
                    clip[place, 2 * number : 2 * number + 2] = part.transpose(2, 0, 1) * self._scale + self._offset
            yield clip

    def _fields(self, start: int, count: int) -> list[int]:
        last = self.steps(count) - 1
        return [min(start + number, last) for number in range(FIELDS)]


def _resized(picture: Image, size: tuple[int, int]) -> Image:
    """A grey picture with so many rows and columns."""
    import cv2

    if picture.shape == size:
        return picture
    rows, columns = size
    resized: Image = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return resized
