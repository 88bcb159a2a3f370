"""Winograd's algorithm on a GPU: what it computes on the stand-in driver, and when it is chosen."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from cuda_steps import assert_computes, lowered
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32, PRECISIONS, Precision
from tsm_edge.compile.backends.cuda.choose import winograd
from tsm_edge.compile.backends.cuda.choose.tiles import flush_of
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec, GemmTile, Window
from tsm_edge.compile.ir.layout import planes

HALF = PRECISIONS["fp16"]
# F(4×4) multiplies by up to 8 on the way: ten times the rounding of the direct sum.
TOLERANCES = {("float32", 2): 1e-5, ("float32", 4): 1e-4, ("float16", 2): 2e-2}


def network(height: int, width: int) -> onnx.ModelProto:
    """Every way a 3×3 convolution at stride 1 appears; each ends in a next cache."""
    graph = GraphBuilder(height, width)
    x = graph.next_cache(graph.relu(graph.conv(graph.frame, 12)))
    graph.next_cache(graph.conv(x, 9, 3))
    graph.next_cache(graph.clip(graph.conv(x, 8, 3, bias=False), -0.5, 0.75))
    graph.next_cache(graph.conv(x, 8, 3, 1, (2, 0, 0, 2)))
    graph.next_cache(graph.relu(graph.add(graph.conv(x, 12, 3), x)))
    graph.next_cache(graph.conv(graph.shift(x, 5), 8, 3))
    graph.next_cache(graph.conv(graph.clip(graph.conv(x, 8, 3), 0, 6), 8, 3))
    return graph.model(graph.head(graph.relu(graph.conv(x, 8, 3)), 3))


@pytest.mark.parametrize(
    ("precision", "outputs", "size"),
    [(FP32, 2, (7, 10)), (FP32, 4, (7, 10)), (HALF, 2, (7, 10)), (HALF, 2, (5, 9)), (FP32, 4, (5, 9))],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_what_it_computes(
    precision: Precision, outputs: int, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "WORTH", float("inf"))
    monkeypatch.setitem(winograd.OUTPUTS, precision.storage, (outputs,))
    model = network(*size)
    made = lowered(model, tmp_path, "jetson-nano", precision)
    assert sum(call.spec.rule == "winograd_target" for call in made.program.calls) == 8
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    assert_computes(made, model, gpu, TOLERANCES[precision.storage, outputs])


def convolution(channels: int, side: int, dtype: str = "float32") -> GemmSpec:
    image = planes(side, side, channels, dtype)
    flush = flush_of(9 * channels) if dtype == "float16" else 0
    return GemmSpec(image, image, GemmTile(8, 8, 8, 8), Window((3, 3), (1, 1), (1, 1)), flush=flush)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("channels", "side"), [(64, 56), (128, 28), (256, 14), (512, 7)])
def test_a_resnets_convolutions_are_worth_it(channels: int, side: int, dtype: str) -> None:
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    assert winograd.winograd_settings(gpu, convolution(channels, side, dtype)) is not None


def test_a_small_convolution_is_not() -> None:
    gpu = load_target("jetson-nano").gpu
    assert gpu is not None
    assert winograd.winograd_settings(gpu, convolution(8, 14)) is None
