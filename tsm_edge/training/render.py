"""Draws a generated clip: an object cut from one texture moves over another, before a camera that is not perfect.

All frames of a clip are drawn at once: one call of OpenCV's remapping for the object, one for the background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tsm_edge.training.motions import Path, Values
from tsm_edge.training.textures import SILHOUETTE_PX, TEXTURE_PX, Image, Random

Frames = npt.NDArray[np.uint8]
_NOISE_VALUES = 1 << 21


@dataclass(frozen=True)
class Scene:
    """What is in front of the camera.

    Attributes
    ----------
    sprite : ndarray
        uint8 RGB and mask ``[SILHOUETTE_PX, SILHOUETTE_PX, 4]``.
    background : ndarray
        uint8 RGB ``[TEXTURE_PX, TEXTURE_PX, 3]``.
    scale : float
        Width of the sprite, in frame widths, at size 0.
    zoom : float
        Width of the frame, in widths of the background.
    """

    sprite: Image
    background: Image
    scale: float
    zoom: float


@dataclass(frozen=True)
class Camera:
    """What the camera does to a clip.

    Attributes
    ----------
    jitter : ndarray
        float32 ``[frames, 2]``, frame widths: where it points.
    gain : ndarray
        float32 ``[frames]``: exposure.
    slope : (float, float)
        Light that falls off across the frame, share of the level from edge to edge, horizontally and vertically.
    noise : float
        Standard deviation, levels of 255.
    blur_px : float
        Standard deviation of the lens' blur, pixels; 0: none.
    quality : int
        Of JPEG compression, 1..100; 0: none.
    """

    jitter: Values
    gain: Values
    slope: tuple[float, float] = (0.0, 0.0)
    noise: float = 0.0
    blur_px: float = 0.0
    quality: int = 0


def draw_camera(frames: int, random: Random) -> Camera:
    """Draw a camera: often nearly perfect, sometimes shaken, dark, noisy, blurred or compressed."""
    shaken = random.random() < 0.5
    jitter = random.normal(0, random.uniform(0, 0.006) if shaken else 0, (frames, 2)).astype(np.float32)
    flicker = random.normal(0, random.uniform(0, 0.015), frames)
    drift = np.linspace(-0.5, 0.5, frames) * random.normal(0, 0.05)
    gain = (random.uniform(0.6, 1.25) * (1 + flicker + drift)).astype(np.float32)
    return Camera(
        jitter,
        gain,
        (random.uniform(-0.5, 0.5), random.uniform(-0.5, 0.5)) if random.random() < 0.4 else (0.0, 0.0),
        float(random.uniform(0, 10)) if random.random() < 0.6 else 0.0,
        float(random.uniform(0.3, 1.0)) if random.random() < 0.3 else 0.0,
        int(random.integers(30, 90)) if random.random() < 0.25 else 0,
    )


def render(scene: Scene, path: Path, camera: Camera, height: int, width: int, random: Random) -> Frames:
    """Draw a clip.

    Parameters
    ----------
    scene : Scene
    path : Path
    camera : Camera
    height, width : int
        Of a frame, pixels.
    random : numpy.random.Generator
        For the noise.

    Returns
    -------
    ndarray
        uint8 RGB ``[frames, height, width, 3]``.
    """
    rows = np.linspace(0.5 / height, 1 - 0.5 / height, height, dtype=np.float32)
    columns = np.linspace(0.5 / width, 1 - 0.5 / width, width, dtype=np.float32)
    x, y = columns + camera.jitter[:, :1], rows + camera.jitter[:, 1:]
    image = _background(scene, x, y)
    sprite = _sprite(scene, path, x, y, width / height)
    alpha = sprite[..., 3:].astype(np.float32) * (path.opacity / np.float32(255))[:, None, None, None]
    image += alpha * (sprite[..., :3] - image)
    light = _light(camera, rows, columns)
    image *= light[..., None]
    if camera.blur_px:
        for frame in image:
            cv2.GaussianBlur(frame, (0, 0), camera.blur_px, dst=frame, borderType=cv2.BORDER_REPLICATE)
    if camera.noise:
        image += _noise_like(image, random) * np.float32(camera.noise)
    cv2.max(image.reshape(-1, width * 3), 0, dst=image.reshape(-1, width * 3))
    pixels = np.minimum(image, 255).astype(np.uint8)
    return _compressed(pixels, camera.quality) if camera.quality else pixels


def _background(scene: Scene, x: Values, y: Values) -> Values:
    frames, width = x.shape
    height = y.shape[1]
    scale = np.float32(scene.zoom * TEXTURE_PX)
    map_x = np.broadcast_to((x * scale)[:, None, :], (frames, height, width))
    map_y = np.broadcast_to((y * scale)[:, :, None], (frames, height, width))
    return _remap(scene.background, map_x, map_y, cv2.BORDER_REFLECT).astype(np.float32)


def _sprite(scene: Scene, path: Path, x: Values, y: Values, aspect: float) -> Frames:
    """The object with its mask; the frame's width is the unit of both axes."""
    across = (x - path.x[:, None])[:, None, :]
    along = ((y - path.y[:, None]) / np.float32(aspect))[:, :, None]
    scale = np.float32(SILHOUETTE_PX / scene.scale) * np.exp(-path.size)
    cos, sin = (scale * np.cos(path.angle))[:, None, None], (scale * np.sin(path.angle))[:, None, None]
    middle = np.float32(SILHOUETTE_PX / 2 - 0.5)
    return _remap(scene.sprite, across * cos + along * sin + middle, along * cos - across * sin + middle)


def _remap(source: Image, map_x: Values, map_y: Values, border: int = cv2.BORDER_CONSTANT) -> Frames:
    shape = map_x.shape
    flat = [np.ascontiguousarray(plane.reshape(-1, shape[2])) for plane in (map_x, map_y)]
    drawn = cv2.remap(source, flat[0], flat[1], cv2.INTER_LINEAR, borderMode=border)
    made: Frames = np.asarray(drawn, np.uint8).reshape(*shape, source.shape[2])
    return made


def _light(camera: Camera, rows: Values, columns: Values) -> Values:
    """Gain of each pixel ``[frames, height, width]``."""
    across, along = (np.float32(slope) for slope in camera.slope)
    plane = 1 + (columns - np.float32(0.5))[None, :] * across + (rows - np.float32(0.5))[:, None] * along
    light: Values = camera.gain[:, None, None] * plane
    return light


def _noise_like(image: Values, random: Random) -> Values:
    """A piece of a long strip of noise, which costs less than new noise."""
    strip = _noise_strip()
    start = int(random.integers(0, _NOISE_VALUES // 2))
    if image.size <= _NOISE_VALUES // 2:
        return strip[start : start + image.size].reshape(image.shape)
    return np.stack([_noise_like(frame, random) for frame in image])


_strips: list[Values] = []


def _noise_strip() -> Values:
    if not _strips:
        _strips.append(np.random.default_rng(0).standard_normal(_NOISE_VALUES, np.float32))
    return _strips[0]


def _compressed(pixels: Frames, quality: int) -> Frames:
    """Through JPEG and back; frames lie below each other, so that none sees another unless its height is odd."""
    tall = pixels.reshape(-1, *pixels.shape[2:])
    data = cv2.imencode(".jpg", tall, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded: Frames = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return decoded.reshape(pixels.shape)


def covered_scale(mask: Image, share: float) -> float:
    """Width of a sprite, in frame widths of a square frame, so that its mask covers ``share`` of the frame."""
    return math.sqrt(share / max(float(np.count_nonzero(mask > 127)) / mask.size, 1e-3))
