"""What a training leaves behind: a folder with a model card, labels, weights, the figures, and a report to read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tsm_edge import __version__
from tsm_edge.cards import ModelCard, NetworkSpec, Preprocess
from tsm_edge.errors import TsmEdgeError
from tsm_edge.files.atomic import check_writable, write_atomic
from tsm_edge.files.paths import refuse_replacing
from tsm_edge.networks import TemporalNetwork
from tsm_edge.training.data import Frames, HeldOutClips, Labels
from tsm_edge.training.loop import Point
from tsm_edge.training.measures import Measures, label_after
from tsm_edge.training.recipe import Recipe
from tsm_edge.training.report import WorstClip, render, time_taken

STATE = "state.pt"
LABELS = "labels.txt"
WEIGHTS = "weights.safetensors"
REPORT = "report.html"
FIGURES = "training.json"
_WORST = 12
_ELSEWHERE = "-o DIR"


@dataclass(frozen=True)
class Trained:
    """A training that is over.

    Attributes
    ----------
    card : ModelCard
    recipe : Recipe
    start : str
        What it started from.
    origin : str
        Where its clips come from.
    points : tuple of Point
    seconds : float
        Of training, of all runs together.
    test : Measures
    """

    card: ModelCard
    recipe: Recipe
    start: str
    origin: str
    points: tuple[Point, ...]
    seconds: float
    test: Measures


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes
    ----------
    card : Path
        For ``tsm-edge compile``.
    weights, report : Path
    test : Measures
    points : tuple of Point
        Loss and accuracy on the way.
    seconds : float
        Of training, of all runs together.
    """

    card: Path
    weights: Path
    report: Path
    test: Measures
    points: tuple[Point, ...]
    seconds: float


def card_name(folder: Path) -> str:
    """A card's name from a folder's: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "trained"


def check_output(
    folder: Path, name: str, inputs: Sequence[Path], clips: Path | None = None, again: bool = False
) -> None:
    """Refuse a folder before the work that goes there is done.

    Parameters
    ----------
    folder : Path
    name : str
        Of the new model's card.
    inputs : sequence of Path
        Files that are read; a word for one (``none``, ``motion``) may be a folder's name as well.
    clips : Path, optional
        A folder of clips, or a table.
    again : bool
        A training that is finished may be replaced.

    Raises
    ------
    TsmEdgeError
        It cannot be written, holds a finished training, is in a folder of clips, a file there is read as well, or has
        a name of ours but is of somebody else.
    """
    if clips is not None and clips.is_dir() and clips.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise TsmEdgeError(
            f"{folder}: is in {clips}, where each folder is a class of clips", f"choose another: {_ELSEWHERE}"
        )
    names = (WEIGHTS, LABELS, REPORT, f"{name}.toml")
    for file in names:
        refuse_replacing(folder / file, [*inputs, clips], _ELSEWHERE)
    if not again and (folder / FIGURES).exists() and not (folder / STATE).exists():
        raise TsmEdgeError(
            f"{folder}: holds a training that is finished",
            f"choose another folder: {_ELSEWHERE}, or remove this one first",
        )
    try:
        check_writable(folder / STATE)
    except OSError as error:
        raise TsmEdgeError(f"{folder}: cannot be written ({error.strerror})", f"choose another: {_ELSEWHERE}") from None
    others = [file for file in names if (folder / file).exists()]
    if others and not any((folder / file).exists() for file in (STATE, FIGURES)):
        raise TsmEdgeError(
            f"{folder}: {others[0]} in it is of no training, and would be replaced", f"choose another: {_ELSEWHERE}"
        )


def write_model(
    folder: Path, network: TemporalNetwork, trained: Trained, worst: Sequence[WorstClip] = ()
) -> TrainResult:
    """Write the run's folder; each file whole or not at all, the card last."""
    from safetensors.torch import save

    card = trained.card
    tensors = {
        name: tensor.contiguous()
        for name, tensor in network.backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    write_atomic(folder / WEIGHTS, save(tensors, {"temporal_mode": card.network.temporal_mode}))
    write_atomic(folder / LABELS, "".join(f"{label}\n" for label in card.labels).encode())
    write_atomic(folder / FIGURES, (json.dumps(_figures(trained), indent=1) + "\n").encode())
    write_atomic(folder / REPORT, render(trained.card.name, trained, worst).encode())
    path = folder / f"{card.name}.toml"
    write_atomic(path, card_text(card, trained).encode())
    return TrainResult(path, folder / WEIGHTS, folder / REPORT, trained.test, trained.points, trained.seconds)


def worst_clips(clips: HeldOutClips, logits: npt.NDArray[np.float32], truth: Labels, online: bool) -> list[WorstClip]:
    """The clips whose true class got the least probability."""
    half = logits[:, logits.shape[1] // 2 if online else 0 :].mean(1)
    shares = np.exp(half - half.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    order = np.argsort(shares[np.arange(len(truth)), truth])[:_WORST].tolist()
    found = label_after(logits, logits.shape[1], online)
    pictures: Frames = clips.batch(order)[0]
    return [
        WorstClip(
            pictures[place], int(truth[index]), int(found[index]), float(shares[index, truth[index]]), clips.name(index)
        )
        for place, index in enumerate(order)
    ]


def card_text(card: ModelCard, trained: Trained) -> str:
    """The card as TOML, with the figures of the training in its comments."""
    network, preprocess, smoothing = card.network, card.preprocess, card.smoothing
    lines = [
        f"description = {_toml(card.description)}",
        f"source = {_toml(_source(trained))}",
        f"labels_file = {_toml(card.labels_file)}",
        f"weights_file = {_toml(card.weights_file)}",
        "",
        "[network]",
        *_table(network, NetworkSpec),
        "",
        "[preprocess]",
        *_table(preprocess, Preprocess),
        "",
        "[smoothing]",
        f"window = {smoothing.window}",
        f"agree = {smoothing.agree}",
    ]
    return "\n".join(lines) + "\n"


def _source(trained: Trained) -> str:
    return (
        f"trained by tsm-edge {__version__} on {trained.origin} ({trained.points[-1].clips if trained.points else 0} "
        f"clips, seed {trained.recipe.seed}, {time_taken(trained.seconds)}); test accuracy {trained.test.overall}"
    )


def _table(values: NetworkSpec | Preprocess, kind: type) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in vars(values).items() if not name.startswith("_")]


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)


def _figures(trained: Trained) -> dict[str, Any]:
    return {
        "version": __version__,
        "data": trained.origin,
        "start": trained.start,
        "recipe": asdict(trained.recipe),
        "seconds": round(trained.seconds, 1),
        "points": [asdict(point) for point in trained.points],
        "test": asdict(trained.test),
    }
