"""Strided convolutions in halfs through planes of their windows' pixels: on the stand-in driver, and when they pay."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from cuda_steps import assert_computes, lowered
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import PRECISIONS
from tsm_edge.compile.backends.cuda.choose import patches, winograd
from tsm_edge.compile.backends.cuda.choose.tiles import flush_of
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile, Window
from tsm_edge.compile.ir.layout import planes


def network(height: int, width: int) -> onnx.ModelProto:
    """Every way a window appears; each ends in a next cache."""
    graph = GraphBuilder(height, width)
    x = graph.next_cache(graph.relu(graph.conv(graph.frame, 12)))
    graph.next_cache(graph.conv(x, 9, 3, 2))
    graph.next_cache(graph.clip(graph.conv(x, 8, 3, 2, bias=False), -0.5, 0.75))
    graph.next_cache(graph.conv(x, 8, (5, 2), (2, 1), (1, 0, 2, 1)))
    graph.next_cache(graph.conv(x, 8, 1, 2))
    y = graph.next_cache(graph.relu(graph.conv(x, 8, 3, 2)))
    graph.next_cache(graph.relu(graph.add(graph.conv(x, 8, 3, 2), y)))
    graph.next_cache(graph.conv(graph.shift(x, 5), 8, 3, 2))
    return graph.model(graph.head(graph.conv(graph.clip(graph.conv(x, 8, 3, 2), 0, 6), 8, 3), 3))


@pytest.mark.parametrize("size", [(7, 10), (8, 12)], ids=["rows of five", "rows of six"])
def test_what_it_computes(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "WORTH", float("inf"))
    monkeypatch.setattr(winograd, "WORTH", 0.0)
    model = network(*size)
    made = lowered(model, tmp_path, "jetson-nano", PRECISIONS["fp16"])
    assert sum(call.spec.rule == "patches" for call in made.program.calls) == 9
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    assert_computes(made, model, gpu, 1e-2)


@pytest.mark.parametrize(("channels", "side"), [(128, 56), (256, 28), (512, 14)])
def test_a_resnets_strided_convolutions_are_worth_it(channels: int, side: int) -> None:
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    source, target = (planes(size, size, channels, "float16") for size in (side, side // 2))
    window = Window((3, 3), (2, 2), (1, 1))
    flush = flush_of(9 * channels)
    direct = GemmSpec(source, target, GemmTile(8, 8, 8, 8), window, "relu", flush=flush)
    assert patches.patches_settings(gpu, direct) is not None
