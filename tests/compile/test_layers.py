"""What is fused into what, and what must not be. Numbers are compared in test_kernels.py."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layers import (
    CacheTap,
    Clamp,
    Convolution,
    GlobalAveragePool,
    Layer,
    MaxPool,
    ShiftConcat,
    View,
    layer_sources,
)
from tsm_edge.compile.passes.fuse import fuse


class Built(GraphBuilder):
    """A graph whose fused layers are looked at."""

    def __init__(self, folder: Path, opset: int = 20) -> None:
        super().__init__(8, 10, opset=opset)
        self.folder = folder

    def layers(self, logits: str) -> list[Layer]:
        """The fused layers without the head (global average, flatten, classifier)."""
        layers = fuse(self.graph(self.head(logits, 3)))
        made_by = {layer.output: layer for layer in layers}
        head = [made_by["logits"]]
        head += [made_by[layer_sources(head[-1])[0]]]
        head += [made_by[layer_sources(head[-1])[0]]]
        assert [type(layer) for layer in head] == [Convolution, View, GlobalAveragePool]
        return [layer for layer in layers if layer not in head]

    def graph(self, logits: str) -> OnlineGraph:
        path = self.folder / "model.onnx"
        onnx.save(self.model(logits), str(path))
        return load_onnx(path)


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


def kinds(layers: list[Layer]) -> list[str]:
    return [type(layer).__name__ for layer in layers]


def convolutions(layers: list[Layer]) -> list[Convolution]:
    return [layer for layer in layers if isinstance(layer, Convolution)]


def assert_in_order(graph_inputs: set[str], layers: list[Layer]) -> None:
    """Every layer reads only what was made before it."""
    made = set(graph_inputs)
    for layer in layers:
        assert set(layer_sources(layer)) <= made, f"{layer} reads what is not there yet"
        made.add(layer.output)


def test_convolution(built: Built) -> None:
    x = built.conv(built.frame, 6, (3, 5), (2, 1), (1, 2, 0, 1))
    (layer,) = convolutions(built.layers(x))
    assert layer.source == "frame"
    assert layer.output == x
    assert layer.weight.shape == (6, 3, 3, 5)
    assert layer.bias.shape == (6,)
    assert (layer.strides, layer.pads, layer.groups) == ((2, 1), (1, 2, 0, 1), 1)
    assert (layer.clamp, layer.residual, layer.shift, layer.depthwise) == (Clamp(), None, None, False)


def test_no_bias_is_a_bias_of_zeros(built: Built) -> None:
    (layer,) = convolutions(built.layers(built.conv(built.frame, 6, 3, bias=False)))
    np.testing.assert_array_equal(layer.bias, np.zeros(6, np.float32))


@pytest.mark.parametrize(
    ("channels", "out", "groups", "depthwise"), [(6, 6, 6, True), (6, 12, 6, False), (6, 6, 2, False), (6, 6, 1, False)]
)
def test_depthwise(built: Built, channels: int, out: int, groups: int, depthwise: bool) -> None:
    x = built.conv(built.relu(built.conv(built.frame, channels)), out, 3, groups=groups)
    assert convolutions(built.layers(x))[-1].depthwise is depthwise


@pytest.mark.parametrize(
    ("low", "high", "clamp"),
    [(0.0, 6.0, Clamp(0.0, 6.0)), (-1.5, None, Clamp(-1.5)), (None, 0.25, Clamp(high=0.25)), (None, None, None)],
)
def test_clip(built: Built, low: float | None, high: float | None, clamp: Clamp | None) -> None:
    layers = built.layers(built.clip(built.conv(built.frame, 4), low, high))
    assert kinds(layers) == ["Convolution"]
    assert convolutions(layers)[0].clamp == (clamp or Clamp())


def test_relu(built: Built) -> None:
    layers = built.layers(built.relu(built.conv(built.frame, 4)))
    assert kinds(layers) == ["Convolution"]
    assert convolutions(layers)[0].clamp == Clamp(0.0, math.inf)


def test_clip_with_attributes_of_old_operator_sets(tmp_path: Path) -> None:
    built = Built(tmp_path, opset=9)
    x = built.conv(built.frame, 4)
    layers = built.layers(built.node("Clip", [x], built.shapes[x], min=-1.0, max=2.0))
    assert kinds(layers) == ["Convolution"]
    assert convolutions(layers)[0].clamp == Clamp(-1.0, 2.0)


def test_two_clamps_are_both_kept(built: Built) -> None:
    """min(max(x, 0), 6) and then max(…, 1) is not one of the two."""
    layers = built.layers(built.clip(built.clip(built.conv(built.frame, 4), 0, 6), 1, None))
    clamped = [layer.clamp for layer in convolutions(layers)]
    assert clamped == [Clamp(0, 6)] or clamped == [Clamp(1, 6)]
    assert len(layers) == 2 or clamped == [Clamp(1, 6)]


def test_clamp_of_what_others_read_stays(built: Built) -> None:
    x = built.conv(built.frame, 4)
    layers = built.layers(built.add(built.conv(built.relu(x), 4), x))
    first = convolutions(layers)[0]
    assert (first.output, first.clamp) == (x, Clamp())


def test_clamp_of_a_cache_output_stays(built: Built) -> None:
    x = built.conv(built.frame, 4)
    built.feed_back(built.cache(built.shapes[x]), x)
    first = convolutions(built.layers(built.relu(x)))[0]
    assert first.clamp == Clamp()
    assert first.output == "shift_0_next"


@pytest.mark.parametrize("swapped", [False, True])
def test_residual(built: Built, swapped: bool) -> None:
    x = built.relu(built.conv(built.frame, 4))
    y = built.conv(x, 4, 3)
    layers = built.layers(built.relu(built.add(x, y) if swapped else built.add(y, x)))
    assert kinds(layers) == ["Convolution", "Convolution"]
    _, second = convolutions(layers)
    assert (second.source, second.residual, second.clamp) == (x, x, Clamp(0.0))


def test_residual_of_two_convolutions_goes_to_the_later(built: Built) -> None:
    """A projection shortcut: the later convolution finds the other's result there."""
    x = built.relu(built.conv(built.frame, 4))
    shortcut, branch = built.conv(x, 6), built.conv(x, 6, 3)
    layers = built.layers(built.add(branch, shortcut))
    assert kinds(layers) == ["Convolution"] * 3
    assert [layer.residual for layer in convolutions(layers)] == [None, None, shortcut]
    assert_in_order({"frame"}, layers)


def test_residual_made_later_is_not_fused(built: Built) -> None:
    """The convolution's other operand does not exist yet when it runs."""
    x = built.relu(built.conv(built.frame, 4))
    y = built.conv(x, 4, 3)
    later = built.max_pool(x, 3, 1, (1, 1, 1, 1))
    layers = built.layers(built.add(y, later))
    assert all(layer.residual is None for layer in convolutions(layers))
    assert_in_order({"frame"}, layers)


def test_residual_of_a_clamped_convolution_is_not_fused(built: Built) -> None:
    """relu(conv) + x is not relu(conv + x)."""
    x = built.max_pool(built.conv(built.frame, 4), 3, 1, (1, 1, 1, 1))
    layers = built.layers(built.add(built.relu(built.conv(x, 4)), x))
    assert convolutions(layers)[-1].residual is None
    assert convolutions(layers)[-1].clamp == Clamp(0.0)


def test_residual_of_what_others_read_is_not_fused(built: Built) -> None:
    x = built.max_pool(built.conv(built.frame, 4), 3, 1, (1, 1, 1, 1))
    y = built.conv(x, 4)
    layers = built.layers(built.add(built.max_pool(y, 3, 1, (1, 1, 1, 1)), built.add(y, x)))
    assert all(layer.residual is None for layer in convolutions(layers))
    assert_in_order({"frame"}, layers)


def test_doubling_is_not_a_residual(built: Built) -> None:
    x = built.conv(built.frame, 4)
    layers = built.layers(built.add(x, x))
    assert convolutions(layers)[0].residual is None
    assert len(layers) == 2


def test_residual_that_broadcasts_is_not_fused(built: Built) -> None:
    x = built.conv(built.frame, 4)
    layers = built.layers(built.add(x, built.global_average(x)))
    assert all(layer.residual is None for layer in convolutions(layers))
    assert_in_order({"frame"}, layers)


def test_shift_into_a_pointwise_convolution(built: Built) -> None:
    x = built.relu(built.conv(built.frame, 8))
    layers = built.layers(built.relu(built.conv(built.shift(x, 2), 12)))
    assert sorted(kinds(layers)) == ["CacheTap", "Convolution", "Convolution"]
    tap, last = next(layer for layer in layers if isinstance(layer, CacheTap)), convolutions(layers)[-1]
    assert (tap.source, tap.output, tap.channels) == (x, "shift_0_next", 2)
    assert last.source == x
    assert last.shift is not None
    assert (last.shift.cache, last.shift.channels) == ("shift_0", 2)


def test_shift_of_old_operator_sets(tmp_path: Path) -> None:
    """Slice had attributes before operator set 10."""
    built = Built(tmp_path, opset=9)
    x = built.relu(built.conv(built.frame, 8))
    cache = built.cache((1, 2, 8, 10))
    tap = built.node("Slice", [x], (1, 2, 8, 10), axes=[1], starts=[0], ends=[2])
    rest = built.node("Slice", [x], (1, 6, 8, 10), axes=[1], starts=[2], ends=[2**31 - 1])
    built.feed_back(cache, tap)
    layers = built.layers(built.relu(built.conv(built.concat(cache, rest), 12)))
    assert sorted(kinds(layers)) == ["CacheTap", "Convolution", "Convolution"]
    assert convolutions(layers)[-1].shift is not None


@pytest.mark.parametrize(
    ("kernel", "pads", "groups"),
    [(3, (1, 1, 1, 1), 1), (1, (1, 1, 1, 1), 1), (1, (0, 0, 0, 0), 2)],
    ids=["3x3", "1x1 with pads", "1x1 in groups"],
)
def test_shift_that_must_exist(built: Built, kernel: int, pads: tuple[int, ...], groups: int) -> None:
    """Zero padding lies around the shifted image, and groups look at parts of it."""
    x = built.relu(built.conv(built.frame, 8))
    layers = built.layers(built.conv(built.shift(x, 2), 12, kernel, 1, pads, groups))
    assert sorted(kinds(layers)) == ["CacheTap", "Convolution", "Convolution", "ShiftConcat"]
    shift = next(layer for layer in layers if isinstance(layer, ShiftConcat))
    assert (shift.source, shift.cache, shift.channels) == (x, "shift_0", 2)
    assert convolutions(layers)[-1].source == shift.output
    assert convolutions(layers)[-1].shift is None


def test_shift_in_place_exists_for_the_identity(built: Built) -> None:
    x = built.shift(built.relu(built.conv(built.frame, 8)), 2)
    layers = built.layers(built.relu(built.add(built.conv(x, 8), x)))
    shift = next(layer for layer in layers if isinstance(layer, ShiftConcat))
    last = convolutions(layers)[-1]
    assert last.residual == shift.output
    # Through the shift or through the copy: both are right.
    assert last.source == shift.output or last.shift is not None
    assert_in_order({"frame", "shift_0"}, layers)


def test_concatenation_that_is_no_shift(built: Built) -> None:
    """The cache replaces other channels than it covers: concat(cache, x[:, 1:])."""
    x = built.relu(built.conv(built.frame, 8))
    cache = built.cache((1, 2, 8, 10))
    built.feed_back(cache, built.channels(x, 0, 2))
    layers = built.layers(built.conv(built.concat(cache, built.channels(x, 1, 8)), 5))
    assert "ShiftConcat" not in kinds(layers)
    assert all(layer.shift is None for layer in convolutions(layers))


def test_concatenation_the_other_way_round_is_no_shift(built: Built) -> None:
    x = built.relu(built.conv(built.frame, 8))
    cache = built.cache((1, 2, 8, 10))
    built.feed_back(cache, built.channels(x, 0, 2))
    layers = built.layers(built.conv(built.concat(built.channels(x, 2, 8), cache), 5))
    assert "ShiftConcat" not in kinds(layers)
    assert all(layer.shift is None for layer in convolutions(layers))


def test_next_cache_from_other_channels_is_no_tap(built: Built) -> None:
    """x[:, 3:5] is not the start of x."""
    x = built.relu(built.conv(built.frame, 8))
    cache = built.cache((1, 2, 8, 10))
    built.feed_back(cache, built.channels(x, 3, 5))
    layers = built.layers(built.conv(built.concat(cache, built.channels(x, 2, 8)), 5))
    assert "CacheTap" not in kinds(layers)
    assert "shift_0_next" in {layer.output for layer in layers}


def test_a_next_cache_that_others_read_is_a_tensor(built: Built) -> None:
    x = built.relu(built.conv(built.frame, 8))
    cache = built.cache((1, 2, 8, 10))
    first = built.channels(x, 0, 2)
    built.feed_back(cache, first)
    layers = built.layers(built.conv(built.concat(cache, built.concat(built.relu(first), built.channels(x, 4, 8))), 5))
    assert "CacheTap" not in kinds(layers)
    assert_in_order({"frame", "shift_0"}, layers)
    assert "shift_0_next" in {layer.output for layer in layers}


def test_dead_layers_are_dropped(built: Built) -> None:
    x = built.relu(built.conv(built.frame, 4))
    built.conv(x, 9, 3)
    layers = built.layers(built.relu(built.conv(x, 5)))
    assert [layer.weight.shape[0] for layer in convolutions(layers)] == [4, 5]


def test_max_pool(built: Built) -> None:
    x = built.conv(built.frame, 4)
    pool = built.layers(built.max_pool(x, 3, 2, (1, 0, 0, 1)))[-1]
    assert isinstance(pool, MaxPool)
    assert (pool.source, pool.kernel, pool.strides, pool.pads) == (x, (3, 3), (2, 2), (1, 0, 0, 1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_gemm(built: Built, bias: bool, transposed: bool) -> None:
    x = built.flatten(built.global_average(built.conv(built.frame, 6)))
    weights = np.arange(12, dtype=np.float32).reshape(2, 6)
    inputs = [x, built.constant(weights if transposed else weights.T)]
    inputs += [built.constant([5, 7])] if bias else []
    layer = fuse(built.graph(built.node("Gemm", inputs, (1, 2), transB=int(transposed))))[-1]
    assert isinstance(layer, Convolution)
    np.testing.assert_array_equal(layer.weight, weights[:, :, None, None])
    np.testing.assert_array_equal(layer.bias, [5, 7] if bias else [0, 0])


def test_matmul_with_a_bias_after_it(built: Built) -> None:
    x = built.flatten(built.global_average(built.conv(built.frame, 6)))
    layers = fuse(built.graph(built.add(built.matmul(x, 2), built.constant([[5, 7]]))))
    dense = convolutions(layers)[-1]
    assert dense.weight.shape == (2, 6, 1, 1)
    assert_in_order({"frame"}, layers)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_over_height_and_width(built: Built, keepdims: int) -> None:
    x = built.conv(built.frame, 6)
    axes = built.constant([-1, -2], np.int64)
    mean = built.node("ReduceMean", [x, axes], (1, 6, 1, 1) if keepdims else (1, 6), keepdims=keepdims)
    layers = fuse(built.graph(built.dense(built.flatten(mean) if keepdims else mean, 3)))
    assert [kind for kind in kinds(layers) if kind != "View"] == ["Convolution", "GlobalAveragePool", "Convolution"]


def test_mean_over_channels_is_no_global_average(built: Built) -> None:
    x = built.conv(built.frame, 6)
    mean = built.node("ReduceMean", [x, built.constant([1], np.int64)], (1, 1, 8, 10), keepdims=1)
    layers = fuse(built.graph(built.head(built.conv(mean, 4), 2)))
    assert kinds(layers).count("GlobalAveragePool") == 1
