"""Expansion and depthwise convolution in one launch: what it computes on the stand-in driver, and when it is chosen."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from cuda_steps import assert_computes, lowered
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32, PRECISIONS, Precision
from tsm_edge.compile.backends.cuda.choose import fusion
from tsm_edge.compile.backends.cuda.kernels.depthwise import DepthwiseSpec, DepthwiseTile
from tsm_edge.compile.backends.cuda.kernels.expand_depthwise import ExpandDepthwiseSpec
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile
from tsm_edge.compile.ir.layout import planes

HALF = PRECISIONS["fp16"]
TOLERANCES = {"float32": 1e-5, "float16": 2e-2}


def network(height: int, width: int) -> onnx.ModelProto:
    """Pairs of every kind, each ending in a next cache; the last expansion has another reader."""
    graph = GraphBuilder(height, width)
    x = graph.next_cache(graph.relu(graph.conv(graph.frame, 20)))
    graph.next_cache(graph.conv(graph.clip(graph.depthwise(graph.clip(graph.conv(x, 24), 0, 6)), 0, 6), 4))
    graph.next_cache(graph.depthwise(graph.clip(graph.conv(graph.shift(x, 3), 16), 0, 6), 3, 2))
    graph.next_cache(graph.relu(graph.depthwise(graph.relu(graph.conv(x, 16)), 5)))
    graph.next_cache(graph.depthwise(graph.clip(graph.conv(graph.conv(x, 3), 8), -1, 1), 3, 2))
    y = graph.conv(x, 8)
    graph.next_cache(graph.add(graph.depthwise(y), y))
    return graph.model(graph.head(x, 3))


@pytest.mark.parametrize("precision", [FP32, HALF], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("size", "bands"), [((7, 9), False), ((12, 16), True)])
def test_what_it_computes(
    precision: Precision, size: tuple[int, int], bands: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_tiles = fusion._candidates
    monkeypatch.setattr(fusion, "WORTH", float("inf"))
    monkeypatch.setattr(
        fusion,
        "_candidates",
        lambda spec: [tile for tile in all_tiles(spec) if (tile.band < spec.target.height) == bands],
    )
    model = network(*size)
    made = lowered(model, tmp_path, "jetson-nano", precision)
    assert [call.spec.rule for call in made.program.calls].count("expand_depthwise") == 4
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    assert_computes(made, model, gpu, TOLERANCES[precision.storage])


def pair(inputs: int, expanded: int, side: int, stride: int) -> tuple[GemmSpec, ExpandDepthwiseSpec]:
    source, between = planes(side, side, inputs), planes(side, side, expanded)
    target = planes(side // stride, side // stride, expanded)
    depthwise = DepthwiseSpec(between, target, (3, 3), (stride, stride), (1, 1), DepthwiseTile(1, 1, 8, 1), "saturate")
    return GemmSpec(source, between, GemmTile(8, 8, 8, 8)), ExpandDepthwiseSpec(source, depthwise, "saturate")


@pytest.mark.parametrize(
    ("block", "worth"), [((16, 96, 112, 2), True), ((24, 144, 56, 1), True), ((160, 960, 7, 1), False)]
)
def test_it_is_for_large_expanded_images(block: tuple[int, int, int, int], worth: bool) -> None:
    """Blocks of MobileNet-V2: the second, the third and the last."""
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    assert (fusion.fusion_settings(gpu, *pair(*block)) is not None) == worth
