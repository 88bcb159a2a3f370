"""Networks in halfs, on the stand-in driver against ONNX Runtime in float32."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from cuda_steps import assert_follows, lowered
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP16_SUMMED_IN_FP32, PRECISIONS, Precision
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec
from tsm_edge.compile.backends.cuda.kernels.stem_halfs import HalfStemSpec
from tsm_edge.compile.ir.layout import planar, planes

HALF = PRECISIONS["fp16"]
# Of the largest value: logits, and caches.
TOLERANCES = (5e-3, 2e-2)


def network(height: int = 13, width: int = 18) -> onnx.ModelProto:
    """A block of MobileNet and one of ResNet on an image of odd sides: every kernel that computes in halfs."""
    graph = GraphBuilder(height, width)
    x = graph.clip(graph.conv(graph.frame, 16, 3, 2), 0, 6)
    y = graph.clip(graph.conv(graph.shift(x, 3), 40), 0, 6)
    y = graph.clip(graph.depthwise(graph.clip(graph.depthwise(y), 0, 6), 3, 2), 0, 6)
    x = graph.conv(y, 24)
    y = graph.relu(graph.conv(graph.shift(x, 3), 16))
    y = graph.relu(graph.conv(y, 16, 3))
    x = graph.relu(graph.add(graph.conv(y, 24), x))
    return graph.model(graph.head(x, 5))


@pytest.mark.parametrize(
    "precision", [HALF, pytest.param(FP16_SUMMED_IN_FP32, marks=pytest.mark.slow)], ids=["fp16", "sums in fp32"]
)
def test_a_network_in_halfs(precision: Precision, tmp_path: Path) -> None:
    model = network()
    made = lowered(model, tmp_path, "jetson-nano", precision)
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    assert_follows(made, model, gpu, *TOLERANCES)
    assert {image.dtype for image in made.program.caches} == {"float16"}


@pytest.mark.parametrize("side", [4, 5, 7, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_stem_stores_no_more_than_its_registers_hold(side: int, stride: int) -> None:
    """A line's words come in vectors, whatever their number."""
    target = planes(32, 32, 16, "float16")
    spec = HalfStemSpec(planar(32 * stride, 32 * stride, 3), target, (side, side), (stride, stride), (1, 1))
    sizes: dict[str, int] = {}
    stores = 0
    for line in spec.write("stem").script().splitlines():
        if made := re.match(r" *(\w+) = T\.alloc_local\(\((\d+),\)", line):
            sizes[made[1]] = int(made[2])
        elif (store := re.match(r" *(\w+)\[(?:\d+:)?(\d+)\] = ", line)) and store[1] in sizes:
            stores += 1
            assert int(store[2]) + (":" not in store[0]) <= sizes[store[1]], line
    assert stores


def test_halfs_are_only_stored_and_large_images_are_float32(tmp_path: Path) -> None:
    """An image of 19×25 pixels after the stem, of 10×13 after the block."""
    program = lowered(network(37, 50), tmp_path, "jetson-nano", FP16_SUMMED_IN_FP32).program
    products = [call.spec for call in program.calls if isinstance(call.spec, GemmSpec)]
    assert products
    assert not any(spec.half for spec in products), "halfs are multiplied"
    images = [buffer.image for buffer in program.workspace]
    large = {image.dtype for image in images if image.height * image.width > 14 * 14}
    small = {image.dtype for image in images if 1 < image.height * image.width <= 14 * 14}
    assert (large, small) == ({"float32"}, {"float16"})
    assert [image.dtype for image in program.caches] == ["float32", "float16"]
