"""Frames as JPEGs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tsm_edge.video.capture import Image


def encode_jpeg(image: Image, widest_px: int, quality: int) -> bytes:
    """Encode a frame, made smaller where it is wider.

    Parameters
    ----------
    image : ndarray
        uint8 RGB ``[H, W, 3]``; not changed.
    widest_px : int
        The result is at most that wide and high.
    quality : int
        1 to 100.
    """
    import cv2

    height, width = image.shape[:2]
    scale = widest_px / max(height, width)
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def decode_jpeg(data: bytes) -> Image:
    """Decode what :func:`encode_jpeg` made: uint8 **BGR** ``[H, W, 3]``, as videos are written."""
    import cv2

    image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return image  # type: ignore[no-any-return]
