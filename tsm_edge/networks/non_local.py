"""Non-local block: every position of a clip attends to every other, over time and space."""

from __future__ import annotations

from torch import Tensor, nn


class NonLocal(nn.Module):
    """Embedded-Gaussian non-local block with sub-sampled keys (Non-local Neural Networks, figure 2; upstream's names).

    Its 1x1x1 convolutions are applied frame by frame as 1x1 ones, which is the same sum.

    Parameters
    ----------
    channels : int
        Of its input and output; the embeddings have half as many.
    frames : int
        Frames of one clip.
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        inner = channels // 2
        self.frames = frames
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        self.g = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [clips * frames, C, H, W] to the same shape."""
        height, width = x.shape[2:]
        query, key, value = (self._positions(layer(x)) for layer in (self.theta, self.phi, self.g))
        attended = (query @ key.transpose(1, 2)).softmax(-1) @ value
        frames = attended.unflatten(1, (self.frames, height, width)).flatten(0, 1).permute(0, 3, 1, 2)
        out: Tensor = x + self.W(frames)
        return out

    def _positions(self, x: Tensor) -> Tensor:
        """Map [clips * frames, C, H, W] to [clips, frames * H * W, C]."""
        return x.unflatten(0, (-1, self.frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)
