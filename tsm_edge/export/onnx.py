"""Network to ONNX: shift caches as named inputs and outputs, everything else the compiler needs as metadata."""

from __future__ import annotations

import dataclasses
import logging
import typing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tsm_edge import __version__
from tsm_edge.cards import LARGEST_SEED, RGB_CHANNELS, ModelCard, NetworkSpec, TemporalMode, height_width
from tsm_edge.errors import CheckpointError, ModelFileError, TsmEdgeError
from tsm_edge.export.metadata import OnnxMetadata, WeightSource, write_metadata
from tsm_edge.files.atomic import check_writable, write_atomic
from tsm_edge.files.paths import printable, refuse_replacing

if typing.TYPE_CHECKING:
    import onnx

    from tsm_edge.networks import TemporalNetwork

OPSET = 20


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes
    ----------
    card : ModelCard
    output : Path
        ONNX file to write; replaced if it exists.
    checkpoint : Path or None
        Weights in one of the upstream formats; None: the card's own, or random ones where it has none.
    allow_offline_weights : bool
        Accept weights trained with bi-directional shift, or without any, for an online network.
    temporal_mode : {"online", "offline", "none"} or None
        Replaces the card's; ``none`` gives the frame-by-frame baseline (TSN). None: the card's.
    seed : int or None
        Of random weights, even where the card has its own. None: no wish.
    trained_mode : {"online", "offline", "none"} or None
        How the checkpoint was trained, where it does not say so itself.
    frames : int or None
        Of a clip: replaces the card's; in mode ``none`` a clip of so many frames instead of one frame.
    from_rgb : bool
        The checkpoint is an RGB network's, to begin training one of optical flow with
        (:func:`tsm_edge.networks.checkpoints.flow_from_rgb`).
    """

    card: ModelCard
    output: Path
    checkpoint: Path | None = None
    allow_offline_weights: bool = False
    temporal_mode: TemporalMode | None = None
    seed: int | None = None
    trained_mode: TemporalMode | None = None
    frames: int | None = None
    from_rgb: bool = False

    def __post_init__(self) -> None:
        if self.from_rgb and (self.checkpoint is None or self.card.network.channels == RGB_CHANNELS):
            raise TsmEdgeError(
                "--from-rgb makes an RGB network's checkpoint one of a network for optical flow: expected both",
                "for example: tsm-edge export resnet50-kinetics-flow-8f --from-rgb --checkpoint FILE -o FILE.onnx",
            )
        if self.frames is not None and (self.temporal_mode or self.card.network.temporal_mode) == "online":
            raise TsmEdgeError(
                "an online network takes one frame a step: --frames is for clips", "add --mode offline, or --mode none"
            )
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            raise TsmEdgeError(f"seed is {self.seed}, expected 0 to {LARGEST_SEED}", "choose another")


@dataclass(frozen=True)
class ExportResult:
    """What was exported.

    Attributes
    ----------
    path : Path
    card : ModelCard
        As written into the file: with the temporal mode it was exported in.
    weights : WeightSource
    inputs, outputs : dict of str to tuple of int
        Shapes by name, in order; all float32.
    bytes : int
        Size of the file.
    """

    path: Path
    card: ModelCard
    weights: WeightSource
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    bytes: int


def export_onnx(request: ExportRequest, began: Callable[[], None] = lambda: None) -> ExportResult:
    """Write a network as one ONNX file (opset 20, no external data), atomically.

    Inputs and outputs by temporal mode, all float32:

    - online: ``frame`` [1, 3, H, W], ``shift_0`` … to ``logits`` [1, classes], ``shift_0_next`` …;
      ``shift_i_next`` of one frame is ``shift_i`` of the next, zeros before the first;
    - offline: ``clip`` [frames, 3, H, W] to ``logits`` [frames, classes], to be averaged;
    - none: ``frame`` [1, 3, H, W] to ``logits`` [1, classes]; with ``frames`` asked for as offline.

    Parameters
    ----------
    request : ExportRequest
    began : callable, optional
        Called when all that is given has been found good, before the long part.

    Raises
    ------
    CheckpointError
        The checkpoint cannot be read or does not fit the card.
    CardError
        The temporal mode is impossible for the card's network.
    ModelFileError
        The output cannot be written.
    TsmEdgeError
        The output is the checkpoint.
    """
    from tsm_edge.networks import build_network

    if request.output.is_dir():
        raise ModelFileError(f"{request.output}: is a folder, expected a file to write", "add a name: -o FILE.onnx")
    refuse_replacing(request.output, [request.checkpoint], "-o FILE.onnx")
    try:
        check_writable(request.output)
    except OSError as error:
        raise _not_writable(request.output, error) from None
    network_spec = request.card.network
    if request.temporal_mode is not None:
        network_spec = dataclasses.replace(network_spec, temporal_mode=request.temporal_mode)
    if request.frames is not None:
        network_spec = dataclasses.replace(network_spec, frames=request.frames)
    card = dataclasses.replace(request.card, network=network_spec)
    network = build_network(card.network, request.seed or 0)
    weights = _load_weights(network, card.network, request)
    began()
    clip = card.network.temporal_mode == "offline" or request.frames is not None
    model = _to_onnx(network, card.network, card.network.frames if clip else 1)
    _strip(model)
    _name_nodes(model, network)
    write_metadata(model, OnnxMetadata(card, weights, __version__))
    size = _write(model, request.output)
    return ExportResult(request.output, card, weights, _shapes(model.graph.input), _shapes(model.graph.output), size)


def _load_weights(network: TemporalNetwork, spec: NetworkSpec, request: ExportRequest) -> WeightSource:
    path = request.checkpoint
    if path is None and request.seed is None and request.card.weights_file:
        path, own = Path(request.card.weights_file), request.card.network.temporal_mode
        if spec.temporal_mode != own:
            raise CheckpointError(
                f"{request.card.name}: its own weights are of an {own} network, expected {spec.temporal_mode} ones",
                "give others with --checkpoint FILE, or random ones for timing with --seed 0",
            )
    if path is None:
        return WeightSource(seed=request.seed or 0)
    from tsm_edge.networks.checkpoints import flow_from_rgb, read_checkpoint
    from tsm_edge.networks.loading import load_into

    checkpoint = read_checkpoint(path, request.trained_mode)
    if request.from_rgb:
        checkpoint = flow_from_rgb(checkpoint)
    load_into(network, spec, checkpoint, request.allow_offline_weights)
    return WeightSource(
        printable(checkpoint.path.name),
        checkpoint.sha256,
        checkpoint.trained_mode,
        part=checkpoint.part,
        beside=", ".join(checkpoint.beside),
        from_rgb=request.from_rgb,
    )


def _to_onnx(network: TemporalNetwork, spec: NetworkSpec, frames: int) -> onnx.ModelProto:
    import torch

    size = height_width(spec.frame_size)
    arguments = (torch.zeros(frames, spec.channels, *size), *(torch.zeros(shape) for shape in network.cache_shapes))
    caches = [f"shift_{index}" for index in range(len(network.cache_shapes))]
    with _quiet():
        program = torch.onnx.export(
            network,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=["clip" if frames > 1 else "frame", *caches],
            output_names=["logits", *(f"{cache}_next" for cache in caches)],
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on optional packages and its own deprecations from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_nodes(model: onnx.ModelProto, network: TemporalNetwork) -> None:
    """Name operators with weights after the network's own modules, so that every later stage can call them that."""
    prefix = "backbone."
    names = {f"{prefix}{module}.weight": name for module, name in network.backbone.layer_names().items()}
    for node in model.graph.node:
        named = next((names[name] for name in node.input if name in names), "")
        node.name = named or node.name.removeprefix("node_")


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter leaves for debugging: stack traces with this machine's paths, and inner shapes."""
    for item in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, model.graph):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.ClearField("doc_string")


def _write(model: onnx.ModelProto, path: Path) -> int:
    """Check the model and write it; return its size in bytes."""
    import onnx

    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    try:
        write_atomic(path, data)
    except OSError as error:
        raise _not_writable(path, error) from None
    return len(data)


def _not_writable(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(f"{path}: cannot be written ({error.strerror})", "choose another file with: -o FILE.onnx")


def _shapes(values: typing.Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[int, ...]]:
    return {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}
