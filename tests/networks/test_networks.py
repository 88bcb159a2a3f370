"""Building networks: shapes, caches, seeds, and the sizes the literature gives."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from tsm_edge.cards import BACKBONES, Extent, NetworkSpec, TemporalMode, height_width
from tsm_edge.networks import build_network
from tsm_edge.networks.mobilenet_v2 import block_channels, width_of

MODES: tuple[TemporalMode, ...] = ("online", "offline", "none")
# As torchvision documents them for 1000 classes.
IMAGENET_PARAMETERS = {
    "mobilenet-v2": 3_504_872,
    "resnet-18": 11_689_512,
    "resnet-34": 21_797_672,
    "resnet-50": 25_557_032,
    "resnet-101": 44_549_160,
    "resnext-101-32x8d": 88_791_336,
}
COMBINATIONS = [(b, m) for b in BACKBONES for m in MODES if (b, m) != ("resnet-50-nl", "online")]


@pytest.mark.parametrize(("backbone", "mode"), COMBINATIONS)
@torch.inference_mode()
def test_every_backbone_in_every_mode(backbone: str, mode: TemporalMode) -> None:
    network = build_network(NetworkSpec(backbone, 6, mode, frame_size=64, frames=2))
    assert not network.training
    frames = torch.randn(1 if mode == "online" else 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    out = network(frames, *(torch.ones(shape) for shape in network.cache_shapes))
    logits = out[0] if mode == "online" else out
    assert logits.shape == (len(frames), 6)
    assert logits.isfinite().all()
    assert 0.1 < logits.std() < 20
    if mode == "online":
        assert tuple(tuple(cache.shape) for cache in out[1:]) == network.cache_shapes != ()
    else:
        assert network.cache_shapes == ()
        assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_mobilenet_v2_caches() -> None:
    shapes = [(3, 56), *[(4, 28)] * 2, *[(8, 14)] * 3, *[(12, 14)] * 2, *[(20, 7)] * 2]
    assert build_network(NetworkSpec("mobilenet-v2", 27)).cache_shapes == tuple((1, c, s, s) for c, s in shapes)


def test_resnet_50_caches() -> None:
    shapes = build_network(NetworkSpec("resnet-50", 400)).cache_shapes
    assert len(shapes) == 16
    assert sum(map(math.prod, shapes)) == 702_464


def test_deep_resnets_shift_every_second_block() -> None:
    # 2 of 3, 2 of 4, 12 of 23 and 2 of 3 blocks, counted from 0.
    assert len(build_network(NetworkSpec("resnet-101", 174)).cache_shapes) == 18


@pytest.mark.parametrize("backbone", ["resnet-18", "mobilenet-v2"])
@pytest.mark.parametrize("frame_size", [75, (48, 75)])
def test_odd_frame_sizes(backbone: str, frame_size: Extent) -> None:
    network = build_network(NetworkSpec(backbone, 3, frame_size=frame_size))
    frame = torch.zeros(1, 3, *height_width(frame_size))
    logits, *caches = network(frame, *(torch.zeros(shape) for shape in network.cache_shapes))
    assert tuple(tuple(cache.shape) for cache in caches) == network.cache_shapes
    assert logits.isfinite().all()


def test_no_caches_where_nothing_is_shifted() -> None:
    spec = NetworkSpec("mobilenet-v2", 3, width=0.5, frame_size=32, shift_proportion=Fraction(0))
    network = build_network(spec)
    assert network.cache_shapes == ()
    assert len(network(torch.zeros(1, 3, 32, 32))) == 1


@pytest.mark.parametrize(("backbone", "count"), sorted(IMAGENET_PARAMETERS.items()))
def test_parameters_for_imagenet(backbone: str, count: int) -> None:
    network = build_network(NetworkSpec(backbone, 1000, "none"))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_upstream_rounds_channels_up() -> None:
    assert block_channels(1.4)[:3] == (16, 40, 40)
    assert block_channels(1.4)[-1] == 1792
    assert block_channels(0.5)[-2:] == (160, 1280)
    assert [width_of(block_channels(width)) for width in (1.0, 1.4, 0.5, 0.75)] == [1.0, 1.4, 0.5, 0.75]
    assert width_of([17] * 18) is None


def test_seed_decides_the_weights_and_nothing_else() -> None:
    spec = NetworkSpec("mobilenet-v2", 4, width=0.5, frame_size=32)
    before = torch.get_rng_state()
    first, again, other = (build_network(spec, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = [not torch.equal(first[n], other[n]) for n in first if not n.endswith("num_batches_tracked")]
    assert all(changed)


@pytest.mark.parametrize(
    ("backbone", "some"),
    [
        ("mobilenet-v2", {"features.0", "features.1 project", "features.17 expand", "features.18", "classifier"}),
        ("resnet-50", {"conv1", "layer1.0.downsample.0", "layer2.0.conv2", "fc"}),
    ],
)
def test_layers_have_names_of_their_own(backbone: str, some: set[str]) -> None:
    names = build_network(NetworkSpec(backbone, 3, frame_size=32)).backbone.layer_names()
    assert some <= set(names.values())
    assert len(set(names.values())) == len(names)
