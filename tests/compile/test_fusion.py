"""Which layers of an inverted residual share a kernel, by the numbers of the card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx_graphs import GraphBuilder

from tsm_edge.cards import load_target
from tsm_edge.compile.backends.cpu.choose.fusion import fused_blocks
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.passes.fuse import fuse

# Channels 32 → 192 → 32 at 16×16: 192 KiB expanded, 48 KiB of weights.
CPU = dataclasses.replace(load_target("x86-64-v4").cpu, l1d_kib=96, l2_kib=2048, cores=2)


def inverted_residual(graph: GraphBuilder, project: bool = True) -> str:
    x = graph.relu(graph.conv(graph.frame, 32))
    y = graph.relu(graph.depthwise(graph.relu(graph.conv(x, 192))))
    return graph.add(graph.conv(y, 32), x) if project else graph.relu(y)


def sizes(graph: GraphBuilder, tensor: str, folder: Path, **changes: Any) -> list[int]:
    """Layers of each fused block on :data:`CPU` with some numbers changed."""
    onnx.save(graph.model(graph.head(tensor, 3)), str(folder / "model.onnx"))
    loaded = load_onnx(folder / "model.onnx")
    return [
        len(block.layers)
        for block in fused_blocks(loaded, fuse(loaded), Core(dataclasses.replace(CPU, **changes), "float32"))
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, [3], id="weights stay in L2: by rows"),
        pytest.param({"l2_kib": 128, "cores": 1}, [3], id="the expanded tensor does not stay in L2: by rows"),
        pytest.param({"cores": 4}, [2], id="threads would make rows twice: by panels"),
        pytest.param({"l1d_kib": 16, "cores": 4}, [], id="a panel is larger than L1: apart"),
        pytest.param({"l1d_kib": 16, "cores": 4, "l2_kib": 256}, [3], id="nothing stays: by rows, some of them twice"),
    ],
)
def test_the_card_decides(changes: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    graph = GraphBuilder(16, 16)
    assert sizes(graph, inverted_residual(graph), tmp_path, **changes) == expected


def test_without_a_projection_there_are_only_panels(tmp_path: Path) -> None:
    graph = GraphBuilder(16, 16)
    assert sizes(graph, inverted_residual(graph, project=False), tmp_path) == [2]


def test_a_convolution_between_two_depthwise_ones_is_in_one_block(tmp_path: Path) -> None:
    graph = GraphBuilder(16, 16)
    x = graph.relu(graph.conv(graph.frame, 32))
    for _ in range(3):
        x = graph.relu(graph.conv(graph.relu(graph.depthwise(x)), 32))
    assert sizes(graph, x, tmp_path) == [3, 3], "the depthwise convolution between them is alone"
    assert sizes(graph, x, tmp_path, cores=4) == [2, 2, 2]


def test_a_tensor_with_another_reader_is_made(tmp_path: Path) -> None:
    graph = GraphBuilder(16, 16)
    x = graph.relu(graph.conv(graph.frame, 32))
    y = graph.add(graph.depthwise(x), x)
    assert sizes(graph, y, tmp_path) == []


def test_a_tensor_that_is_an_output_is_made(tmp_path: Path) -> None:
    graph = GraphBuilder(16, 16)
    x = graph.relu(graph.conv(graph.frame, 32))
    graph.feed_back(graph.cache(graph.shapes[x]), x)
    assert sizes(graph, graph.depthwise(x), tmp_path) == []
