"""The temporal shift: one implementation for each temporal mode, shared by every backbone.

A backbone calls ``shift(x, fold)`` wherever its features should see another frame, and knows nothing else about time.
``fold`` is the number of channels taken from another frame (:func:`fold_of`). What the call does depends on the mode:

=====================  =============================================================================================
:func:`no_shift`       nothing (TSN)
:class:`OnlineShift`   channels ``[0, fold)`` come from the previous frame, through explicit caches (TSM paper, 3.4)
:class:`OfflineShift`  channels ``[0, fold)`` come from the next frame of the clip, ``[fold, 2 fold)`` from the
                       previous one (upstream's order, ``ops/temporal_shift.py``)
:class:`CausalShift`   what :class:`OnlineShift` computes frame by frame, over a whole clip at once: its oracle
=====================  =============================================================================================

The frame before the first and the one after the last are zeros in every mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

Shift = Callable[[Tensor, int], Tensor]
"""``shift(x, fold)``: ``x`` float [frames, C, H, W] to the same shape, ``0 < fold <= C``."""


def fold_of(channels: int, proportion: Fraction) -> int:
    """Channels that a shift of ``proportion`` takes from another frame, rounded down as upstream does (``C // 8``)."""
    return channels * proportion.numerator // proportion.denominator


def no_shift(x: Tensor, fold: int) -> Tensor:
    """Leave the features as they are (TSN); ``fold`` is ignored."""
    return x


class OnlineShift:
    """Take the first channels from the previous frame's caches, and keep this frame's for the next.

    One object serves one forward pass: its caches are used up in the order the backbone asks for them.

    Parameters
    ----------
    caches : sequence of Tensor
        float [1, fold, H, W] each, in the backbone's order; zeros before the first frame of a stream.

    Attributes
    ----------
    next_caches : list of Tensor
        The caches to give to the next frame, filled in as the pass proceeds; same shapes and order.
    """

    def __init__(self, caches: Sequence[Tensor]) -> None:
        self._caches = iter(caches)
        self.next_caches: list[Tensor] = []

    def __call__(self, x: Tensor, fold: int) -> Tensor:
        cache = next(self._caches)
        self.next_caches.append(x[:, :fold])
        # With every channel shifted there is nothing to concatenate: keep empty tensors out of the graph.
        return cache if fold == x.shape[1] else torch.cat((cache, x[:, fold:]), dim=1)


class OfflineShift:
    """Bi-directional shift of clips, all frames at once.

    Parameters
    ----------
    frames : int
        Frames of one clip; the batch dimension is a whole number of clips, one after another.
    """

    def __init__(self, frames: int) -> None:
        self._frames = frames

    def __call__(self, x: Tensor, fold: int) -> Tensor:
        clips = x.unflatten(0, (-1, self._frames))
        nothing = torch.zeros_like(clips[:, :1, :fold])
        from_next = torch.cat((clips[:, 1:, :fold], nothing), dim=1)
        from_previous = torch.cat((nothing, clips[:, :-1, fold : 2 * fold]), dim=1)
        return torch.cat((from_next, from_previous, clips[:, :, 2 * fold :]), dim=2).flatten(0, 1)


class CausalShift:
    """Uni-directional shift of clips, all frames at once: what an online network sees, without its caches.

    Parameters
    ----------
    frames : int
        As for :class:`OfflineShift`.
    """

    def __init__(self, frames: int) -> None:
        self._frames = frames

    def __call__(self, x: Tensor, fold: int) -> Tensor:
        clips = x.unflatten(0, (-1, self._frames))
        nothing = torch.zeros_like(clips[:, :1, :fold])
        from_previous = torch.cat((nothing, clips[:, :-1, :fold]), dim=1)
        return torch.cat((from_previous, clips[:, :, fold:]), dim=2).flatten(0, 1)
