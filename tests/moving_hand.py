"""A film of a hand that moves in front of a room: drawn with OpenCV, with nothing of tsm_edge's own generated clips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from other_style import pictures

Image = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 320, 240
_SKIN = (120, 150, 205)  # BGR


@dataclass(frozen=True)
class Shown:
    """A frame.

    Attributes
    ----------
    image : ndarray
        uint8 BGR ``[HEIGHT, WIDTH, 3]``.
    motion : str
        The label of what the hand does.
    """

    image: Image
    motion: str


def hand(motions: Sequence[tuple[str, int]], fps: int = 24) -> Iterator[Shown]:
    """A hand that makes these motions one after another, each for so many twelfths of a second.

    Its place and size are where the motion before left them.
    """
    step = 12 / fps
    room = cv2.GaussianBlur(cv2.resize(pictures("bikes.mp4")[2][..., ::-1], (WIDTH, HEIGHT)), (0, 0), 4)
    sprite, mask = _drawn(240)
    noise = np.random.default_rng(0)
    x, y, scale = 0.5, 0.5, 0.5
    for motion, twelfths in motions:
        rest = x
        for number in range(1, round(twelfths / step) + 1):
            if motion in ("left", "right"):
                x += 0.04 * step * (1 if motion == "right" else -1)
            elif motion in ("up", "down"):
                y += 0.04 * step * (1 if motion == "down" else -1)
            elif motion in ("towards", "away"):
                scale *= 1.045 ** (step if motion == "towards" else -step)
            elif motion == "shake":
                x = rest + 0.1 * math.sin(2 * math.pi * number * step / 6)
            yield Shown(_placed(room, sprite, mask, x, y, scale, noise), motion)
        if motion == "shake":
            x = rest


def _drawn(side: int) -> tuple[Image, npt.NDArray[np.float32]]:
    """An open hand, and where it is."""
    mask = np.zeros((side, side), np.uint8)
    palm = (side // 2, int(0.64 * side))
    cv2.ellipse(mask, palm, (int(0.2 * side), int(0.24 * side)), 0, 0, 360, 255, -1)
    for degrees, length in ((-152, 0.36), (-112, 0.52), (-94, 0.58), (-77, 0.54), (-58, 0.44)):
        tip = tuple(
            int(middle + length * side * part)
            for middle, part in zip(
                palm, (math.cos(math.radians(degrees)), math.sin(math.radians(degrees))), strict=True
            )
        )
        cv2.line(mask, palm, tip, 255, int(0.09 * side))
    light = np.linspace(1.1, 0.75, side, dtype=np.float32)[None, :, None]
    sprite = np.clip(np.full((side, side, 3), _SKIN, np.float32) * light, 0, 255).astype(np.uint8)
    lines = cv2.erode(mask, np.ones((7, 7), np.uint8)) < mask
    sprite[lines] = sprite[lines] // 2
    return sprite, mask.astype(np.float32) / 255


def _placed(
    room: Image,
    sprite: Image,
    mask: npt.NDArray[np.float32],
    x: float,
    y: float,
    scale: float,
    noise: np.random.Generator,
) -> Image:
    side = sprite.shape[0]
    matrix = np.array([[scale, 0, x * WIDTH - scale * side / 2], [0, scale, y * HEIGHT - scale * side / 2]], np.float32)
    moved = cv2.warpAffine(sprite, matrix, (WIDTH, HEIGHT)).astype(np.float32)
    alpha = cv2.warpAffine(mask, matrix, (WIDTH, HEIGHT))[..., None]
    mixed = room + alpha * (moved - room) + noise.normal(0, 3, room.shape)
    return np.clip(mixed, 0, 255).astype(np.uint8)
