"""Steadies the shown label of a stream, by the rules a model card declares (:class:`tsm_edge.cards.Smoothing`).

In this order, for each prediction:

1. ``window``: the logits of the latest frames are added up; the prediction is the largest sum.
2. ``masked``: a masked class counts as a prediction of the label already shown.
3. ``shown_as``: a class is replaced by the one shown instead.
4. ``agree``: the shown label changes when this many predictions in a row agree on the same other label.

The first prediction after a reset is shown at once (of a masked class, the best class that is not masked).

Of a model that ends in a softmax or sigmoid the logits are found again, so that the rules mean the same for it, and its
probabilities are not turned into probabilities once more.

The upstream demo (``online_demo/main.py`` of temporal-shift-module) has rules 1 to 3 and, for rule 4, one that is
close but not the same: there a label may change as soon as the last two labels *shown* were equal, so that a stray
prediction is shown, and then held for a second frame. Rule 4 never shows a prediction that came only once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsm_edge.artifact.manifest import Activation
from tsm_edge.cards import Smoothing
from tsm_edge.errors import CardError

Scores = npt.NDArray[np.float64]
# Keeps the logarithm of a probability that float32 rounded to 0 or 1 finite.
_SMALLEST = 1e-30


@dataclass(frozen=True)
class Shown:
    """A label to show.

    Attributes
    ----------
    class_index : int
        The class.
    probability : float
        0..1: softmax of the mean logits of the window, summed over the classes that are shown as this one; of a model
        that ends in a sigmoid, that function, and the largest of these classes.
    """

    class_index: int
    probability: float


def probabilities(output: npt.NDArray[np.float32] | Scores, activation: Activation) -> Scores:
    """The probability of each class, of a model's output ``[classes]`` on one frame."""
    if activation:
        return np.asarray(output, np.float64)
    exponentials: Scores = np.exp(output.astype(np.float64) - output.max())
    exponentials /= exponentials.sum()
    return exponentials


class Smoother:
    """Applies a card's smoothing to one stream. With the default card it is plain arg max and softmax.

    Parameters
    ----------
    settings : Smoothing
        The rules.
    classes : int
        Width of the logits.
    activation : {"", "softmax", "sigmoid"}
        What the model has applied to its logits itself.

    Raises
    ------
    CardError
        Every class is masked, or a rule names a class that does not exist.
    """

    def __init__(self, settings: Smoothing, classes: int, activation: Activation = "") -> None:
        named = {*settings.masked, *(index for pair in settings.shown_as for index in pair)}
        if any(not 0 <= index < classes for index in named):
            raise CardError(
                f"smoothing names class {max(named)}, expected 0 to {classes - 1}", "correct [smoothing] of its card"
            )
        if len(set(settings.masked)) >= classes:
            raise CardError(
                "smoothing masks every class, expected at least one that can be shown",
                "correct [smoothing] of its card",
            )
        self._settings = settings
        self._activation = activation
        self._shown_as = np.arange(classes)
        for index, instead in settings.shown_as:
            self._shown_as[index] = instead
        self._masked = np.zeros(classes, np.bool_)
        self._masked[list(settings.masked)] = True
        self._history: deque[Scores] = deque(maxlen=settings.window)
        self._shown: int | None = None
        self._candidate: int | None = None
        self._votes = 0

    def reset(self) -> None:
        """Forget the stream: what comes next belongs to another one."""
        self._history.clear()
        self._shown = self._candidate = None
        self._votes = 0

    def update(self, output: npt.NDArray[np.float32]) -> Shown:
        """Take the model's output of one frame, ``[classes]`` or ``[1, classes]``, and return the label to show."""
        self._history.append(logits_of(np.array(output, np.float64).reshape(-1), self._activation))
        mean: Scores = np.stack(self._history).mean(axis=0)
        self._shown = self._vote(mean)
        return Shown(self._shown, self._probability(mean, self._shown_as == self._shown))

    def _probability(self, mean: Scores, members: npt.NDArray[np.bool_]) -> float:
        if self._activation == "sigmoid":
            return float(1 / (1 + np.exp(-mean[members].max())))
        exponentials = np.exp(mean - mean.max())
        return float(exponentials[members].sum() / exponentials.sum())

    def _vote(self, mean: Scores) -> int:
        predicted = int(np.argmax(mean))
        if self._shown is None:
            return int(self._shown_as[int(np.argmax(np.where(self._masked, -np.inf, mean)))])
        label = self._shown if self._masked[predicted] else int(self._shown_as[predicted])
        if label == self._shown:
            self._candidate, self._votes = None, 0
            return self._shown
        self._votes = self._votes + 1 if label == self._candidate else 1
        self._candidate = label
        if self._votes < self._settings.agree:
            return self._shown
        self._candidate, self._votes = None, 0
        return label


def logits_of(output: Scores, activation: Activation) -> Scores:
    """The logits behind a model's output; behind a softmax but for a number common to all classes, which is lost."""
    if activation == "":
        return output
    logits: Scores = np.log(np.maximum(output, _SMALLEST))
    return logits - np.log(np.maximum(1 - output, _SMALLEST)) if activation == "sigmoid" else logits
