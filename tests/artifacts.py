"""Compiled artifacts that several test files share; each is compiled once in a test session."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import golden
import onnx
import pytest
from onnx_graphs import GraphBuilder, elementwise, small_clip_network, small_network

from tsm_edge.artifact.folder import Artifact, load_artifact
from tsm_edge.cards import Ability, CpuSpec, TargetCard, load_model, load_target
from tsm_edge.cards.precision import FP32, Precision

CLIPS_A_STEP = 3
GOLDEN_ONLINE = "online_mobilenetv2_jester27"


def compile_onnx(
    model: onnx.ModelProto,
    output: Path,
    target: TargetCard,
    cache_names: Mapping[str, str] | None = None,
    *,
    runner: bool = False,
    intermediates: Path | None = None,
    precision: Precision = FP32,
    clips: bool = False,
    clips_per_batch: int = 1,
) -> Artifact:
    """Save ``model`` beside ``output`` and compile it; ``runner``: with ``tsm-runner``; ``clips``: of a batch."""
    from tsm_edge.compile.pipeline import CompileRequest, compile_model

    output.parent.mkdir(parents=True, exist_ok=True)
    source = output.parent / f"{output.name}.onnx"
    onnx.save(model, str(source))
    request = CompileRequest(
        target,
        output,
        onnx=source,
        cache_names=cache_names or {},
        intermediates=intermediates,
        runner=runner,
        precision=precision,
        temporal_mode="offline" if clips else None,
        clips_per_batch=clips_per_batch,
    )
    return compile_model(request)


def run_cc(target: TargetCard, *arguments: str | Path) -> None:
    """Run the C compiler for a target.

    As artifacts are linked: so that most of what zig builds for a target, once on a machine, is built already.
    """
    from tsm_edge.compile.package.link import zig_target
    from tsm_edge.compile.package.zig import run_zig

    run_zig(["cc", "-O2", "-target", zig_target(target), *map(str, arguments)], f"compiling for {target.name}", None)


def sse_target() -> TargetCard:
    """x86-64 with 4-lane vectors and no fused multiply-add: the vector shape of ARM boards, testable here."""
    abilities: tuple[Ability, ...] = ("memory-operands", "prefetch")
    cpu = CpuSpec("x86_64-unknown-linux-gnu", "x86-64-v2", 4, 16, 32, 256, cores=4, abilities=abilities)
    return dataclasses.replace(load_target("x86-64"), name="sse", description="4 lanes", cpu=cpu)


@pytest.fixture(scope="session")
def native() -> TargetCard:
    """This machine."""
    return load_target("native")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of the test processes running side by side fills, and all of them read.

    Parameters
    ----------
    factory : pytest.TempPathFactory
    name : str
    make : callable
        Is given the empty folder.
    """
    base = factory.getbasetemp()
    # Each process of pytest-xdist has its own folder in one that is common to them.
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = common / name, common / f"{name}.done"
    with (common / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of another process that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def small_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """:func:`onnx_graphs.small_network`, for this machine."""

    def make(folder: Path) -> None:
        compile_onnx(small_network(), folder / "small", native)

    return load_artifact(made_once(tmp_path_factory, "small", make) / "small")


@pytest.fixture(scope="session")
def clip_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """:func:`onnx_graphs.small_clip_network`, for this machine, with ``tsm-runner``."""

    def make(folder: Path) -> None:
        compile_onnx(small_clip_network(), folder / "clips", native, clips=True, runner=True)

    return load_artifact(made_once(tmp_path_factory, "clips", make) / "clips")


@pytest.fixture(scope="session")
def clips_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small network over clips of 2 frames, :data:`CLIPS_A_STEP` a step, for this machine, with ``tsm-runner``."""

    def make(folder: Path) -> None:
        graph = GraphBuilder(22, 34, frames=2)
        model = graph.model(graph.head(elementwise(graph), 11))
        compile_onnx(model, folder / "batch", native, clips=True, runner=True, clips_per_batch=CLIPS_A_STEP)

    return load_artifact(made_once(tmp_path_factory, "batch", make) / "batch")


@pytest.fixture(scope="session")
def artifact_with_runner(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same, with ``tsm-runner``."""

    def make(folder: Path) -> None:
        compile_onnx(small_network(), folder / "gestures", native, runner=True)

    return load_artifact(made_once(tmp_path_factory, "with-runner", make) / "gestures")


@pytest.fixture(scope="session")
def other_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same blocks with other weights, sizes and classes, for this machine; with a softmax and ``tsm-runner``."""

    def make(folder: Path) -> None:
        model = small_network(seed=5, height=18, width=26, classes=4, softmax=True)
        compile_onnx(model, folder / "other", native, runner=True)

    return load_artifact(made_once(tmp_path_factory, "other", make) / "other")


@pytest.fixture(scope="session")
def tiny_gpu_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models for a GPU and stand-ins for its driver: see :func:`tiny_gpu.write_models`."""
    from tiny_gpu import write_models

    return made_once(tmp_path_factory, "tiny-gpu", write_models)


@pytest.fixture(scope="session")
def golden_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The online reference case's weights, in the upstream demo's format."""
    name = "mobilenetv2_jester_online.pth"

    def make(folder: Path) -> None:
        import torch

        weights = golden.load(GOLDEN_ONLINE).state_dict()
        torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, folder / name)

    return made_once(tmp_path_factory, "golden-checkpoint", make) / name


@pytest.fixture(scope="session")
def golden_artifact(
    native: TargetCard, golden_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Path]:
    """The default model with the reference weights, for this machine, and the folder of its intermediates."""

    def make(folder: Path) -> None:
        from tsm_edge.compile.pipeline import CompileRequest, compile_model

        card = load_model("mobilenetv2-jester")
        kept = folder / "intermediates"
        compile_model(CompileRequest(native, folder / "jester", card, checkpoint=golden_checkpoint, intermediates=kept))

    folder = made_once(tmp_path_factory, "golden-artifact", make)
    return load_artifact(folder / "jester"), folder / "intermediates"


@pytest.fixture(scope="session")
def motion_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The shipped model with its weights, for this machine."""

    def make(folder: Path) -> None:
        from tsm_edge.compile.pipeline import CompileRequest, compile_model

        compile_model(CompileRequest(native, folder / "motion", load_model("motion")))

    return load_artifact(made_once(tmp_path_factory, "motion-artifact", make) / "motion")
