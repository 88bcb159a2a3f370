"""TSM networks in PyTorch: backbones, the temporal shift, checkpoints.

Importing this package imports PyTorch; only the commands that export or train need it.
"""

from __future__ import annotations

import torch
from torch import nn

from tsm_edge.cards import NetworkSpec
from tsm_edge.networks.backbone import Backbone
from tsm_edge.networks.mobilenet_v2 import MobileNetV2
from tsm_edge.networks.resnet import ResNet
from tsm_edge.networks.temporal import FrameNetwork, OfflineNetwork, OnlineNetwork, TemporalNetwork

__all__ = ["FrameNetwork", "OfflineNetwork", "OnlineNetwork", "TemporalNetwork", "build_network"]


def build_network(spec: NetworkSpec, seed: int = 0) -> TemporalNetwork:
    """Build a network in eval mode with seeded random weights.

    Parameters
    ----------
    spec : NetworkSpec
    seed : int
        The same spec and seed give the same weights; PyTorch's global generator is neither used nor moved.

    Returns
    -------
    TemporalNetwork
        :class:`OnlineNetwork`, :class:`OfflineNetwork` or :class:`FrameNetwork`, after ``spec.temporal_mode``.
    """
    # PyTorch's own initialisation draws from the global generator and costs time: build without storage, then fill.
    with torch.device("meta"):
        backbone: Backbone = MobileNetV2(spec) if spec.backbone == "mobilenet-v2" else ResNet(spec)
    backbone.to_empty(device="cpu")
    _fill(backbone, torch.Generator().manual_seed(seed))
    network: TemporalNetwork
    if spec.temporal_mode == "online":
        network = OnlineNetwork(backbone)
    elif spec.temporal_mode == "offline":
        network = OfflineNetwork(backbone, spec.frames)
    else:
        network = FrameNetwork(backbone)
    network.eval().requires_grad_(False)
    return network


@torch.no_grad()
def _fill(backbone: Backbone, generator: torch.Generator) -> None:
    """Random weights that keep features and logits of order one (He initialisation, BatchNorm away from identity)."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, module.in_features**-0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.8, 1.2, generator=generator)
            module.bias.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
            module.num_batches_tracked.zero_()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.normal_(0, 0.1, generator=generator)
    # Each residual branch adds 1/n of the variance, so that depth does not blow the features up.
    norms = list(backbone.residual_norms())
    for norm in norms:
        norm.weight.mul_(len(norms) ** -0.5)
