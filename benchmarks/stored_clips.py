"""Generated clips in files: networks that learn from the same ones need not each draw them.

A split is two ``.npy`` files, read through a memory map: frames, uint8 RGB ``[n, T, H, W, 3]``, and labels, int64
``[n, T]``. The training clips lie in the order in which they are learned from, epoch after epoch.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from tsm_edge.training.data import Frames, HeldOutClips, Labels, TrainingClips
from tsm_edge.training.generated import MotionData

SPLITS = ("train", "validation", "test")
_AT_ONCE = 96  # clips a process draws before it hands them over


@dataclass(frozen=True)
class StoredClips:
    """The clips of a :class:`MotionData`, as :func:`store` left them in ``folder``."""

    folder: Path
    data: MotionData

    @property
    def labels(self) -> tuple[str, ...]:
        """The motions."""
        return self.data.labels

    @property
    def origin(self) -> str:
        """In words."""
        return self.data.origin

    def train(self) -> TrainingClips:
        """The clips of as many epochs as were stored."""
        return _Learned(self.folder, self.data.per_epoch)

    def validation(self) -> HeldOutClips:
        """All of them."""
        return _HeldOut(self.folder, "validation")

    def test(self) -> HeldOutClips:
        """All of them."""
        return _HeldOut(self.folder, "test")


def store(folder: Path, data: MotionData, epochs: int, processes: int) -> StoredClips:
    """Draw all clips of ``epochs`` epochs, and those that are measured on; a split that is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"train": epochs * data.per_epoch, "validation": data.validation_clips, "test": data.test_clips}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin) as pool:
        for split in SPLITS:
            frames, labels = _files(folder, split)
            if labels.exists():
                continue
            drawn = pool.map(functools.partial(_drawn, data, split), *_pieces(split, counts[split], data.per_epoch))
            shape = (counts[split], data.frames)
            pixels = open_memmap(frames, "w+", np.uint8, (*shape, data.size, data.size, 3))
            truth, end = np.empty(shape, np.int64), 0
            for some_pixels, some_truth in drawn:
                begin, end = end, end + len(some_truth)
                pixels[begin:end], truth[begin:end] = some_pixels, some_truth
            pixels.flush()
            # The labels last: where they are, the frames are whole.
            unfinished = labels.with_suffix(".unfinished.npy")
            np.save(unfinished, truth)
            unfinished.replace(labels)
    return StoredClips(folder, data)


def _pieces(split: str, count: int, per_epoch: int) -> tuple[list[int], list[range]]:
    """Epochs, and places in them, of what is drawn at once."""
    size = per_epoch if split == "train" else count
    pieces = [
        (first // size, range(first % size + begin, min(first % size + begin + _AT_ONCE, size)))
        for first in range(0, count, size)
        for begin in range(0, size, _AT_ONCE)
    ]
    return [epoch for epoch, _ in pieces], [places for _, places in pieces]


def _begin() -> None:
    import cv2

    cv2.setNumThreads(1)


def _drawn(data: MotionData, split: str, epoch: int, places: Sequence[int]) -> tuple[Frames, Labels]:
    if split == "train":
        return data.train().training_batch(epoch, places)
    return (data.validation() if split == "validation" else data.test()).batch(places)


def _files(folder: Path, split: str) -> tuple[Path, Path]:
    return folder / f"{split}-frames.npy", folder / f"{split}-labels.npy"


@functools.lru_cache(maxsize=8)
def _read(folder: Path, split: str) -> tuple[Frames, Labels]:
    frames, labels = _files(folder, split)
    return np.load(frames, mmap_mode="r"), np.load(labels)


@dataclass(frozen=True)
class _Learned:
    folder: Path
    per_epoch: int

    def training_batch(self, epoch: int, places: Sequence[int]) -> tuple[Frames, Labels]:
        return _some(self.folder, "train", [epoch * self.per_epoch + place for place in places])


@dataclass(frozen=True)
class _HeldOut:
    folder: Path
    split: str

    def __len__(self) -> int:
        return len(_read(self.folder, self.split)[1])

    def batch(self, indices: Sequence[int]) -> tuple[Frames, Labels]:
        return _some(self.folder, self.split, list(indices))

    def name(self, index: int) -> str:
        """Its number."""
        return f"{self.split} clip {index}"


def _some(folder: Path, split: str, places: list[int]) -> tuple[Frames, Labels]:
    frames, labels = _read(folder, split)
    return np.array(frames[places]), labels[places]
