"""Every reference case, through a real checkpoint file and the product's loader."""

from __future__ import annotations

from pathlib import Path

import golden
import numpy as np
import pytest
import torch

from tsm_edge.cards import load_model
from tsm_edge.networks import OfflineNetwork, TemporalNetwork, build_network
from tsm_edge.networks.checkpoints import read_checkpoint
from tsm_edge.networks.loading import load_into

# The card that each case's checkpoint is for.
CASES = {
    "offline_tsm_mobilenetv2_kinetics400_8f": "mobilenetv2-kinetics-8f",
    "offline_tsm_resnet101_something174_8f": "resnet101-something-8f",
    "offline_tsm_resnet50_kinetics400_8f": "resnet50-kinetics-8f",
    "offline_tsm_resnet50_nl_kinetics400_8f": "resnet50-nl-kinetics-8f",
    "online_mobilenetv2_jester27": "mobilenetv2-jester",
    "tsn_resnet50_kinetics400_8f": "resnet50-kinetics-tsn-8f",
}


def test_every_case_is_covered() -> None:
    assert set(CASES) == set(golden.NAMES)
    assert len(CASES) == 6


def load_case(name: str, folder: Path) -> TemporalNetwork:
    """Write a case's weights as upstream would, read them back, and check what the loader makes of them."""
    case = golden.load(name)
    spec = load_model(CASES[name]).network
    weights = {key: torch.from_numpy(value) for key, value in case.state_dict().items()}
    path = folder / f"{name}.pth"
    # The demo saves a bare state dict, the training code one among other things.
    torch.save(weights if spec.temporal_mode == "online" else {"epoch": 50, "arch": "x", "state_dict": weights}, path)
    checkpoint = read_checkpoint(path)
    found = (checkpoint.backbone, checkpoint.width, checkpoint.classes, checkpoint.trained_mode)
    assert found == (spec.backbone, 1.0, case.classes, spec.temporal_mode)
    network = build_network(spec)
    load_into(network, spec, checkpoint)
    return network


def assert_matches(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@torch.inference_mode()
def test_online_case_frame_by_frame(tmp_path: Path) -> None:
    name = "online_mobilenetv2_jester27"
    network, case = load_case(name, tmp_path), golden.load(name)
    expected = case.expected()
    caches = [torch.zeros(shape) for shape in network.cache_shapes]
    for index, frame in enumerate(torch.from_numpy(case.frames())):
        logits, *caches = network(frame[None], *caches)
        assert_matches(logits[0].numpy(), expected["logits"][index])
    assert len(caches) == 10
    for index, cache in enumerate(caches):
        assert_matches(cache.numpy(), expected[f"cache_{index}"])


@pytest.mark.parametrize("name", sorted(set(CASES) - {"online_mobilenetv2_jester27"}))
@torch.inference_mode()
def test_whole_clip_case(name: str, tmp_path: Path) -> None:
    network, case = load_case(name, tmp_path), golden.load(name)
    expected = case.expected()
    clip = torch.from_numpy(case.frames())
    logits = network(clip)
    assert_matches(logits.numpy(), expected["per_frame_logits"])
    assert_matches(logits.mean(0).numpy(), expected["video_logits"])
    if isinstance(network, OfflineNetwork):
        assert_matches(network.clip_logits(clip)[0].numpy(), expected["video_logits"])
