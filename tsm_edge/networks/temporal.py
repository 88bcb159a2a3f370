"""A backbone in one temporal mode: what is exported, run and loaded."""

from __future__ import annotations

from torch import Tensor, nn

from tsm_edge.networks.backbone import Backbone
from tsm_edge.networks.temporal_shift import OfflineShift, OnlineShift, no_shift


class TemporalNetwork(nn.Module):
    """A backbone with its temporal mode decided.

    Attributes
    ----------
    backbone : Backbone
        Holds every weight; its tensor names are those of a checkpoint.
    cache_shapes : tuple of tuple of int
        NCHW shapes of the shift caches; empty unless the mode is online and something is shifted.
    """

    cache_shapes: tuple[tuple[int, ...], ...] = ()

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone


class OnlineNetwork(TemporalNetwork):
    """One frame and the shift caches in, logits and the next caches out (TSM paper, section 3.4)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.cache_shapes = backbone.shift_shapes

    def forward(self, frame: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Run one frame.

        Parameters
        ----------
        frame : Tensor
            float [1, 3, H, W], normalised RGB.
        *caches : Tensor
            One for each of ``cache_shapes``; zeros before the first frame of a stream.

        Returns
        -------
        tuple of Tensor
            Logits [1, classes], then the caches for the next frame.
        """
        shift = OnlineShift(caches)
        logits = self.backbone(frame, shift)
        return (logits, *shift.next_caches)


class OfflineNetwork(TemporalNetwork):
    """Whole clips in, logits of every frame out."""

    def __init__(self, backbone: Backbone, frames: int) -> None:
        super().__init__(backbone)
        self.frames = frames

    def forward(self, clips: Tensor) -> Tensor:
        """Map clips, float [clips * frames, 3, H, W], to logits of each frame, [clips * frames, classes]."""
        logits: Tensor = self.backbone(clips, OfflineShift(self.frames))
        return logits

    def clip_logits(self, clips: Tensor) -> Tensor:
        """Map clips to the mean of their frames' logits, [clips, classes] (upstream's consensus)."""
        logits: Tensor = self(clips).unflatten(0, (-1, self.frames)).mean(1)
        return logits


class FrameNetwork(TemporalNetwork):
    """Frames in, logits out, no temporal shift (TSN)."""

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames, float [N, 3, H, W], to logits [N, classes]."""
        logits: Tensor = self.backbone(frames, no_shift)
        return logits
