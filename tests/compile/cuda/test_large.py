"""What is chosen for a GPU of many multiprocessors, on the stand-in driver against ONNX Runtime."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
from cuda_steps import assert_computes, lowered
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.cards.precision import FP32, PRECISIONS, Precision
from tsm_edge.compile.backends.cuda.kernels.depthwise import DepthwiseSpec
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import GemmSpec
from tsm_edge.compile.backends.cuda.kernels.stem import StemSpec


def network() -> onnx.ModelProto:
    """A stem, and a block of MobileNet with a long reduction of few pixels."""
    graph = GraphBuilder(14, 18)
    x = graph.clip(graph.conv(graph.frame, 16, 3, 2), 0, 6)
    x = graph.conv(x, 24)
    y = graph.clip(graph.conv(graph.shift(x, 3), 400), 0, 6)
    y = graph.conv(graph.clip(graph.depthwise(y), 0, 6), 24)
    return graph.model(graph.head(graph.add(y, x), 5))


@pytest.mark.parametrize(("precision", "tolerance"), [(FP32, 1e-5), (PRECISIONS["fp16"], 2e-2)], ids=["fp32", "fp16"])
def test_a_network_on_a_large_gpu(precision: Precision, tolerance: float, tmp_path: Path) -> None:
    model = network()
    made = lowered(model, tmp_path, "cuda-sm90", precision)
    gpu = load_target("cuda-sm90").gpu
    assert gpu is not None
    (long,) = [call.spec for call in made.program.calls if isinstance(call.spec, GemmSpec) and call.spec.inputs == 400]
    assert long.tile.slices > 8
    (depthwise,) = [call.spec for call in made.program.calls if isinstance(call.spec, DepthwiseSpec)]
    assert math.prod(depthwise.parallel.blocks) >= 0.75 * gpu.multiprocessors
    (stem,) = [call.spec for call in made.program.calls if isinstance(call.spec, StemSpec)]
    assert stem.threads == 56
    assert_computes(made, model, gpu, tolerance)
