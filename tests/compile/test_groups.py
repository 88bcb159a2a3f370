"""Grouped convolutions whose groups do not fill vectors, and additions that no convolution can take."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from artifacts import sse_target
from onnx_graphs import GraphBuilder, Reference, assert_close

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import TargetCard
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.session.local import OnlineSession


def compiled(model: onnx.ModelProto, folder: Path, target: TargetCard) -> Artifact:
    onnx.save(model, str(folder / "model.onnx"))
    return compile_model(CompileRequest(target, folder / "out", onnx=folder / "model.onnx", runner=False))


def grouped_network() -> onnx.ModelProto:
    """8, 18, 10, 2 and 3 channels a group; a depthwise convolution with a residual."""
    graph = GraphBuilder()
    x = graph.relu(graph.conv(graph.frame, 12, 3, 2))
    x = graph.clip(graph.add(graph.depthwise(x), x), 0, 6)
    x = graph.conv(x, 24, 3, groups=3)
    x = graph.relu(graph.conv(x, 36, 3, groups=2))
    x = graph.conv(x, 30, groups=3)
    x = graph.conv(x, 60, 3, groups=30)
    x = graph.conv(x, 15, groups=5)
    return graph.model(graph.head(x, 5))


@pytest.mark.parametrize("lanes", ["native", "sse"])
def test_odd_groups_agree_with_onnx_runtime(lanes: str, native: TargetCard, tmp_path: Path) -> None:
    model = grouped_network()
    artifact = compiled(model, tmp_path, native if lanes == "native" else sse_target())
    reference = Reference(model)
    frame = reference.frames(1)[0]
    expected, _ = reference.step(frame, [])
    for threads in (1, 3):
        with OnlineSession(artifact, threads) as session:
            assert_close(session.step(frame), expected)
    assert "generic" not in {kernel.rule for kernel in artifact.manifest.kernels}
