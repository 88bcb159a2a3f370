"""Draws what a model said over what was true: the frame, both labels, and both as coloured strips along the time."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tsm_edge.video.capture import Image

_STRIP_PX, _PANEL_PX, _MARGIN_PX = 16, 108, 8
_INK, _PAPER, _RIGHT, _WRONG = (40, 32, 24), (246, 244, 242), (80, 150, 40), (50, 50, 200)


class Timeline:
    """Pictures of a labelled run, one a frame.

    Parameters
    ----------
    names : sequence of str
        Of the classes.
    truth, found : sequence of int
        The class of each frame, and the one that was shown.
    height, width : int
        Of the pictures' upper part, pixels; the frame is resized to it.
    """

    def __init__(
        self, names: Sequence[str], truth: Sequence[int], found: Sequence[int], height: int, width: int
    ) -> None:
        self._names, self._truth, self._found = names, truth, found
        self.height, self.width = height + _PANEL_PX, width
        colours = np.array(
            [[255 * value for value in colorsys.hsv_to_rgb(i / len(names), 0.55, 0.9)] for i in range(len(names))]
        )
        self._strips = [self._strip(colours[list(labels)]) for labels in (truth, found)]

    def _strip(self, colours: npt.NDArray[np.float64]) -> Image:
        import cv2

        row = colours[None].astype(np.uint8)
        return cv2.resize(row, (self.width - 2 * _MARGIN_PX, _STRIP_PX), interpolation=cv2.INTER_NEAREST)  # type: ignore[no-any-return]

    def draw(self, image: Image, index: int) -> Image:
        """The picture of frame ``index``: uint8 **BGR** ``[height, width, 3]``, of an RGB image."""
        import cv2

        top = self.height - _PANEL_PX
        canvas: Image = np.full((self.height, self.width, 3), _PAPER, np.uint8)
        canvas[:top] = cv2.resize(image[..., ::-1], (self.width, top), interpolation=cv2.INTER_LINEAR)
        true, found = self._truth[index], self._found[index]
        _write(cv2, canvas, f"true:  {self._names[true]}", top + 20, _INK)
        _write(cv2, canvas, f"model: {self._names[found]}", top + 42, _RIGHT if true == found else _WRONG)
        for row, strip in enumerate(self._strips):
            above = top + 54 + row * (_STRIP_PX + 6)
            canvas[above : above + _STRIP_PX, _MARGIN_PX : self.width - _MARGIN_PX] = strip
        x = _MARGIN_PX + round((index + 0.5) / len(self._truth) * (self.width - 2 * _MARGIN_PX))
        cv2.line(canvas, (x, top + 52), (x, self.height - _MARGIN_PX), _INK, 1)
        return canvas


def _write(cv2: Any, canvas: Image, text: str, baseline: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(canvas, text, (_MARGIN_PX, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
