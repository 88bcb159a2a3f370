"""The stages of a compilation, one after the other, each handing on something that can be looked at."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tsm_edge import __version__
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
from tsm_edge.artifact.manifest import CacheInfo, KernelInfo, Manifest, MemoryInfo, StageInfo, TensorInfo
from tsm_edge.cards import (
    Ability,
    Extent,
    ModelCard,
    Preprocess,
    Smoothing,
    TargetCard,
    TemporalMode,
    extent_of,
    extent_text,
    height_width,
    load_target,
    target_names,
)
from tsm_edge.cards.precision import FP32, INT8, Precision
from tsm_edge.compile.frontend.activation import output_activation
from tsm_edge.compile.frontend.onnx_reader import load_onnx, read_onnx
from tsm_edge.compile.ir.device_code import DeviceCode
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.kernel import Items
from tsm_edge.compile.ir.memory_plan import MemoryPlan, plan_memory
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.machine_code import MachineCode, backend_for
from tsm_edge.compile.package.output import check_loads, writing_artifact, writing_intermediates
from tsm_edge.compile.quantised import Calibration, integer_program, no_frames, noise, quantised
from tsm_edge.errors import CompileError, ModelFileError
from tsm_edge.export.metadata import OnnxMetadata, WeightSource, read_metadata
from tsm_edge.files.atomic import file_sha256, scratch_folder
from tsm_edge.files.disk import Place, naming_full_disk, temporary_place
from tsm_edge.files.paths import printable, refuse_replacing_folder
from tsm_edge.progress import Progress, Stages, silent
from tsm_edge.runtime import HEADER, abi_version

if TYPE_CHECKING:
    from tsm_edge.artifact.reference import Reference

# CPU seconds of the stages of the default model on an x86-64 server: what is told of progress.
_USUAL_S = {"preparing": 3.0, "exporting": 8.0, "lowering": 0.5, "generating": 11.0, "linking": 0.2, "runner": 0.5}


@dataclass(frozen=True)
class CompileRequest:
    """What to compile, for what, to where.

    Attributes
    ----------
    target : TargetCard
    output : Path
        Artifact directory to write; an existing artifact there is replaced.
    card : ModelCard or None
        The model; with ``onnx`` it may be None.
    checkpoint : Path or None
        Weights for ``card``; None: the card's own, or random ones where it has none.
    onnx : Path or None
        An ONNX file to compile instead of exporting ``card``.
    cache_names : mapping of str to str
        For a foreign ONNX file: cache input → cache output.
    trained_mode : str or None
        How the checkpoint was trained, where it does not say so itself.
    allow_offline_weights : bool
        See :class:`tsm_edge.export.onnx.ExportRequest`.
    temporal_mode : str or None
        Replaces the card's (``none``: the TSN baseline).
    seed : int or None
        Of random weights, even where the card has its own. None: no wish.
    intermediates : Path or None
        Directory to keep every stage's result in.
    runner : bool
        Also make ``tsm-runner``, a static program with the model inside, and its ``golden.bin``.
    precision : Precision
        Of activations, weights and sums.
    calibration : callable or None
        For integers: reads frames to calibrate with, preprocessed as it is told; None: of random weights noise.
    quantisation : Path or None
        For integers: a ``quantisation.json`` of the same model, instead.
    """

    target: TargetCard
    output: Path
    card: ModelCard | None = None
    checkpoint: Path | None = None
    onnx: Path | None = None
    cache_names: Mapping[str, str] = field(default_factory=dict)
    trained_mode: TemporalMode | None = None
    allow_offline_weights: bool = False
    temporal_mode: TemporalMode | None = None
    seed: int | None = None
    intermediates: Path | None = None
    runner: bool = True
    precision: Precision = FP32
    calibration: Callable[[Preprocess], Calibration] | None = None
    quantisation: Path | None = None

    def __post_init__(self) -> None:
        if self.card is None and self.onnx is None:
            raise CompileError("nothing to compile: expected a model name or --onnx FILE", "see: tsm-edge models")
        if self.onnx is not None and self.checkpoint is not None:
            raise CompileError(
                "--onnx already has its weights: --checkpoint cannot be given with it",
                "leave one of them out; a checkpoint is exported with: tsm-edge export MODEL --checkpoint FILE",
            )
        mode = self.temporal_mode or (self.card.network.temporal_mode if self.card else "online")
        if self.onnx is None and mode == "offline":
            raise CompileError(
                "an offline network looks at future frames and cannot run frame by frame",
                "compile the online one with: tsm-edge compile --mode online",
            )
        if self.precision.storage != "int8" and (self.calibration is not None or self.quantisation is not None):
            raise CompileError(
                f"precision {self.precision.name} is not calibrated", "add --precision int8, or leave --calibrate out"
            )
        decided = self.calibration is not None or self.quantisation is not None
        if self.precision.storage == "int8" and self.checkpoint is not None and not decided:
            raise no_frames()
        if self.calibration is not None and self.quantisation is not None:
            raise CompileError(
                "a quantisation.json has been calibrated already", "leave out --calibrate, or --quantisation"
            )
        if self.target.device == "cuda":
            if self.precision.storage == "int8":
                raise CompileError(
                    f"target {self.target.name} is a GPU: precision int8 is for CPUs yet",
                    "leave --precision out, or choose fp16",
                )
            return
        if self.precision.name == "fp16" and self.precision.accumulator == "float32":
            raise CompileError(
                f"target {self.target.name} is a CPU: --accumulate fp32 is for GPUs", "leave --accumulate out"
            )
        needs = self.precision.needs
        if needs and not set(needs) & set(self.target.cpu.abilities):
            raise CompileError(
                f"target {self.target.name} has no {' or '.join(needs)}, which precision {self.precision.name} needs",
                f"leave --precision out, or choose another target of: {', '.join(_targets_with(needs))}",
            )


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
    from tsm_edge.artifact.golden import make_golden, write_golden
    from tsm_edge.compile.package.link import link_library
    from tsm_edge.compile.package.runner import link_runner
    from tsm_edge.compile.package.zig import zig_cache
    from tsm_edge.compile.passes.fuse import fuse

    started = time.monotonic()
    backend = backend_for(request.target)
    backend.check()
    for folder_to_write in (request.output, request.intermediates):
        if folder_to_write is not None:
            refuse_replacing_folder(folder_to_write, [request.onnx, request.checkpoint], "-o DIR")
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
        graph = load_onnx(onnx_file, request.cache_names)
        request = as_the_file_is(request, graph)
        model = _described_model(request, metadata, graph)
        stages.begin("lowering", "lowering and scheduling")
        layers = fuse(graph)
        if request.precision.storage == "int8":
            calibration = _calibration(request, metadata, model, graph, warn)
            decided = quantised(graph, layers, calibration, request.quantisation, warn)
            program = integer_program(
                graph, layers, request.target, request.precision, decided, model.preprocess, folder
            )
        else:
            program = backend.lower(graph, layers, request.precision, model.preprocess)
        plan = plan_memory(program.workspace, backend.alignment)
        code = backend.generate(
            program, work, lambda count: stages.begin("generating", f"generating code for {count} kernels")
        )
        inspect(program, code.device)
        hashes = _hashes(folder, metadata, graph)
        seconds = time.monotonic() - started
        manifest = _manifest(request, model, metadata, graph, program, plan, code, hashes, seconds)
        sources = code.write_sources(work, graph, program, plan, manifest)
        stages.begin("linking", f"linking for {request.target.name}")
        link_library(folder / LIBRARY, request.target, sources, code.objects, _tvm_ffi_includes())
        shutil.copyfile(HEADER, folder / HEADER_FILE)
        if request.runner:
            stages.begin("runner", f"linking {RUNNER}")
            link_runner(folder / RUNNER, request.target, manifest, work, sources, code.objects)
            write_golden(folder / GOLDEN, make_golden(_reference(folder, manifest), manifest))
        _write_folder(folder, manifest)
        check_loads(folder, request.output)
        if kept is not None:
            _keep(kept, work, folder / MODEL_ONNX, code, program)
    return load_artifact(request.output)


def as_the_file_is(request: CompileRequest, graph: OnlineGraph) -> CompileRequest:
    """The request with the precision of a file that was quantised before.

    Raises
    ------
    CompileError
        Something else was asked for, or the target cannot compute in it.
    """
    if graph.scales is None:
        return request
    wanted = request.precision.name
    asked = next(
        (
            option
            for option, given in (
                ("--calibrate", request.calibration is not None),
                ("--quantisation", request.quantisation is not None),
                (f"--precision {wanted}", wanted not in (FP32.name, INT8.name)),
            )
            if given
        ),
        None,
    )
    if asked:
        raise CompileError(
            f"{request.onnx}: is quantised already, its own scales hold: {asked} cannot be given with it",
            f"leave {asked} out, or compile the float model it was made from",
        )
    try:
        return dataclasses.replace(request, precision=INT8)
    except CompileError as error:
        raise CompileError(
            f"{request.onnx}: is quantised, and {error.problem}",
            "choose another target (see: tsm-edge targets), or compile the float model it was made from",
        ) from None


def _targets_with(abilities: Collection[Ability]) -> list[str]:
    """Names of the cards that come with tsm-edge and have one of some abilities."""
    return [name for name in target_names() if set(abilities) & set(load_target(name).cpu.abilities)]


def _calibration(
    request: CompileRequest,
    metadata: OnnxMetadata | None,
    model: ModelCard | _ForeignModel,
    graph: OnlineGraph,
    warn: Callable[[str], None],
) -> Calibration | None:
    """What to calibrate with: noise for weights that mean nothing."""
    if request.quantisation is not None or graph.scales is not None:
        return None
    if request.calibration is not None:
        return request.calibration(model.preprocess)
    if metadata is None or not metadata.weights.random:
        return None
    warn("calibrated with noise: the weights are random; give trained ones typical video with --calibrate CLIP")
    _, _, height, width = graph.shapes[graph.frame]
    return noise((height, width), model.preprocess)


def _reference(folder: Path, manifest: Manifest) -> Reference:
    """What golden frames are made with."""
    from tsm_edge.artifact.reference import Reference

    return Reference(Artifact(folder, manifest).reference, manifest)


def _hashes(folder: Path, metadata: OnnxMetadata | None, graph: OnlineGraph) -> dict[str, str]:
    """SHA-256 of what went in, and of the reference in integers, where there is one."""
    found = {"onnx": graph.sha256}
    if metadata and metadata.weights.sha256:
        found["checkpoint"] = metadata.weights.sha256
    if (folder / EXACT_ONNX).exists():
        found["exact"] = file_sha256(folder / EXACT_ONNX)
    return found


def _stages(request: CompileRequest, progress: Progress) -> Stages:
    left_out = {"exporting"} if request.onnx is not None else set()
    left_out |= set() if request.runner else {"runner"}
    return Stages(progress, {name: seconds for name, seconds in _USUAL_S.items() if name not in left_out})


def _model_file(request: CompileRequest, folder: Path, stages: Stages) -> tuple[Path, OnnxMetadata | None]:
    """Put ``model.onnx`` into the artifact, the reference for ``tsm-edge verify``; returns the file to compile."""
    path = folder / MODEL_ONNX
    if request.onnx is not None:
        path.write_bytes(read_onnx(request.onnx)[1])
        return request.onnx, read_metadata(request.onnx)
    from tsm_edge.export.onnx import ExportRequest, export_onnx

    if request.card is None:
        raise CompileError("nothing to export: expected a model card", "see: tsm-edge models")
    export_onnx(
        ExportRequest(
            request.card,
            path,
            request.checkpoint,
            request.allow_offline_weights,
            request.temporal_mode,
            request.seed,
            request.trained_mode,
        )
    )
    return path, read_metadata(path)


def _manifest(
    request: CompileRequest,
    model: ModelCard | _ForeignModel,
    metadata: OnnxMetadata | None,
    graph: OnlineGraph,
    program: Program,
    plan: MemoryPlan,
    code: MachineCode,
    hashes: Mapping[str, str],
    seconds: float,
) -> Manifest:
    from tsm_edge.compile.package.c_tables import block_offsets, cache_bytes
    from tsm_edge.compile.package.zig import zig_version

    alignment = backend_for(request.target).alignment
    weights = metadata.weights if metadata else WeightSource(printable(str(request.onnx)), graph.sha256)
    return Manifest(
        model=model.name,
        description=model.description,
        frame=TensorInfo(graph.frame, graph.shapes[graph.frame]),
        outputs=(TensorInfo(graph.logits, graph.shapes[graph.logits]),),
        caches=tuple(CacheInfo(cache.input, cache.output, cache.shape) for cache in graph.caches),
        preprocess=model.preprocess,
        smoothing=model.smoothing,
        labels=model.labels,
        random_weights=weights.random,
        weights=str(weights),
        target=request.target,
        memory=MemoryInfo(
            workspace_bytes=plan.bytes,
            scratch_bytes=block_offsets([program.scratch_bytes])[1],
            cache_bytes=2 * cache_bytes(program, alignment),
            weight_bytes=block_offsets([array.nbytes for array in program.weights], alignment)[1],
        ),
        kernels=tuple(_kernel_info(call) for call in program.calls),
        hashes=hashes,
        versions={
            "tsm_edge": __version__,
            "tvm": importlib.metadata.version("apache-tvm"),
            "zig": zig_version(),
            "abi": str(abi_version()),
            **code.compiler,
        },
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        compile_seconds=round(seconds, 1),
        precision=request.precision.name,
        activation=output_activation(graph),
    )


@dataclass(frozen=True)
class _ForeignModel:
    """What the manifest says of a model that tsm-edge did not export; fields as in ``ModelCard``."""

    name: str
    description: str
    preprocess: Preprocess
    smoothing: Smoothing = field(default_factory=Smoothing)
    labels: tuple[str, ...] = ()


def _described_model(
    request: CompileRequest, metadata: OnnxMetadata | None, graph: OnlineGraph
) -> ModelCard | _ForeignModel:
    """What the manifest will say of the model: the exported card, or what can be known of a foreign file."""
    if metadata is None:
        return _foreign_model(request, graph)
    network = metadata.card.network
    said, found = (extent_of(*height_width(network.frame_size)), network.classes), _size_and_classes(graph)
    if said != found:
        raise ModelFileError(
            f"{request.onnx}: its tsm_edge metadata is of a network of {extent_text(said[0])} px and {said[1]} "
            f"classes, its tensors of {extent_text(found[0])} px and {found[1]} classes",
            "export it again with: tsm-edge export",
        )
    return metadata.card


def _foreign_model(request: CompileRequest, graph: OnlineGraph) -> _ForeignModel:
    """What can be known of an ONNX file tsm-edge did not export; the named card's preprocessing and labels apply."""
    size, classes = _size_and_classes(graph)
    shorter = min(height_width(size))
    card = request.card
    if card is None:
        name = request.onnx.stem if request.onnx else "model"
        preprocess = Preprocess(short_side=round(shorter * 256 / 224), crop=size)
        return _ForeignModel(name, f"compiled from {printable(str(request.onnx))}", preprocess)
    if card.network.classes != classes:
        raise CompileError(
            f"{request.onnx}: has {classes} classes, model card {card.name} {card.network.classes}",
            "name the card of this model, or none: its classes are then numbers",
        )
    preprocess = dataclasses.replace(card.preprocess, crop=size, short_side=max(shorter, card.preprocess.short_side))
    return _ForeignModel(card.name, card.description, preprocess, card.smoothing, card.labels)


def _size_and_classes(graph: OnlineGraph) -> tuple[Extent, int]:
    _, _, height, width = graph.shapes[graph.frame]
    return extent_of(height, width), graph.shapes[graph.logits][-1]


def _kernel_info(call: KernelCall) -> KernelInfo:
    spec = call.spec
    stages = tuple(StageInfo(stage.name, stage.flops) for stage in spec.stages)
    parallel = spec.parallel
    items = parallel.count if isinstance(parallel, Items) else math.prod((*parallel.blocks, *parallel.threads))
    return KernelInfo(call.kernel, spec.rule, call.layer, items, spec.flops, spec.bytes, spec.describe(), stages)


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


def _tvm_ffi_includes() -> list[Path]:
    """Folders of TVM's public C header and of DLPack's, from the installed tvm-ffi package."""
    import tvm_ffi.libinfo

    return [Path(tvm_ffi.libinfo.find_include_path()), Path(tvm_ffi.libinfo.find_dlpack_include_path())]


def _keep(folder: Path, work: Path, onnx_file: Path, code: MachineCode, program: Program) -> None:
    """Copy every stage's result: the ONNX file, the calls, the kernels' code, generated C, weights."""
    shutil.copyfile(onnx_file, folder / MODEL_ONNX)
    (folder / "program.txt").write_text("".join(f"{call}\n\n" for call in program.calls), "utf-8")
    code.keep(folder)
    shutil.copytree(work, folder, dirs_exist_ok=True)
