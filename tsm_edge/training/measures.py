"""What is measured of a classifier on clips: accuracy with its interval, per class, confusions, and how early."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

# Shares of a clip after which its label is asked for (TSM paper, figure 6).
EARLY = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Accuracy:
    """Share of right labels, with its 95 % interval (Wilson's, for a share of independent clips).

    Attributes
    ----------
    right, clips : int
    share, low, high : float
        0..1.
    """

    right: int
    clips: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        if not self.clips:
            return "no clips"
        clips = "1 clip" if self.clips == 1 else f"{self.clips} clips"
        return f"{100 * self.share:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f}, {clips})"


def accuracy(right: int, clips: int) -> Accuracy:
    """Wilson's interval of ``right`` of ``clips``."""
    if not clips:
        return Accuracy(0, 0, 0.0, 0.0, 1.0)
    share = right / clips
    scale = 1 + _Z**2 / clips
    middle = (share + _Z**2 / (2 * clips)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / clips + _Z**2 / (4 * clips**2))
    return Accuracy(right, clips, share, max(middle - half, 0.0), min(middle + half, 1.0))


@dataclass(frozen=True)
class Measures:
    """Of a network on clips.

    Attributes
    ----------
    labels : tuple of str
    overall : Accuracy
        A clip's label is that of the mean of its logits: of an online network those of the second half.
    per_class : tuple of Accuracy
    confusion : tuple of tuple of int
        ``confusion[true][found]``, clips.
    early : tuple of (float, float)
        Share of a clip's frames seen, and the accuracy of the label then, made in the same way.
    """

    labels: tuple[str, ...]
    overall: Accuracy
    per_class: tuple[Accuracy, ...]
    confusion: tuple[tuple[int, ...], ...]
    early: tuple[tuple[float, float], ...]


def label_after(logits: Logits, seen: int, online: bool) -> Labels:
    """Labels ``[clips]`` after the first ``seen`` frames of logits ``[clips, T, classes]``.

    The frames of an online network know more and more, so that the mean is over the later half of them. For the others
    it is over all of them (upstream's consensus).
    """
    found: Labels = logits[:, seen // 2 if online else 0 : seen].mean(1).argmax(-1)
    return found


def measure(logits: Logits, truth: Labels, labels: tuple[str, ...], online: bool = True) -> Measures:
    """Measure.

    Parameters
    ----------
    logits : ndarray
        float32 ``[clips, T, classes]``, of each frame.
    truth : ndarray
        int64 ``[clips]``.
    labels : tuple of str
        Names of the classes.
    online : bool
        The network has seen no later frame than each logit's.
    """
    frames, classes = logits.shape[1], len(labels)
    found = label_after(logits, frames, online)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, found), 1)
    right = confusion.diagonal()
    seen = {share: max(round(share * frames), 1) for share in EARLY}
    early = tuple((share, float((label_after(logits, seen[share], online) == truth).mean())) for share in EARLY)
    return Measures(
        labels,
        accuracy(int(right.sum()), len(truth)),
        tuple(accuracy(int(right[index]), int(confusion[index].sum())) for index in range(classes)),
        tuple(tuple(int(count) for count in row) for row in confusion),
        early,
    )
