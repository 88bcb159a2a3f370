"""The generated motion clips as data to train on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsm_edge.training.clips import MotionClips
from tsm_edge.training.data import Frames, HeldOutClips, Labels, TrainingClips
from tsm_edge.training.motions import LABELS

# What is told apart last, and least well: trained on twice as often.
_HARD = ("still", "appear", "vanish")


@dataclass(frozen=True)
class MotionData:
    """Generated clips, new in every epoch.

    Attributes
    ----------
    frames, size : int
        Of a clip; of a frame, pixels.
    per_epoch : int
        Clips of an epoch.
    seed : int
        Of the training clips; validation and test clips are always the same.
    streamed : float
        Share of training clips that are cut from a stream.
    validation_clips, test_clips : int
    """

    frames: int
    size: int
    per_epoch: int = 1920
    seed: int = 0
    streamed: float = 0.5
    validation_clips: int = 360
    test_clips: int = 1200

    @property
    def labels(self) -> tuple[str, ...]:
        """The motions."""
        return LABELS

    @property
    def origin(self) -> str:
        """In words."""
        return "generated motion clips"

    def train(self) -> TrainingClips:
        """New clips in every epoch."""
        clips = MotionClips("train", self.seed, self.frames, self.size, self.streamed, again=_HARD)
        return _Fresh(clips, self.per_epoch)

    def validation(self) -> HeldOutClips:
        """Of seed 0."""
        return _Fixed(MotionClips("validation", 0, self.frames, self.size), self.validation_clips)

    def test(self) -> HeldOutClips:
        """Of seed 0."""
        return held_out(self.frames, self.size, self.test_clips)


def held_out(frames: int, size: int, count: int) -> HeldOutClips:
    """The first ``count`` test clips, always the same."""
    return _Fixed(MotionClips("test", 0, frames, size), count)


@dataclass(frozen=True)
class _Fresh:
    clips: MotionClips
    per_epoch: int

    def training_batch(self, epoch: int, places: Sequence[int]) -> tuple[Frames, Labels]:
        # In another order each epoch: where classes follow each other, the statistics of a batch give them away.
        order = np.random.default_rng([self.clips.seed, 5, epoch]).permutation(self.per_epoch)
        return self.clips.batch(epoch * self.per_epoch + int(order[place]) for place in places)


@dataclass(frozen=True)
class _Fixed:
    clips: MotionClips
    count: int

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> tuple[Frames, Labels]:
        return _kept(self.clips, tuple(indices))

    def name(self, index: int) -> str:
        """Its number."""
        return f"{self.clips.split} clip {index}"


@functools.lru_cache(maxsize=16)  # the validation clips: they are measured on again and again
def _kept(clips: MotionClips, indices: tuple[int, ...]) -> tuple[Frames, Labels]:
    return clips.batch(indices)
