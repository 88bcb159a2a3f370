"""Training a network on clips, from the first weights to a folder with a model card that ``compile`` takes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tsm_edge.cards import RGB_CHANNELS, ModelCard, NetworkSpec
from tsm_edge.errors import TsmEdgeError
from tsm_edge.networks import TemporalNetwork, build_network
from tsm_edge.networks.backbone import Shifted
from tsm_edge.networks.mobilenet_v2 import MobileNetV2
from tsm_edge.networks.temporal_shift import CausalShift, OfflineShift, Shift, no_shift
from tsm_edge.progress import Progress, silent
from tsm_edge.training.data import Data
from tsm_edge.training.loop import Loop
from tsm_edge.training.measures import measure
from tsm_edge.training.output import (
    LABELS,
    STATE,
    WEIGHTS,
    Trained,
    TrainResult,
    card_name,
    check_output,
    worst_clips,
    write_model,
)
from tsm_edge.training.place import HERE, TrainingPlace
from tsm_edge.training.recipe import Recipe
from tsm_edge.training.weights import begin_from


@dataclass(frozen=True)
class TrainRequest:
    """What to train.

    Attributes
    ----------
    card : ModelCard
        Its network and preprocessing; the number of classes and the labels are the data's.
    data : Data
    output : Path
        Folder of the run: card, labels, weights, report; while it runs, the state to go on from.
    recipe : Recipe
    start : str
        ``none``, ``motion``, ``imagenet`` or a checkpoint's path.
    freeze : int
        So many of the first parts of the network stay as they are; -1: all but the classifier.
    name : str
        Of the new model; empty: the folder's.
    place : TrainingPlace
        What computes: the CPU or a GPU.
    again : bool
        A training in the folder that is finished may be replaced.
    """

    card: ModelCard
    data: Data
    output: Path
    recipe: Recipe
    start: str = "none"
    freeze: int = 0
    name: str = ""
    place: TrainingPlace = HERE
    again: bool = False

    def __post_init__(self) -> None:
        if self.card.network.channels != RGB_CHANNELS:
            raise TsmEdgeError(
                f"model {self.card.name} takes optical flow, expected one that takes RGB frames",
                "train it with upstream's code, from: tsm-edge export --from-rgb",
            )


def train(
    request: TrainRequest, progress: Progress = silent, note: Callable[[str], None] = lambda text: None
) -> TrainResult:
    """Train, measure on the test clips, and write the run's folder.

    A run that was killed goes on when it is started again with the same request.

    Parameters
    ----------
    request : TrainRequest
    progress, note : callable, optional
        Told how far it is, and what should be known of the weights it starts from.

    Raises
    ------
    CheckpointError
        The weights to start from do not fit, or the state in the folder is of another training.
    Diverged
        The loss is no number any more.
    TsmEdgeError
        The request is impossible, or the folder holds a training that is finished.
    """
    card = described(request)
    inputs = [Path(request.start), Path(request.card.weights_file or request.start)]
    check_output(request.output, card.name, inputs, again=request.again)
    network = build_network(card.network, request.recipe.seed)
    for line in begin_from(network, card.network, request.start, request.recipe.seed):
        note(line)
    online = card.network.temporal_mode == "online"
    frozen = freeze(network, request.freeze)
    late = before_the_shift(network) if request.start == "none" and not frozen else ()
    shift = clip_shift(card.network)
    loop = Loop(network.backbone, shift, card.preprocess, request.recipe, online, frozen, late, request.place)
    state = request.output / STATE
    points = loop.train(
        request.data.train(),
        request.data.validation(),
        state,
        lambda text, done: progress(text, 0.97 * done),
        training=_identity(request),
    )
    progress("measuring on the test clips", 0.97)
    test = request.data.test()
    logits, labels = loop.logits(test, range(len(test)))
    network.to("cpu")
    truth = labels[:, -1]
    measures = measure(logits.numpy(), truth, request.data.labels, online)
    trained = Trained(card, request.recipe, request.start, request.data.origin, points, loop.progress.seconds, measures)
    result = write_model(request.output, network, trained, worst_clips(test, logits.numpy(), truth, online))
    state.unlink(missing_ok=True)
    return result


def _identity(request: TrainRequest) -> str:
    """What must be the same for a training to go on, beside the recipe."""
    card = request.card
    told = repr((card.network, card.preprocess, request.data, request.start, request.freeze))
    return hashlib.sha256(told.encode()).hexdigest()


def described(request: TrainRequest) -> ModelCard:
    """The card of what will come out: the given one with the data's classes, under its new name."""
    name, labels = request.name or card_name(request.output), request.data.labels
    network = dataclasses.replace(request.card.network, classes=len(labels))
    return dataclasses.replace(
        request.card,
        name=name,
        description=request.card.description if labels == request.card.labels else _about(name, request.data),
        network=network,
        labels=labels,
        labels_file=LABELS,
        weights_file=WEIGHTS,
        smoothing=dataclasses.replace(request.card.smoothing, masked=(), shown_as=()),
    )


def _about(name: str, data: Data) -> str:
    return f"{name}: {len(data.labels)} classes, trained on {data.origin}"


def clip_shift(spec: NetworkSpec) -> Shift:
    """The shift over whole clips in which a network of this spec is trained."""
    if spec.temporal_mode == "online":
        return CausalShift(spec.frames)
    return OfflineShift(spec.frames) if spec.temporal_mode == "offline" else no_shift


def before_the_shift(network: TemporalNetwork) -> Sequence[nn.Module]:
    """The parts of a MobileNet-V2 that see one frame only; of other networks none."""
    if not isinstance(network.backbone, MobileNetV2):
        return ()
    layers = list(network.backbone.features)
    shifted = [index for index, layer in enumerate(layers) if isinstance(layer, Shifted) and layer.fold]
    return layers[: shifted[0]] if shifted else ()


def freeze(network: TemporalNetwork, parts: int) -> Sequence[nn.Module]:
    """Let gradients into all but the first ``parts`` of the network (-1: into the classifier alone).

    Returns
    -------
    sequence of nn.Module
        What stays as it is.
    """
    backbone = network.backbone
    layers = list(backbone.features) if isinstance(backbone, MobileNetV2) else list(backbone.children())[:-1]
    if not -1 <= parts <= len(layers):
        raise TsmEdgeError(f"freeze is {parts}, expected -1 to {len(layers)} parts", "-1 trains the classifier alone")
    frozen = layers if parts == -1 else layers[:parts]
    network.requires_grad_(True)
    for layer in frozen:
        layer.requires_grad_(False)
    return frozen
