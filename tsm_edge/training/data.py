"""What clips look like to whoever learns from them or is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

# The label of a frame that cannot be told yet.
UNSEEN = -1
# So many frames of a motion are needed to see it.
SEEN_AFTER = 4


class TrainingClips(Protocol):
    """Clips to learn from."""

    @property
    def per_epoch(self) -> int:
        """Clips of an epoch."""

    def training_batch(self, epoch: int, places: Sequence[int]) -> tuple[Frames, Labels]:
        """Clips at these places of an epoch: uint8 RGB ``[n, T, H, W, 3]``, and the label of each frame ``[n, T]``.

        :data:`UNSEEN` stands for a frame that cannot be told yet.
        """


class HeldOutClips(Protocol):
    """Clips to measure on."""

    def __len__(self) -> int:
        """How many."""

    def batch(self, indices: Sequence[int]) -> tuple[Frames, Labels]:
        """As :meth:`TrainingClips.training_batch`, in an order that never changes."""

    def name(self, index: int) -> str:
        """What a person finds the clip by."""


class Data(Protocol):
    """Clips of all three splits, with the names of their classes.

    Its ``repr`` tells it from other clips: a training goes on with the same ones only.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def origin(self) -> str:
        """Where the clips come from, in words."""

    def train(self) -> TrainingClips:
        """To learn from."""

    def validation(self) -> HeldOutClips:
        """To watch progress on."""

    def test(self) -> HeldOutClips:
        """Measured on once, at the end."""
