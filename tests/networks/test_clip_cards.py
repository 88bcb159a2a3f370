"""Upstream's published checkpoints fit the cards for clips: by their names and shapes, without their gigabytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tsm_edge.cards import NetworkSpec, load_model, model_names
from tsm_edge.errors import CheckpointError
from tsm_edge.networks import OfflineNetwork, build_network
from tsm_edge.networks.checkpoints import flow_from_rgb, read_checkpoint
from tsm_edge.networks.loading import load_into
from tsm_edge.networks.mobilenet_v2 import MobileNetV2
from tsm_edge.networks.resnet import ResNet

CARDS = [name for name in model_names() if load_model(name).network.temporal_mode != "online"]
# Blocks that upstream wraps in a shift (every second of a layer in ResNet-101), and in a non-local block.
SHIFTED = {
    "mobilenet-v2": r"(features\.(?:3|5|6|8|9|10|12|13|15|16)\.conv\.0)\.",
    "resnet-50": r"(layer\d\.\d+\.conv1)\.",
    "resnet-50-nl": r"(layer\d\.\d+(?:\.block)?\.conv1)\.",
    "resnet-101": r"(layer\d\.(?:\d*[02468])\.conv1)\.",
    "resnext-101-32x8d": r"(layer\d\.(?:\d*[02468])\.conv1)\.",
}
NON_LOCAL = r"(layer2\.[02]|layer3\.[024])\.(?!nl\.)"


def shapes_of(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        backbone = MobileNetV2(spec) if spec.backbone == "mobilenet-v2" else ResNet(spec)
    return {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}


def upstreams(spec: NetworkSpec) -> dict[str, Tensor]:
    """A state dict as upstream's training code saves it; each tensor is one number that is read many times."""
    named = {}
    for name, shape in shapes_of(spec).items():
        if name.startswith(("classifier.", "fc.")):
            name = re.sub(r"^(classifier|fc)\.", "module.new_fc.", name)
        else:
            if spec.backbone == "resnet-50-nl":
                name = re.sub(NON_LOCAL, r"\1.block.", name)
                if ".nl." in name and len(shape) == 4:
                    shape = (*shape, 1)
            if spec.temporal_mode == "offline":
                name = re.sub(SHIFTED[spec.backbone], r"\1.net.", name)
            name = f"module.base_model.{name}"
        kind = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        named[name] = torch.zeros(1, dtype=kind).reshape([1] * len(shape)).expand(shape)
    return named


@pytest.fixture(autouse=True)
def values_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are all the same here, and as many as 88 million; ``test_checkpoints.py`` has tests of values."""
    monkeypatch.setattr("tsm_edge.networks.checkpoints._check_values", lambda path, tensors: None)


def saved(folder: Path, spec: NetworkSpec) -> Path:
    torch.save({"epoch": 50, "arch": spec.backbone, "state_dict": upstreams(spec)}, folder / "upstream.pth")
    return folder / "upstream.pth"


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.filterwarnings("error")
def test_a_published_checkpoint_fits_its_card(name: str, tmp_path: Path) -> None:
    spec = load_model(name).network
    checkpoint = read_checkpoint(saved(tmp_path, spec))
    found = (checkpoint.backbone, checkpoint.width, checkpoint.classes, checkpoint.trained_mode, checkpoint.channels)
    assert found == (spec.backbone, 1.0, spec.classes, spec.temporal_mode, spec.channels)
    expected = {key: shape for key, shape in shapes_of(spec).items() if not key.endswith("num_batches_tracked")}
    assert {key: tuple(tensor.shape) for key, tensor in checkpoint.tensors.items()} == expected


@pytest.mark.parametrize(
    ("online", "fitting"),
    [
        ("mobilenetv2-kinetics", "mobilenetv2-kinetics-8f"),
        ("resnet50-kinetics", "resnet50-kinetics-8f"),
        ("resnet50-something", "resnet50-something-16f"),
        ("resnet101-something", "resnet101-something-8f"),
    ],
)
def test_an_online_network_refuses_it_and_names_the_card_that_fits(online: str, fitting: str, tmp_path: Path) -> None:
    path = saved(tmp_path, load_model(fitting).network)
    with pytest.raises(CheckpointError) as caught:
        load_into(cast(Any, None), load_model(online).network, read_checkpoint(path))
    message = str(caught.value)
    assert f"expected weights for an online network; take the model card that fits it: {fitting}; or " in message
    assert "--allow-offline-weights" in message
    assert "\n" not in message


def test_weights_without_a_shift_are_sent_to_the_twin_without_one(tmp_path: Path) -> None:
    path = saved(tmp_path, load_model("resnet50-kinetics-tsn-8f").network)
    with pytest.raises(CheckpointError, match="the model card that fits it: resnet50-kinetics-tsn-8f"):
        load_into(cast(Any, None), load_model("resnet50-kinetics-8f").network, read_checkpoint(path))


def test_rgb_and_flow_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    rgb, flow = load_model("resnet50-kinetics-8f").network, load_model("resnet50-kinetics-flow-8f").network
    with pytest.raises(CheckpointError, match="weights of an RGB network, expected those of one for optical flow"):
        load_into(cast(Any, None), flow, read_checkpoint(saved(tmp_path, rgb)))
    with pytest.raises(CheckpointError, match="that fits it: resnet50-kinetics-flow-8f"):
        load_into(cast(Any, None), rgb, read_checkpoint(saved(tmp_path, flow)))


SMALL = NetworkSpec("resnet-18", 5, "offline", frame_size=32, frames=2)
SMALL_FLOW = NetworkSpec("resnet-18", 5, "offline", frame_size=32, frames=2, channels=10)


def test_a_flow_network_can_begin_with_the_weights_of_an_rgb_one(tmp_path: Path) -> None:
    """On flow whose channels are all the same, it computes what the RGB network does of grey, times 10 / 3."""
    source = build_network(SMALL, seed=3)
    weights = {f"base_model.{name}".replace("conv1.", "conv1.net.") if "layer" in name else name: tensor
               for name, tensor in source.backbone.state_dict().items()}  # fmt: skip
    torch.save(weights, tmp_path / "rgb.pth")
    checkpoint = flow_from_rgb(read_checkpoint(tmp_path / "rgb.pth"))
    network = build_network(SMALL_FLOW)
    load_into(network, SMALL_FLOW, checkpoint)
    assert isinstance(source, OfflineNetwork)
    assert isinstance(network, OfflineNetwork)
    grey = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    of_flow = network.clip_logits(0.3 * grey.expand(2, 10, 32, 32))
    torch.testing.assert_close(of_flow, source.clip_logits(grey.expand(2, 3, 32, 32)), rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="takes 10 channels, expected an RGB network's 3; leave out --from-rgb"):
        flow_from_rgb(checkpoint)
