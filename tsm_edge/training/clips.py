"""Generated clips in which the class is the motion, not the look: what the shipped model is trained and measured on.

Any clip of a split is made from its number alone: the same seed, split and number give the same pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from tsm_edge.training.data import SEEN_AFTER, UNSEEN, Frames, Labels
from tsm_edge.training.motions import LABELS, Path, Speeds, fade_seen, led_into, offsets, placed
from tsm_edge.training.render import Scene, covered_scale, draw_camera, render
from tsm_edge.training.textures import Image, Random, silhouettes, textures

Split = Literal["train", "validation", "test"]

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# The test's motions are partly faster than any the network was trained on.
_SPEEDS = {
    "train": Speeds((0.020, 0.070), (0.025, 0.060), (0.09, 0.28), (0.05, 0.17), (5, 9)),
    "validation": Speeds((0.022, 0.065), (0.028, 0.055), (0.10, 0.26), (0.05, 0.16), (5, 8.5)),
    "test": Speeds((0.024, 0.078), (0.028, 0.065), (0.10, 0.31), (0.06, 0.18), (5, 8.5)),
}
# Of tsm_edge.training.textures.FAMILIES. Plaid is in no training clip, checks in no validation clip.
_FAMILIES = {"train": (0, 1, 2, 3, 4, 5), "validation": (0, 1, 3, 4, 5), "test": (0, 1, 2, 3, 4, 5, 6)}
_BANK = {"train": 420, "validation": 120, "test": 140}


@dataclass(frozen=True)
class Bank:
    """What scenes are made of: textures uint8 RGB ``[n, H, W, 3]`` and silhouettes ``[n, H, W]``."""

    textures: Image = field(repr=False)
    silhouettes: Image = field(repr=False)


@functools.lru_cache(maxsize=8)
def bank(split: Split, seed: int) -> Bank:
    """Draw a split's textures and silhouettes; no split has a texture of another."""
    random = np.random.default_rng([seed, _SPLITS.index(split), 0xBA])
    count = _BANK[split]
    return Bank(textures(random, count, _FAMILIES[split]), silhouettes(random, count))


def speeds_of(split: Split) -> Speeds:
    """The ranges a split's motions are drawn from."""
    return _SPEEDS[split]


@dataclass(frozen=True)
class MotionClips:
    """A split of the generated clips.

    Attributes
    ----------
    split : {"train", "validation", "test"}
    seed : int
    frames : int
        Of a clip.
    size : int
        Height and width of a frame, pixels.
    streamed : float
        Share of the clips that are cut from a stream: they begin with another motion, or in the middle of theirs.
    again : tuple of str
        Labels that come twice in each round through the classes.
    """

    split: Split
    seed: int = 0
    frames: int = 12
    size: int = 48
    streamed: float = 0.0
    again: tuple[str, ...] = ()

    def clip(self, index: int) -> tuple[Frames, Labels]:
        """Make one clip.

        Parameters
        ----------
        index : int
            Its number; classes follow each other.

        Returns
        -------
        frames : ndarray
            uint8 RGB ``[frames, size, size, 3]``.
        labels : ndarray
            int64 ``[frames]``: the class of each frame; :data:`UNSEEN` where a new motion cannot be seen yet.
        """
        random = np.random.default_rng([self.seed, _SPLITS.index(self.split), 1, index])
        classes = (*LABELS, *self.again)
        label = LABELS.index(classes[index % len(classes)])
        path, lead = self._path(label, random)
        labels = np.full(self.frames, label, np.int64)
        labels[: max(lead + SEEN_AFTER, fade_seen(path.opacity[lead:]) + lead)] = UNSEEN
        path = _with_drops(path, random)
        scene = draw_scene(bank(self.split, self.seed), random)
        return render(scene, path, draw_camera(self.frames, random), self.size, self.size, random), labels

    def _path(self, label: int, random: Random) -> tuple[Path, int]:
        """The object's path, and how many of its frames belong to another motion."""
        speeds, still = _SPEEDS[self.split], LABELS[label] == "still"
        if random.random() >= self.streamed:
            return placed(offsets(label, self.frames, speeds, random), still, random), 0
        if random.random() < 0.6:
            lead = int(random.integers(2, self.frames // 2))
            path = placed(offsets(label, self.frames - lead, speeds, random), still, random)
            return led_into(path, int(random.integers(len(LABELS))), lead, speeds, random), lead
        longer = int(random.integers(1, self.frames // 2 + 1))
        path = placed(offsets(label, self.frames + longer, speeds, random), still, random)
        first = int(random.integers(longer + 1))
        return Path(*(values[first : first + self.frames] for values in path.columns())), 0

    def batch(self, indices: Iterable[int]) -> tuple[Frames, Labels]:
        """Several clips: uint8 ``[clips, frames, size, size, 3]`` and int64 ``[clips, frames]``."""
        clips, labels = zip(*(self.clip(index) for index in indices), strict=True)
        return np.stack(clips), np.stack(labels)


def draw_scene(parts: Bank, random: Random) -> Scene:
    """Put together an object and a background that can be told apart; sometimes with resting things around."""
    background = _coloured(parts.textures[random.integers(len(parts.textures))], random)
    if random.random() < 0.4:
        background = _furnished(background, parts, random)
    if random.random() < 0.7:  # out of focus, as behind a hand
        background = _blurred(background, float(random.uniform(2, 6)))
    texture = _coloured(parts.textures[random.integers(len(parts.textures))], random)
    mask = parts.silhouettes[random.integers(len(parts.silhouettes))]
    size = mask.shape[0]
    row, column = random.integers(0, texture.shape[0] - size, 2)
    skin = texture[row : row + size, column : column + size]
    if np.abs(skin.mean((0, 1)) - background.mean((0, 1))).max() < 35:
        skin = 255 - skin
        if np.abs(skin.mean((0, 1)) - background.mean((0, 1))).max() < 35:
            skin = (skin.astype(np.int16) // 2 + (128 if background.mean() < 128 else 0)).astype(np.uint8)
    sprite = np.concatenate((skin, mask[..., None]), -1)
    share = float(np.exp(random.uniform(np.log(0.1), np.log(0.5))))
    return Scene(sprite, background, covered_scale(mask, share), float(random.uniform(0.4, 1.0)))


def _coloured(texture: Image, random: Random) -> Image:
    """The texture turned, mirrored, with other colours and another contrast."""
    turned = np.rot90(texture, int(random.integers(4)))
    if random.random() < 0.5:
        turned = turned[:, ::-1]
    turned = turned[..., random.permutation(3)]
    level, contrast = random.uniform(60, 195, 3), random.uniform(0.35, 1.0)
    table = np.clip((np.arange(256) - 128)[:, None] * contrast + level, 0, 255).astype(np.uint8)
    return np.stack([table[turned[..., channel], channel] for channel in range(3)], -1)


def _blurred(background: Image, sigma_px: float) -> Image:
    return np.asarray(cv2.GaussianBlur(background, (0, 0), sigma_px), np.uint8)


def _furnished(background: Image, parts: Bank, random: Random) -> Image:
    """With one or two things that never move."""
    made: Image = background.copy()
    for _ in range(int(random.integers(1, 3))):
        mask = parts.silhouettes[random.integers(len(parts.silhouettes))] > 127
        texture = parts.textures[random.integers(len(parts.textures))]
        size = mask.shape[0]
        row, column = random.integers(0, made.shape[0] - size, 2)
        made[row : row + size, column : column + size][mask] = texture[:size, :size][mask]
    return made


def _with_drops(path: Path, random: Random) -> Path:
    """Sometimes a frame is lost and the one before it shown again."""
    if random.random() >= 0.15:
        return path
    order = np.arange(len(path))
    for lost in random.integers(1, len(path), int(random.integers(1, 3))):
        order[lost] = order[lost - 1]
    return Path(*(values[order] for values in path.columns()))
