"""How far a model in integers is from its float model: quality, where equality with the integers is correctness."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.folder import MODEL_ONNX, Artifact
from tsm_edge.artifact.reference import Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Networks that were quantised well have 28 to 33 dB; one whose weights share a scale had 9, and was useless.
LEAST_DB, GOOD_DB = 15.0, 25.0


# A frame, the logits made of it, and whether a stream begins with it.
Step = tuple[np.ndarray, np.ndarray, bool]


class Quality:
    """Signal-to-noise ratio of logits against the float model, over some frames.

    Parameters
    ----------
    artifact : Artifact
        Of a model in integers.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._floats = Reference(artifact.path / MODEL_ONNX, artifact.manifest)
        self._signal = self._noise = 0.0

    def reset(self) -> None:
        """The next frame begins a stream."""
        self._floats.reset()

    def add(self, frame: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        """A frame, and the logits of the model in integers."""
        wanted = self._floats.step(frame)[0]
        self._signal += float(np.square(wanted, dtype=np.float64).sum())
        self._noise += float(np.square(logits - wanted, dtype=np.float64).sum())

    @property
    def ratio_db(self) -> float:
        """Of all frames together, dB."""
        return math.inf if self._noise == 0 else 10 * math.log10(max(self._signal, 1e-30) / self._noise)


def quality_of(artifact: Artifact, steps: Iterable[Step]) -> float | None:
    """The ratio over some steps, dB; None: it is not a model in integers."""
    if not artifact.manifest.exact:
        return None
    quality = Quality(artifact)
    for frame, logits, begins in steps:
        if begins:
            quality.reset()
        quality.add(frame, logits)
    return quality.ratio_db
