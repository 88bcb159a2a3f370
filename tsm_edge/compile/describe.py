"""What a manifest says of a compiled model: where it comes from, what it takes, what it is made of."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tsm_edge import __version__
from tsm_edge.artifact.folder import EXACT_ONNX
from tsm_edge.artifact.manifest import (
    CacheInfo,
    KernelInfo,
    Manifest,
    MemoryInfo,
    StageInfo,
    TensorInfo,
    output_shapes,
)
from tsm_edge.cards import FLOW_CHANNELS, Extent, ModelCard, Preprocess, Smoothing, extent_of, extent_text, height_width
from tsm_edge.compile.frontend.activation import output_activation
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.kernel import Items
from tsm_edge.compile.ir.memory_plan import MemoryPlan
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.machine_code import MachineCode, backend_for
from tsm_edge.compile.request import CompileRequest
from tsm_edge.errors import CompileError, ModelFileError
from tsm_edge.export.metadata import OnnxMetadata, WeightSource
from tsm_edge.files.atomic import file_sha256
from tsm_edge.files.paths import printable
from tsm_edge.runtime import abi_version


@dataclass(frozen=True)
class ForeignModel:
    """What the manifest says of a model that tsm-edge did not export; fields as in ``ModelCard``."""

    name: str
    description: str
    preprocess: Preprocess
    smoothing: Smoothing = field(default_factory=Smoothing)
    labels: tuple[str, ...] = ()


def described_model(
    request: CompileRequest, metadata: OnnxMetadata | None, graph: OnlineGraph
) -> ModelCard | ForeignModel:
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


def _foreign_model(request: CompileRequest, graph: OnlineGraph) -> ForeignModel:
    """What can be known of an ONNX file tsm-edge did not export; the named card's preprocessing and labels apply."""
    size, classes = _size_and_classes(graph)
    shorter = min(height_width(size))
    card = request.card
    channels = graph.shapes[graph.frame][1]
    if card is None:
        name = request.onnx.stem if request.onnx else "model"
        preprocess = Preprocess(short_side=round(shorter * 256 / 224), crop=size)
        if channels == FLOW_CHANNELS:  # upstream's, of optical flow
            preprocess = dataclasses.replace(preprocess, mean=(0.5,) * 3, std=(0.226,) * 3)
        return ForeignModel(name, f"compiled from {printable(str(request.onnx))}", preprocess)
    if card.network.channels != channels:
        raise CompileError(
            f"{request.onnx}: takes {channels} channels, model card {card.name} {card.network.channels}",
            "name the card of this model, or none",
        )
    if card.network.classes != classes:
        raise CompileError(
            f"{request.onnx}: has {classes} classes, model card {card.name} {card.network.classes}",
            "name the card of this model, or none: its classes are then numbers",
        )
    preprocess = dataclasses.replace(card.preprocess, crop=size, short_side=max(shorter, card.preprocess.short_side))
    return ForeignModel(card.name, card.description, preprocess, card.smoothing, card.labels)


def _size_and_classes(graph: OnlineGraph) -> tuple[Extent, int]:
    _, _, height, width = graph.shapes[graph.frame]
    return extent_of(height, width), graph.shapes[graph.logits][-1]


def _interface(graph: OnlineGraph, clips: int) -> tuple[TensorInfo, tuple[TensorInfo, ...]]:
    """What a step takes, and what it makes beside the next caches."""
    frame = graph.shapes[graph.frame]
    if graph.frames == 1:
        return TensorInfo(graph.frame, frame), (TensorInfo(graph.logits, graph.shapes[graph.logits]),)
    shapes = output_shapes(clips, graph.frames, graph.shapes[graph.logits][-1])
    outputs = tuple(TensorInfo(name, shape) for name, shape in zip(graph.results, shapes, strict=True))
    return TensorInfo(graph.frame, (clips * frame[0], *frame[1:])), outputs


def _kernel_info(call: KernelCall, clips: int) -> KernelInfo:
    """A call of a step; of several clips, the work of its calls for all of them."""
    spec = call.spec
    stages = tuple(StageInfo(stage.name, clips * stage.flops) for stage in spec.stages)
    parallel = spec.parallel
    items = parallel.count if isinstance(parallel, Items) else math.prod((*parallel.blocks, *parallel.threads))
    flops, moved = clips * spec.flops, clips * spec.bytes
    return KernelInfo(call.kernel, spec.rule, call.layer, items, flops, moved, spec.describe(), stages)


def hashes_of(folder: Path, metadata: OnnxMetadata | None, graph: OnlineGraph) -> dict[str, str]:
    """SHA-256 of what went in, and of the reference in integers, where there is one."""
    found = {"onnx": graph.sha256}
    if metadata and metadata.weights.sha256:
        found["checkpoint"] = metadata.weights.sha256
    if (folder / EXACT_ONNX).exists():
        found["exact"] = file_sha256(folder / EXACT_ONNX)
    return found


def manifest_of(
    request: CompileRequest,
    model: ModelCard | ForeignModel,
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
    frame, outputs = _interface(graph, request.clips_per_batch)
    weights = metadata.weights if metadata else WeightSource(printable(str(request.onnx)), graph.sha256)
    return Manifest(
        model=model.name,
        description=model.description,
        frame=frame,
        outputs=outputs,
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
        kernels=tuple(_kernel_info(call, request.clips_per_batch) for call in program.calls),
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
        mode="offline" if graph.frames > 1 else "online",
        frames=graph.frames,
        clips=request.clips_per_batch,
    )
