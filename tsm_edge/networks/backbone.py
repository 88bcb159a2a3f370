"""What every backbone has in common: features, shifted where it says so, then the mean over space and a classifier."""

from __future__ import annotations

import abc
from collections.abc import Iterator

from torch import Tensor, nn

from tsm_edge.networks.temporal_shift import Shift


class Shifted(nn.Module):
    """A residual block that may look at another frame.

    Parameters
    ----------
    fold : int
        Channels of the block's input that come from another frame; 0: the block is not shifted.
    in_place : bool
        The identity path sees the shifted features too, not only the residual branch.

    Notes
    -----
    TSM paper, figure 3: (a) in-place, (b) residual.
    """

    def __init__(self, fold: int, in_place: bool) -> None:
        super().__init__()
        self.fold = fold
        self.in_place = in_place

    def paths(self, x: Tensor, shift: Shift) -> tuple[Tensor, Tensor]:
        """Return the inputs of the identity path and of the residual branch, both [frames, C, H, W]."""
        if not self.fold:
            return x, x
        shifted = shift(x, self.fold)
        return (shifted if self.in_place else x), shifted

    @abc.abstractmethod
    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        """Map [frames, C, H, W] to [frames, C', H', W']."""


class Backbone(nn.Module):
    """A 2-D network over frames.

    Attributes
    ----------
    shift_shapes : tuple of tuple of int
        NCHW shape of what each shifted block takes from another frame, in the order of the forward pass; for online
        networks, the shapes of the caches.
    """

    shift_shapes: tuple[tuple[int, ...], ...]

    @property
    @abc.abstractmethod
    def head(self) -> nn.Linear:
        """The classifier."""

    @abc.abstractmethod
    def extract(self, x: Tensor, shift: Shift) -> Tensor:
        """Map frames [frames, 3, H, W] to features [frames, C, H', W']."""

    @abc.abstractmethod
    def residual_norms(self) -> Iterator[nn.BatchNorm2d]:
        """The last BatchNorm of every residual branch that is added to an identity path."""

    def layer_names(self) -> dict[str, str]:
        """Module -> what people call it, of every convolution and dense layer: ``layer2.0.conv2``."""
        kinds = (nn.Conv2d, nn.Linear)
        return {name: name for name, module in self.named_modules() if isinstance(module, kinds)}

    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        """Map frames [frames, 3, H, W] to logits [frames, classes]."""
        logits: Tensor = self.head(self.extract(x, shift).mean((2, 3)))
        return logits


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after a convolution or pooling of stride 2 with "same" padding."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
