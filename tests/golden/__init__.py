"""Reference cases: what the public TSM implementation computes, in float32, for weights and frames made from a seed.

A case is ``NAME.json`` (seed, gain, number of frames and classes, names and shapes of the state dict's tensors in
upstream's order) and ``NAME.npz`` (the reference's outputs).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


@dataclass(frozen=True)
class GoldenCase:
    """One reference case, ``tests/golden/NAME.*``."""

    name: str
    description: dict[str, Any]

    @property
    def classes(self) -> int:
        """Width of the classifier."""
        return int(self.description["num_classes"])

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Return the weights under upstream's names; tensor ``i`` is drawn from the seed ``[seed, i]``."""
        seed = self.description["seed"]
        return {
            name: self._draw(np.random.default_rng([seed, index]), name.rpartition(".")[2], tuple(shape))
            for index, (name, shape) in enumerate(self.description["keys"])
        }

    def frames(self) -> npt.NDArray[np.float32]:
        """Return the input frames, already normalised, [frames, 3, 224, 224]."""
        generator = np.random.default_rng([self.description["seed"], 1_000_000])
        return generator.normal(0, 1, (self.description["frames"], 3, 224, 224)).astype(np.float32)

    def expected(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return the outputs: ``logits`` a frame and the last ``cache_i`` (online), else ``per_frame_logits`` and
        their mean ``video_logits``."""
        with np.load(FOLDER / f"{self.name}.npz") as stored:
            return dict(stored)

    def _draw(self, generator: np.random.Generator, kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        if kind == "num_batches_tracked":
            return np.zeros(shape, np.int64)
        if kind in ("bias", "running_mean"):
            return generator.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:  # BatchNorm's weight and running_var
            return generator.uniform(0.5, 1.5, shape).astype(np.float32)
        fan_in = math.prod(shape[1:])
        is_convolution = len(shape) > 2
        spread = self.description["gain"] * np.sqrt(2.0 / fan_in) if is_convolution else np.sqrt(1.0 / fan_in)
        return generator.normal(0, spread, shape).astype(np.float32)


def load(name: str) -> GoldenCase:
    """Return the case of that name, one of :data:`NAMES`."""
    return GoldenCase(name, json.loads((FOLDER / f"{name}.json").read_text("utf-8")))
