"""The memory that a process takes is what was planned when its model was compiled."""

from __future__ import annotations

import math
import re
import subprocess
import threading
from pathlib import Path

import pytest
from artifacts import compile_onnx
from onnx_graphs import GraphBuilder

from tsm_edge.artifact.folder import RUNNER, Artifact
from tsm_edge.cards import TargetCard, load_model

FLOAT = 4
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def large(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Three layers over a clip, whose tensors are most of what a process takes."""
    graph = GraphBuilder(128, 128, frames=8)
    x = graph.relu(graph.conv(graph.frame, 40, 3))
    x = graph.relu(graph.conv(graph.frame_shift(x, 5), 48))
    logits = graph.head(graph.conv(x, 40), 5)
    folder = tmp_path_factory.mktemp("large") / "clips"
    return compile_onnx(graph.model(logits), folder, native, clips=True, runner=True)


def taken_bytes(artifact: Artifact, threads: int) -> int:
    """The most that ``tsm-runner`` had in memory for a clip."""
    clip = bytes(math.prod(artifact.manifest.frame_shape))
    command = [str(artifact.path / RUNNER), "stream", "--threads", str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        late = threading.Timer(LIMIT_S, process.kill)
        late.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(clip)
            process.stdin.flush()
            assert process.stdout.readline().startswith(b"{")
            status = Path(f"/proc/{process.pid}/status").read_text()
            process.stdin.close()
            assert process.wait(LIMIT_S) == 0
        finally:
            late.cancel()
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def beside_plan(artifact: Artifact, threads: int) -> int:
    """What of it is not in the plan, nor the clip: as it came, and as floats."""
    clip = (1 + FLOAT) * math.prod(artifact.manifest.frame_shape)
    return taken_bytes(artifact, threads) - clip - artifact.manifest.memory.with_stream(threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_as_planned(large: Artifact, clip_artifact: Artifact, threads: int) -> None:
    planned = large.manifest.memory.with_stream(threads)
    assert planned > 40e6
    # The program itself takes as much for a clip that is next to nothing.
    assert abs(beside_plan(large, threads) - beside_plan(clip_artifact, threads)) < 0.03 * planned


@pytest.mark.slow
def test_sixteen_frames_of_resnet_50_fit_in_512_mb(native: TargetCard, tmp_path: Path) -> None:
    from tsm_edge.compile.pipeline import CompileRequest, compile_model

    artifact = compile_model(CompileRequest(native, tmp_path / "out", load_model("resnet50-something-16f")))
    assert taken_bytes(artifact, threads=2) < 512e6
    assert abs(beside_plan(artifact, threads=2)) < 0.03 * artifact.manifest.memory.with_stream(2)
