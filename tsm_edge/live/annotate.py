"""Draws a prediction onto a frame: a bar at the bottom with the label, its probability and the latency."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from tsm_edge.video.capture import Image

_BAR_SHARE = 0.1
_BAR_MIN_PX = 16
_DARKEN = 0.35
_WHITE = (255, 255, 255)


def annotate(image: Image, left: str, right: str) -> Image:
    """Draw a label bar.

    Parameters
    ----------
    image : ndarray
        uint8 RGB ``[H, W, 3]``; not changed.
    left, right : str
        Texts at the ends of the bar, for example ``Swiping Left 83 %`` and ``7.4 ms``. They are made smaller until
        both fit; letters lose their accents and other characters beyond ASCII become ``?``, because OpenCV's built-in
        font has none of them.

    Returns
    -------
    ndarray
        uint8 **BGR** ``[H, W, 3]``, as OpenCV writes and shows it.
    """
    import cv2

    canvas: Image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    height, width = canvas.shape[:2]
    bar_px = min(max(int(height * _BAR_SHARE), _BAR_MIN_PX), height)
    bar = canvas[height - bar_px :]
    bar[:] = (bar * _DARKEN).astype(np.uint8)
    left, right = _ascii(left), _ascii(right)
    margin = max(bar_px // 4, 2)
    scale = _fitting_scale(cv2, left, right, width - 3 * margin, bar_px)
    thickness = max(1, round(scale * 1.5))
    baseline = height - round(bar_px * 0.3)
    _write(cv2, canvas, left, (margin, baseline), scale, thickness)
    right_px = _size(cv2, right, scale, thickness)[0]
    _write(cv2, canvas, right, (width - margin - right_px, baseline), scale, thickness)
    return canvas


def _fitting_scale(cv2: Any, left: str, right: str, width: int, bar_px: int) -> float:
    """Return the largest font scale at which the text is half as high as the bar and both texts fit side by side."""
    text_width, text_height = _size(cv2, f"{left} {right}", 1.0, 1)
    return float(max(min(0.5 * bar_px / max(text_height, 1), max(width, 1) / max(text_width, 1)), 0.05))


def _size(cv2: Any, text: str, scale: float, thickness: int) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    return int(width), int(height)


def _write(cv2: Any, canvas: Image, text: str, place: tuple[int, int], scale: float, thickness: int) -> None:
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, _WHITE, thickness, cv2.LINE_AA)


def _ascii(text: str) -> str:
    plain = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(plain).encode("ascii", "replace").decode("ascii")
