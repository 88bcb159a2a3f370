"""The stages of a compilation, one after the other, each handing on something that can be looked at."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tsm_edge.artifact.folder import (
    EXACT_ONNX,
    GOLDEN,
    HEADER_FILE,
    LABELS,
    LIBRARY,
    MANIFEST,
    MODEL_ONNX,
    QUANTISATION,
    RUNNER,
    Artifact,
    load_artifact,
)
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import ModelCard
from tsm_edge.compile.describe import ForeignModel, described_model, hashes_of, manifest_of
from tsm_edge.compile.frontend.onnx_reader import load_onnx, read_onnx
from tsm_edge.compile.ir.device_code import DeviceCode
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.memory_plan import plan_memory
from tsm_edge.compile.ir.program import Program
from tsm_edge.compile.machine_code import Backend, MachineCode, backend_for
from tsm_edge.compile.package.output import check_artifact_place as check_artifact_place
from tsm_edge.compile.package.output import check_loads, writing_artifact, writing_intermediates
from tsm_edge.compile.quantised import Calibration, noise, quantised, write_quantised
from tsm_edge.compile.quantize.store import read_table
from tsm_edge.compile.recorded import NO_RECORDS, Recorded, recorded_for
from tsm_edge.compile.request import CompileRequest as CompileRequest
from tsm_edge.compile.request import as_the_file_is
from tsm_edge.compile.tvm_headers import tvm_ffi_includes
from tsm_edge.errors import CompileError
from tsm_edge.export.metadata import OnnxMetadata, read_metadata
from tsm_edge.files.atomic import file_sha256, scratch_folder
from tsm_edge.files.disk import Place, naming_full_disk, temporary_place
from tsm_edge.files.paths import refuse_replacing_folder
from tsm_edge.progress import Progress, Stages, silent
from tsm_edge.runtime import HEADER

# CPU seconds of the stages of the default model on an x86-64 server: what is told of progress.
_USUAL_S = {"preparing": 3.0, "exporting": 8.0, "lowering": 0.5, "generating": 11.0, "linking": 0.2, "runner": 0.5}


def compile_model(
    request: CompileRequest,
    progress: Progress = silent,
    inspect: Callable[[Program, DeviceCode | None], None] = lambda program, code: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Artifact:
    """Compile a model to an artifact directory.

    Parameters
    ----------
    request : CompileRequest
    progress : callable, optional
        Called before each stage with what it does and the share that is done.
    inspect : callable, optional
        Called with the lowered program and, of a GPU, its code (see ``tsm_edge.compile.explain``).
    warn : callable, optional
        Called with what is not as it should be, but does not hinder.

    Raises
    ------
    TsmEdgeError
        With the stage's own message; nothing is left behind.
    """
    from tsm_edge.compile.package.zig import zig_cache

    started = time.monotonic()
    backend = backend_for(request.target)
    backend.check()
    for folder_to_write in (request.output, request.intermediates):
        if folder_to_write is not None:
            refuse_replacing_folder(folder_to_write, [request.onnx, request.checkpoint], "-o DIR")
    if request.quantisation is not None:
        read_table(request.quantisation)  # what is no such file is said before the work
    if note := zig_cache().note:
        warn(note)
    with ExitStack() as folders:
        work = folders.enter_context(scratch_folder())
        folder = folders.enter_context(writing_artifact(request.output))
        kept = folders.enter_context(writing_intermediates(request.intermediates)) if request.intermediates else None
        output = Place(request.output, "the artifact", "make room there, or choose another folder with: -o DIR")
        folders.enter_context(naming_full_disk([temporary_place(), output]))
        stages = _stages(request, progress)
        onnx_file, metadata = _model_file(request, folder, stages)
        clips = request.clips or (metadata is not None and metadata.card.network.temporal_mode != "online")
        graph = load_onnx(onnx_file, request.cache_names, clips)
        request = as_the_file_is(request, graph)
        request.check_graph(graph)
        model = described_model(request, metadata, graph)
        stages.begin("lowering", "lowering and scheduling")
        program, recorded = _lowered(request, backend, metadata, model, graph, folder, warn)
        plan = plan_memory(program.workspace, backend.alignment)
        code = backend.generate(
            program, work, lambda count: stages.begin("generating", f"generating code for {count} kernels")
        )
        inspect(program, code.device)
        hashes = hashes_of(folder, metadata, graph)
        seconds = time.monotonic() - started
        manifest = manifest_of(request, model, metadata, graph, program, plan, code, hashes, seconds)
        manifest = dataclasses.replace(manifest, tuned=recorded.covered, threads=recorded.threads)
        sources = code.write_sources(work, graph, program, plan, manifest)
        _link(request, folder, work, manifest, sources, code, stages)
        _write_folder(folder, manifest)
        check_loads(folder, request.output)
        if kept is not None:
            _keep(kept, work, folder / MODEL_ONNX, code, program)
    return load_artifact(request.output)


def _lowered(
    request: CompileRequest,
    backend: Backend,
    metadata: OnnxMetadata | None,
    model: ModelCard | ForeignModel,
    graph: OnlineGraph,
    folder: Path,
    warn: Callable[[str], None],
) -> tuple[Program, Recorded]:
    """The program, and what records gave; of integers, its decisions go to the artifact."""
    from tsm_edge.compile.passes.fuse import fuse

    layers = fuse(graph)
    target, precision = request.target, request.precision
    decided, recorded = None, NO_RECORDS
    if precision.storage == "int8":
        calibration = _calibration(request, metadata, model, graph, warn)
        decided = quantised(graph, layers, calibration, request.quantisation, warn)
        write_quantised(folder, graph, layers, decided)
    if graph.frames == 1:  # records are of single frames
        recorded = recorded_for(target, precision, request.records, graph, layers, warn, decided)
    return backend.lower(graph, layers, precision, model.preprocess, recorded.choices, decided), recorded


def _calibration(
    request: CompileRequest,
    metadata: OnnxMetadata | None,
    model: ModelCard | ForeignModel,
    graph: OnlineGraph,
    warn: Callable[[str], None],
) -> Calibration | None:
    """Frames to calibrate with: those that were given; of random weights, where nothing was decided, noise."""
    if request.calibration is not None:
        return request.calibration(model.preprocess)
    decided = request.quantisation is not None or graph.scales is not None
    if decided or metadata is None or not metadata.weights.random:
        return None
    warn("calibrated with noise: the weights are random; give trained ones typical video with --calibrate CLIP")
    _, _, height, width = graph.shapes[graph.frame]
    return noise((height, width), model.preprocess)


def _link(
    request: CompileRequest,
    folder: Path,
    work: Path,
    manifest: Manifest,
    sources: tuple[Path, Path],
    code: MachineCode,
    stages: Stages,
) -> None:
    """``model.so`` and, where wanted, the runner with its golden frames."""
    from tsm_edge.artifact.golden import make_golden, write_golden
    from tsm_edge.artifact.reference import Reference
    from tsm_edge.compile.package.link import link_library
    from tsm_edge.compile.package.runner import link_runner

    stages.begin("linking", f"linking for {request.target.name}")
    link_library(folder / LIBRARY, request.target, sources, code.objects, tvm_ffi_includes())
    shutil.copyfile(HEADER, folder / HEADER_FILE)
    if request.runner and manifest.frame_shape[1] == 3:  # its frames are pictures
        stages.begin("runner", f"linking {RUNNER}")
        link_runner(folder / RUNNER, request.target, manifest, work, sources, code.objects)
        reference = Reference(Artifact(folder, manifest).reference, manifest)
        write_golden(folder / GOLDEN, make_golden(reference, manifest))


def _stages(request: CompileRequest, progress: Progress) -> Stages:
    left_out = {"exporting"} if request.onnx is not None else set()
    left_out |= set() if request.runner else {"runner"}
    return Stages(progress, {name: seconds for name, seconds in _USUAL_S.items() if name not in left_out})


def _model_file(request: CompileRequest, folder: Path, stages: Stages) -> tuple[Path, OnnxMetadata | None]:
    """Put ``model.onnx`` into the artifact, the reference for ``tsm-edge verify``; returns the file to compile."""
    path = folder / MODEL_ONNX
    if request.onnx is not None:
        stages.begin("preparing", f"reading {request.onnx.name}")
        path.write_bytes(read_onnx(request.onnx)[1])
        return request.onnx, read_metadata(request.onnx)
    from tsm_edge.export.onnx import ExportRequest, export_onnx

    if request.card is None:
        raise CompileError("nothing to export: expected a model card", "see: tsm-edge models")
    stages.begin("exporting", "exporting the model")
    export_onnx(
        ExportRequest(
            request.card,
            path,
            request.checkpoint,
            request.allow_offline_weights,
            request.temporal_mode,
            request.seed,
            request.trained_mode,
            request.frames,
        )
    )
    return path, read_metadata(path)


def _write_folder(folder: Path, manifest: Manifest) -> None:
    """Labels, and the manifest last, with the hashes of everything beside it."""
    if manifest.labels:
        (folder / LABELS).write_text("".join(f"{label}\n" for label in manifest.labels), "utf-8")
    names = [
        name
        for name in (LIBRARY, LABELS, HEADER_FILE, RUNNER, GOLDEN, EXACT_ONNX, QUANTISATION)
        if (folder / name).exists()
    ]
    files = {name: file_sha256(folder / name) for name in names}
    (folder / MANIFEST).write_text(dataclasses.replace(manifest, files=files).to_json(), "utf-8")


def _keep(folder: Path, work: Path, onnx_file: Path, code: MachineCode, program: Program) -> None:
    """Copy every stage's result: the ONNX file, the calls, the kernels' code, generated C, weights."""
    shutil.copyfile(onnx_file, folder / MODEL_ONNX)
    (folder / "program.txt").write_text("".join(f"{call}\n\n" for call in program.calls), "utf-8")
    code.keep(folder)
    shutil.copytree(work, folder, dirs_exist_ok=True)
