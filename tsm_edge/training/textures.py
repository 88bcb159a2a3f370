"""Procedural pictures for generated clips: textures for backgrounds and objects, and silhouettes to cut objects out.

Everything comes from a NumPy generator, so that a seed decides every pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
Random = np.random.Generator

TEXTURE_PX = 128
SILHOUETTE_PX = 72
_MARGIN_PX = 3


def _noise(random: Random, cells: int) -> Plane:
    """Smooth noise of about ``cells`` blobs along an edge, 0..1."""
    small = random.random((cells + 3, cells + 3), np.float32)
    big = cv2.resize(small, (TEXTURE_PX, TEXTURE_PX), interpolation=cv2.INTER_CUBIC)
    return _stretched(big)


def _stretched(plane: Plane) -> Plane:
    low, high = float(plane.min()), float(plane.max())
    return ((plane - low) / max(high - low, 1e-6)).astype(np.float32)


def _coordinates(random: Random) -> tuple[Plane, Plane]:
    """Rotated coordinates, 0..1 along an edge."""
    y, x = np.mgrid[:TEXTURE_PX, :TEXTURE_PX].astype(np.float32) / TEXTURE_PX
    angle = random.uniform(0, 2 * math.pi)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _fractal(random: Random) -> Plane:
    octaves = [_noise(random, cells) / cells**0.7 for cells in (2, 4, 9, 19, 40)]
    return _stretched(np.sum(octaves, axis=0, dtype=np.float32))


def _stripes(random: Random) -> Plane:
    x, _ = _coordinates(random)
    warp = _noise(random, 3) * random.uniform(0, 0.25)
    return (0.5 + 0.5 * np.sin(2 * math.pi * random.uniform(2, 9) * (x + warp))).astype(np.float32)


def _checks(random: Random) -> Plane:
    x, y = _coordinates(random)
    count = random.uniform(3, 9)
    squares: Plane = (((x * count).astype(int) + (y * count + 50).astype(int)) % 2).astype(np.float32)
    return squares


def _cells(random: Random) -> Plane:
    """Voronoi cells, each of one level."""
    centres = random.random((int(random.integers(6, 40)), 2), np.float32) * TEXTURE_PX
    y, x = np.mgrid[:TEXTURE_PX, :TEXTURE_PX].astype(np.float32)
    distance = (x[..., None] - centres[:, 0]) ** 2 + (y[..., None] - centres[:, 1]) ** 2
    levels = random.random(len(centres), np.float32)
    return np.asarray(levels[distance.argmin(-1)], np.float32)


def _ramp(random: Random) -> Plane:
    x, _ = _coordinates(random)
    return _stretched(x + random.uniform(0, 0.3) * _noise(random, 5))


def _spots(random: Random) -> Plane:
    plane = np.zeros((TEXTURE_PX, TEXTURE_PX), np.float32)
    for _ in range(int(random.integers(8, 50))):
        centre = random.integers(0, TEXTURE_PX, 2).tolist()
        cv2.circle(plane, centre, int(random.integers(3, 14)), float(random.random()), -1, cv2.LINE_AA)
    return plane


def _plaid(random: Random) -> Plane:
    x, y = _coordinates(random)
    across, along = (np.sin(2 * math.pi * random.uniform(2, 8) * axis) for axis in (x, y))
    return _stretched(across + along + random.uniform(0, 0.5) * across * along)


FAMILIES: tuple[Callable[[Random], Plane], ...] = (_fractal, _stripes, _checks, _cells, _ramp, _spots, _plaid)


def textures(random: Random, count: int, families: Sequence[int]) -> Image:
    """Draw textures.

    Parameters
    ----------
    random : numpy.random.Generator
    count : int
    families : sequence of int
        Which of :data:`FAMILIES` they are drawn from.

    Returns
    -------
    ndarray
        uint8 RGB ``[count, TEXTURE_PX, TEXTURE_PX, 3]``.
    """
    made = np.empty((count, TEXTURE_PX, TEXTURE_PX, 3), np.uint8)
    for index in range(count):
        plane = FAMILIES[families[index % len(families)]](random)
        fine = FAMILIES[0](random)
        low, high = random.uniform(0, 255, (2, 3)).astype(np.float32)
        mixed = plane[..., None] * (high - low) + low
        mixed += (fine[..., None] - 0.5) * random.uniform(0, 90, 3).astype(np.float32)
        made[index] = np.clip(mixed, 0, 255)
    return made


def _ellipse(random: Random, mask: Image) -> None:
    half = SILHOUETTE_PX // 2
    axes = (half - _MARGIN_PX, int((half - _MARGIN_PX) * random.uniform(0.5, 0.82)))
    cv2.ellipse(mask, (half, half), axes, 0, 0, 360, 255, -1, cv2.LINE_AA)


def _polygon(random: Random, mask: Image) -> None:
    corners = int(random.integers(3, 8))
    angles = 2 * math.pi * (np.arange(corners) + random.uniform(-0.2, 0.2, corners)) / corners
    _fill_polar(mask, angles, random.uniform(0.7, 1, corners))


def _blob(random: Random, mask: Image) -> None:
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    radius = np.ones(48)
    for wave in range(2, 6):
        radius += random.uniform(0, 0.45 / wave) * np.sin(wave * angles + random.uniform(0, 6.3))
    _fill_polar(mask, angles, radius / radius.max())


def _fill_polar(mask: Image, angles: npt.NDArray[np.float64], radius: npt.NDArray[np.float64]) -> None:
    half = SILHOUETTE_PX / 2
    reach = (half - _MARGIN_PX) * radius
    points = np.stack((half + reach * np.cos(angles), half + reach * np.sin(angles)), -1)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 255, cv2.LINE_AA)


def _hand(random: Random, mask: Image) -> None:
    """A palm with a wrist, and up to five fingers that are stretched or folded."""
    unit = SILHOUETTE_PX / 72
    palm = (int(36 * unit), int(44 * unit))
    width = random.uniform(12, 15) * unit
    cv2.ellipse(mask, palm, (int(width), int(random.uniform(13, 17) * unit)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    cv2.line(mask, palm, (palm[0], SILHOUETTE_PX - _MARGIN_PX), 255, int(random.uniform(12, 18) * unit), cv2.LINE_AA)
    spread = random.uniform(0.12, 0.3)
    stretched = random.random(5) < random.uniform(0.2, 1)
    for finger in range(4):
        angle = (finger - 1.5) * spread - math.pi / 2
        length = (random.uniform(30, 38) if stretched[finger] else random.uniform(15, 20)) * unit
        start = (palm[0] + (finger - 1.5) * width * 0.5, palm[1] - 6 * unit)
        end = (start[0] + length * math.cos(angle), max(start[1] + length * math.sin(angle), _MARGIN_PX))
        _capsule(mask, start, end, random.uniform(5, 7.5) * unit)
    if stretched[4]:
        angle = random.uniform(-0.9, -0.2)
        end = (palm[0] + 26 * unit * math.cos(angle), palm[1] + 26 * unit * math.sin(angle))
        _capsule(mask, palm, end, random.uniform(6, 8) * unit)
    if random.random() < 0.5:
        mask[:] = mask[:, ::-1].copy()


def _capsule(mask: Image, start: tuple[float, float], end: tuple[float, float], width: float) -> None:
    ends = [tuple(round(value) for value in point) for point in (start, end)]
    cv2.line(mask, ends[0], ends[1], 255, max(round(width), 1), cv2.LINE_AA)


SHAPES: tuple[Callable[[Random, Image], None], ...] = (_hand, _blob, _polygon, _ellipse, _hand)


def silhouettes(random: Random, count: int) -> Image:
    """Draw hands, blobs, polygons, ellipses: uint8 ``[count, SILHOUETTE_PX, SILHOUETTE_PX]``, 255 inside."""
    masks = np.zeros((count, SILHOUETTE_PX, SILHOUETTE_PX), np.uint8)
    for index, mask in enumerate(masks):
        SHAPES[index % len(SHAPES)](random, mask)
    return masks
