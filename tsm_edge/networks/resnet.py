"""ResNet-18/34/50/101, ResNeXt-101 32x8d and non-local ResNet-50, with torchvision's tensor names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from tsm_edge.cards import NetworkSpec, height_width
from tsm_edge.networks.backbone import Backbone, Shifted, halved
from tsm_edge.networks.non_local import NonLocal
from tsm_edge.networks.temporal_shift import Shift, fold_of

_STEM_CHANNELS = 64


@dataclass(frozen=True)
class ResNetPlan:
    """What tells the family's members apart.

    Attributes
    ----------
    blocks : tuple of 4 int
        Residual blocks of each layer (ResNet paper, table 1).
    bottleneck : bool
        Blocks of three convolutions whose output is four times as wide, instead of two.
    groups, group_width : int
        ResNeXt's cardinality and width (32 and 8 for 32x8d); 1 and 64 are a plain ResNet.
    non_local : tuple of (int, int)
        Blocks followed by a non-local block, as (layer counted from 1, block counted from 0); upstream's choice
        (``ops/non_local.py``).
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64
    non_local: tuple[tuple[int, int], ...] = ()

    def channels(self, base: int) -> tuple[int, int]:
        """Channels at the end of a block and between its convolutions, for a layer of ``base`` channels."""
        return (base * 4 if self.bottleneck else base), base * self.groups * self.group_width // 64


PLANS = {
    "resnet-18": ResNetPlan((2, 2, 2, 2), bottleneck=False),
    "resnet-34": ResNetPlan((3, 4, 6, 3), bottleneck=False),
    "resnet-50": ResNetPlan((3, 4, 6, 3)),
    "resnet-101": ResNetPlan((3, 4, 23, 3)),
    "resnext-101-32x8d": ResNetPlan((3, 4, 23, 3), groups=32, group_width=8),
    "resnet-50-nl": ResNetPlan((3, 4, 6, 3), non_local=((2, 0), (2, 2), (3, 0), (3, 2), (3, 4))),
}


class ResidualBlock(Shifted):
    """Two or three convolutions beside an identity path; a non-local block may follow.

    Parameters
    ----------
    plan : ResNetPlan
    inputs : int
        Channels of the input.
    base : int
        The layer's channels before the plan widens them: 64, 128, 256 or 512.
    stride : int
        Of the (first) 3x3 convolution and of the identity path.
    fold, in_place
        As for :class:`~tsm_edge.networks.backbone.Shifted`.
    """

    def __init__(self, plan: ResNetPlan, inputs: int, base: int, stride: int, fold: int, in_place: bool) -> None:
        super().__init__(fold, in_place)
        outputs, middle = plan.channels(base)
        self.relu = nn.ReLU()
        if plan.bottleneck:
            self.conv1, self.bn1 = _conv_bn(inputs, middle, 1)
            self.conv2, self.bn2 = _conv_bn(middle, middle, 3, stride, plan.groups)
            self.conv3, self.bn3 = _conv_bn(middle, outputs, 1)
        else:
            self.conv1, self.bn1 = _conv_bn(inputs, middle, 3, stride)
            self.conv2, self.bn2 = _conv_bn(middle, outputs, 3)
        changes = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(*_conv_bn(inputs, outputs, 1, stride)) if changes else None
        self.last_norm_name = "bn3" if plan.bottleneck else "bn2"
        self.nl: NonLocal | None = None

    def forward(self, x: Tensor, shift: Shift) -> Tensor:
        identity, branch = self.paths(x, shift)
        if self.downsample is not None:
            identity = self.downsample(identity)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(branch)))))
        if self.last_norm_name == "bn3":
            out = self.bn3(self.conv3(self.relu(out)))
        result: Tensor = self.relu(out + identity)
        return result if self.nl is None else self.nl(result)


class ResNet(Backbone):
    """A residual network; every block's first convolution is shifted, or every second one's in the deep members."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        plan = PLANS[spec.backbone]
        in_place = spec.shift_place == "in-place"
        # Upstream's n_round: deep networks shift every second block of a layer, though its in-place ("block")
        # placement shifts all of them.
        every = 2 if plan.blocks[2] >= 23 and not in_place else 1
        self.conv1, self.bn1 = _conv_bn(spec.channels, _STEM_CHANNELS, 7, stride=2)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, size = _STEM_CHANNELS, halved(halved(height_width(spec.frame_size)))
        shapes = []
        for layer, count in enumerate(plan.blocks, start=1):
            base = 64 * 2 ** (layer - 1)
            blocks = nn.ModuleList()
            for index in range(count):
                stride = 2 if layer > 1 and index == 0 else 1
                fold = fold_of(channels, spec.shift_proportion) if index % every == 0 else 0
                if fold:
                    shapes.append((1, fold, *size))
                block = ResidualBlock(plan, channels, base, stride, fold, in_place)
                channels, size = plan.channels(base)[0], halved(size) if stride == 2 else size
                if (layer, index) in plan.non_local:
                    block.nl = NonLocal(channels, spec.frames)
                blocks.append(block)
            self.add_module(f"layer{layer}", blocks)
        self.fc = nn.Linear(channels, spec.classes)
        self.shift_shapes = tuple(shapes)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def extract(self, x: Tensor, shift: Shift) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for block in self._blocks():
            x = block(x, shift)
        return x

    def residual_norms(self) -> Iterator[nn.BatchNorm2d]:
        for block in self._blocks():
            yield getattr(block, block.last_norm_name)
            if block.nl is not None:
                yield cast(nn.BatchNorm2d, block.nl.W[1])

    def _blocks(self) -> Iterator[ResidualBlock]:
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            yield from cast(Iterator[ResidualBlock], layer)


def _conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(outputs)
