"""MobileNet-V2 with upstream TSM's channel rounding and tensor names (``archs/mobilenet_v2.py``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import cast

from torch import Tensor, nn

from tsm_edge.cards import NetworkSpec, height_width
from tsm_edge.networks.backbone import Backbone, Shifted, halved
from tsm_edge.networks.temporal_shift import Shift, fold_of

# MobileNet-V2 paper, table 2: expansion, channels, blocks, stride of the first block.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM_CHANNELS = 32
_LAST_CHANNELS = 1280


def round_up_to_8(channels: float) -> int:
    """Round up to a multiple of 8, upstream's rule (the paper's own rounds to the nearest)."""
    return math.ceil(channels / 8) * 8


def block_channels(width: float) -> tuple[int, ...]:
    """Output channels of the 17 inverted residuals, then of the last convolution.

    Upstream's rule: the stem and the first stage keep their channels at every width, and the last convolution never
    has fewer than 1280.
    """
    channels = [
        round_up_to_8(stage * width) if expansion > 1 else stage
        for expansion, stage, blocks, _ in _STAGES
        for _ in range(blocks)
    ]
    return (*channels, round_up_to_8(_LAST_CHANNELS * width) if width > 1.0 else _LAST_CHANNELS)


def width_of(channels: Sequence[int | None]) -> float | None:
    """Find the width multiplier that gives these :func:`block_channels` (None: unknown), in steps of 0.05."""
    for width in (1.0, *(step / 20 for step in range(2, 81))):
        if all(found in (None, made) for found, made in zip(channels, block_channels(width), strict=True)):
            return width
    return None


class InvertedResidual(Shifted):
    """Expand (1x1), filter (depthwise 3x3), project (1x1); added to its input where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, fold: int, in_place: bool) -> None:
        super().__init__(fold, in_place)
        self.adds = _adds(inputs, outputs, stride)
        hidden = inputs * expansion
        expand = _conv_bn_relu(inputs, hidden, 1) if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            *_conv_bn_relu(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        identity, branch = self.paths(x, shift)
        out: Tensor = self.conv(branch)
        return identity + out if self.adds else out


class MobileNetV2(Backbone):
    """MobileNet-V2; its inverted residuals that add and expand are the shifted ones (10 of 17)."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        in_place = spec.shift_place == "in-place"
        *block_outputs, last = block_channels(spec.width)
        first_strides = [
            (expansion, stride if index == 0 else 1)
            for expansion, _, blocks, stride in _STAGES
            for index in range(blocks)
        ]
        channels, size = _STEM_CHANNELS, halved(height_width(spec.frame_size))
        layers: list[nn.Module] = [nn.Sequential(*_conv_bn_relu(spec.channels, channels, 3, stride=2))]
        shapes = []
        for outputs, (expansion, stride) in zip(block_outputs, first_strides, strict=True):
            shifted = expansion > 1 and _adds(channels, outputs, stride)
            fold = fold_of(channels, spec.shift_proportion) if shifted else 0
            layers.append(InvertedResidual(channels, outputs, stride, expansion, fold, in_place))
            if fold:
                shapes.append((1, fold, *size))
            channels, size = outputs, halved(size) if stride == 2 else size
        layers.append(nn.Sequential(*_conv_bn_relu(channels, last, 1)))
        self.features = nn.ModuleList(layers)
        self.classifier = nn.Linear(last, spec.classes)
        self.shift_shapes = tuple(shapes)

    @property
    def head(self) -> nn.Linear:
        return self.classifier

    def layer_names(self) -> dict[str, str]:
        """By block and role: ``features.3 expand``, ``features.3 depthwise``, ``features.3 project``."""
        names = super().layer_names()
        for index, layer in enumerate(self.features):
            block = f"features.{index}"
            inner = [name for name in names if name.startswith(f"{block}.")]
            roles = ("expand", "depthwise", "project")[-len(inner) :] if isinstance(layer, InvertedResidual) else ("",)
            names |= {name: f"{block} {role}".strip() for name, role in zip(inner, roles, strict=True)}
        return names

    def extract(self, x: Tensor, shift: Shift) -> Tensor:
        for layer in self.features:
            x = layer(x, shift) if isinstance(layer, Shifted) else layer(x)
        return x

    def residual_norms(self) -> Iterator[nn.BatchNorm2d]:
        for layer in self.features:
            if isinstance(layer, InvertedResidual) and layer.adds:
                yield cast(nn.BatchNorm2d, layer.conv[-1])


def _adds(inputs: int, outputs: int, stride: int) -> bool:
    return stride == 1 and inputs == outputs


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU6()]
