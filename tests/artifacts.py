"""Compiled artifacts that several test files share; each is compiled once in a test session."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import golden
import onnx
import pytest
from onnx_graphs import small_network

from tsm_edge.artifact import Artifact
from tsm_edge.cards import CpuSpec, TargetCard, load_model, load_target

GOLDEN_ONLINE = "online_mobilenetv2_jester27"


def compile_onnx(
    model: onnx.ModelProto,
    output: Path,
    target: TargetCard,
    cache_names: Mapping[str, str] | None = None,
    *,
    runner: bool = False,
    intermediates: Path | None = None,
) -> Artifact:
    """Save ``model`` beside ``output`` and compile it; ``runner``: with ``tsm-runner``."""
    from tsm_edge.compile.pipeline import CompileRequest, compile_model

    output.parent.mkdir(parents=True, exist_ok=True)
    source = output.parent / f"{output.name}.onnx"
    onnx.save(model, str(source))
    request = CompileRequest(
        target, output, onnx=source, cache_names=cache_names or {}, intermediates=intermediates, runner=runner
    )
    return compile_model(request)


def sse_target() -> TargetCard:
    """x86-64 with 4-lane vectors and no fused multiply-add: the vector shape of ARM boards, testable here."""
    cpu = CpuSpec("x86_64-unknown-linux-gnu", "x86-64-v2", 4, 16, l1d_kib=32, l2_kib=256, cores=4)
    return dataclasses.replace(load_target("x86-64"), name="sse", description="4 lanes", cpu=cpu)


@pytest.fixture(scope="session")
def native() -> TargetCard:
    """This machine."""
    return load_target("native")


@pytest.fixture(scope="session")
def small_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """:func:`onnx_graphs.small_network`, for this machine."""
    return compile_onnx(small_network(), tmp_path_factory.mktemp("small") / "small", native)


@pytest.fixture(scope="session")
def other_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same blocks with other weights, sizes and classes, for this machine; with a softmax and ``tsm-runner``."""
    model = small_network(seed=5, height=18, width=26, classes=4, softmax=True)
    return compile_onnx(model, tmp_path_factory.mktemp("other") / "other", native, runner=True)


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The online reference case's weights, in the upstream demo's format."""
    import torch

    weights = golden.load(GOLDEN_ONLINE).state_dict()
    path = tmp_path_factory.mktemp("golden") / "mobilenetv2_jester_online.pth"
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, path)
    return path


@pytest.fixture(scope="session")
def golden_artifact(
    native: TargetCard, golden_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Path]:
    """The default model with the reference weights, for this machine, and the folder of its intermediates."""
    from tsm_edge.compile.pipeline import CompileRequest, compile_model

    folder = tmp_path_factory.mktemp("golden-artifact")
    request = CompileRequest(
        native,
        folder / "jester",
        load_model("mobilenetv2-jester"),
        checkpoint=golden_checkpoint,
        intermediates=folder / "intermediates",
    )
    return compile_model(request), folder / "intermediates"
