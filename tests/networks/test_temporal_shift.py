"""The shift of each mode on small numbers, and online networks against a causal shift of the whole clip."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from tsm_edge.cards import SHIFT_PROPORTIONS, NetworkSpec, ShiftPlace
from tsm_edge.networks import build_network
from tsm_edge.networks.temporal_shift import CausalShift, OfflineShift, OnlineShift, fold_of, no_shift

EIGHTH = Fraction(1, 8)


def counted_clip(frames: int, channels: int) -> torch.Tensor:
    """Frame t, channel c holds 10 * (t + 1) + c."""
    values = 10 * (torch.arange(frames)[:, None] + 1) + torch.arange(channels)
    return values.float()[:, :, None, None]


def test_fold_rounds_down_as_upstream() -> None:
    assert [fold_of(24, proportion) for proportion in SHIFT_PROPORTIONS] == [0, 3, 6, 12, 24]
    assert fold_of(12, EIGHTH) == 1


def test_offline_looks_forward_first_then_back() -> None:
    shifted = OfflineShift(3)(counted_clip(3, 4), 1)[:, :, 0, 0]
    assert shifted.tolist() == [[20, 0, 12, 13], [30, 11, 22, 23], [0, 21, 32, 33]]


def test_causal_looks_back_only() -> None:
    shifted = CausalShift(3)(counted_clip(3, 4), 1)[:, :, 0, 0]
    assert shifted.tolist() == [[0, 11, 12, 13], [10, 21, 22, 23], [20, 31, 32, 33]]


@pytest.mark.parametrize("shift", [OfflineShift(2), CausalShift(2)])
def test_clips_of_a_batch_do_not_mix(shift: OfflineShift | CausalShift) -> None:
    clip, other = counted_clip(2, 4), counted_clip(2, 4) + 100
    both = shift(torch.cat((clip, other)), 2)
    assert torch.equal(both, torch.cat((shift(clip, 2), shift(other, 2))))


def test_online_swaps_cache_and_first_channels() -> None:
    frame = counted_clip(1, 4)
    shift = OnlineShift([torch.full((1, 1, 1, 1), 7.0)])
    assert shift(frame, 1)[0, :, 0, 0].tolist() == [7, 11, 12, 13]
    assert [cache.flatten().tolist() for cache in shift.next_caches] == [[10]]


def test_online_of_every_channel_is_the_cache() -> None:
    cache, frame = torch.zeros(1, 4, 1, 1), counted_clip(1, 4)
    shift = OnlineShift([cache])
    assert torch.equal(shift(frame, 4), cache)
    assert torch.equal(shift.next_caches[0], frame)


def test_no_shift() -> None:
    clip = counted_clip(2, 4)
    assert torch.equal(no_shift(clip, 1), clip)


@pytest.mark.parametrize("place", ["residual", "in-place"])
@pytest.mark.parametrize("proportion", SHIFT_PROPORTIONS, ids=str)
@pytest.mark.parametrize(("backbone", "width"), [("mobilenet-v2", 0.5), ("resnet-18", 1.0)])
@torch.inference_mode()
def test_online_equals_causal_shift_of_the_whole_clip(
    backbone: str, width: float, proportion: Fraction, place: ShiftPlace
) -> None:
    spec = NetworkSpec(backbone, 5, width=width, frame_size=64, shift_proportion=proportion, shift_place=place)
    network = build_network(spec)
    clip = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    whole = network.backbone(clip, CausalShift(4))
    caches = [torch.zeros(shape) for shape in network.cache_shapes]
    assert bool(caches) == (proportion > 0)
    one_by_one = []
    for frame in clip:
        logits, *caches = network(frame[None], *caches)
        one_by_one.append(logits)
    torch.testing.assert_close(torch.cat(one_by_one), whole, rtol=0, atol=1e-5 * whole.abs().max().item())
    # The equality says something only if the past matters.
    alone = network.backbone(clip, no_shift)
    assert torch.allclose(alone, whole) == (proportion == 0)


@pytest.mark.parametrize("backbone", ["mobilenet-v2", "resnet-18"])
@torch.inference_mode()
def test_placement_changes_the_result(backbone: str) -> None:
    clip = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    residual, in_place = (
        build_network(NetworkSpec(backbone, 5, frame_size=64, shift_place=place)).backbone(clip, CausalShift(2))
        for place in ("residual", "in-place")
    )
    assert not torch.allclose(residual, in_place, rtol=1e-2)
