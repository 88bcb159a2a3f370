"""``tsm-edge train``: a network on generated clips, or on one's own."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.cards import LARGEST_SEED, TemporalMode, load_model
from tsm_edge.cli.given import data_option, one_meaning, refuse_given
from tsm_edge.cli.numbers import RealRange
from tsm_edge.cli.output import Show, json_option, note, print_json, print_table, status, warn
from tsm_edge.errors import CardError
from tsm_edge.extras import require

if TYPE_CHECKING:
    from tsm_edge.cards import ModelCard
    from tsm_edge.progress import Progress
    from tsm_edge.training.data import Data
    from tsm_edge.training.output import TrainResult
    from tsm_edge.training.recipe import Recipe

_MODES = click.Choice(["online", "offline", "none"])
_STARTS = {"motion": "the shipped model", "imagenet": "ImageNet's features", "none": "no weights"}


@click.command("train")
@click.option(
    "--model", metavar="MODEL", default="motion", show_default=True, help="Model card whose network is trained."
)
@data_option
@click.option(
    "--init",
    "start",
    metavar="motion|imagenet|FILE|none",
    default="none",
    show_default=True,
    callback=one_meaning(_STARTS, Path.is_file),
    help="First weights.",
)
@click.option("--epochs", metavar="N", type=click.IntRange(1), help="Passes over the clips.")
@click.option("--rate", metavar="R", type=RealRange(), help="Learning rate.")
@click.option("--batch", metavar="N", type=click.IntRange(1), help="Clips of a step.")
@click.option(
    "--per-epoch",
    metavar="N",
    type=click.IntRange(1),
    default=1920,
    show_default=True,
    help="Generated clips of an epoch.",
)
@click.option("--freeze", metavar="N", default=0, show_default=True, help="First parts kept; -1: all but the last.")
@click.option("--partial-bn", is_flag=True, help="Keep the statistics of all BatchNorms but the first.")
@click.option("--temporal", type=_MODES, help="Shift; without: the card's.")
@click.option("--workers", metavar="N", type=click.IntRange(1, 64), default=2, show_default=True, help="Threads.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="What computes.")
@click.option("--loaders", metavar="N", type=click.IntRange(0, 64), help="Processes that make clips; for a GPU.")
@click.option("--seed", metavar="N", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True)
@click.option("-o", "--output", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    data: str,
    start: str,
    epochs: int | None,
    rate: float | None,
    batch: int | None,
    per_epoch: int,
    freeze: int,
    partial_bn: bool,
    temporal: TemporalMode | None,
    workers: int,
    device: str,
    loaders: int | None,
    seed: int,
    output: Path,
    as_json: bool,
) -> None:
    """Train a network on clips, and measure it on clips it never saw.

    Writes a model card for `tsm-edge compile`, labels, weights and a report. A run that was ended, even killed, goes on
    when the same command is given again.
    """
    require("compile", "tsm-edge train")
    if data != "motion":
        refuse_given(ctx, {"per_epoch": "--per-epoch"}, "is of generated clips, an epoch of --data is all of them once")
    with status(LOADING) as show:
        show(LOADING, 0.0)
        from tsm_edge.training.output import card_name, check_output
        from tsm_edge.training.place import TrainingPlace
        from tsm_edge.training.train import TrainRequest, train

        card = _with_mode(load_model(model), temporal)
        videos = None if data == "motion" else Path(data)
        check_output(output, card_name(output), [Path(start)], videos)  # before all videos are looked at
        recipe = _recipe(data == "motion")
        recipe = dataclasses.replace(
            recipe,
            epochs=epochs or recipe.epochs,
            rate=recipe.rate if rate is None else rate,
            batch=batch or recipe.batch,
            partial_bn=partial_bn,
            workers=workers,
            seed=seed,
        )
        place = TrainingPlace.named(device, loaders)
        clips = _data(data, card, per_epoch, seed, Steady(show))
        if data != "motion" and start == "none":
            note("from random weights: of a few clips --init motion learns more")
        request = TrainRequest(card, clips, output, recipe, start, freeze, place=place)
        result = train(request, Steady(show), note)
    if as_json:
        print_json(result)
        return
    _print(result)
    note(f"next: tsm-edge compile {shlex.quote(str(_as_path(result.card)))} --target native")


# What `train` and `teach` do first, for seconds.
LOADING = "loading PyTorch"


class Steady:
    """Shows progress at most every half percent.

    Parameters
    ----------
    show : callable
        Of :func:`tsm_edge.cli.output.status`.
    """

    def __init__(self, show: Show) -> None:
        self._show, self._last = show, -1.0

    def __call__(self, text: str, done: float) -> None:
        if not 0 <= done - self._last < 0.005:
            self._last = done
            self._show(text, done)


def _as_path(path: Path) -> Path | str:
    """With a slash, so that it is not taken for a name."""
    return path if "/" in str(path) else f"./{path}"


def _with_mode(card: ModelCard, temporal: TemporalMode | None) -> ModelCard:
    if temporal is None:
        return card
    return dataclasses.replace(card, network=dataclasses.replace(card.network, temporal_mode=temporal))


def _recipe(generated: bool) -> Recipe:
    from tsm_edge.training.recipe import FROM_SCRATCH, Recipe

    return FROM_SCRATCH if generated else Recipe()


def _data(name: str, card: ModelCard, per_epoch: int, seed: int, progress: Progress) -> Data:
    size = card.network.frame_size
    if name == "motion":
        from tsm_edge.training.generated import MotionData

        if not isinstance(size, int):
            raise CardError(f"frame_size is {list(size)}: generated clips are square", "choose another card: --model")
        return MotionData(card.network.frames, size, per_epoch, seed)
    from tsm_edge.training.videos import VideoData

    found = VideoData.of(Path(name), card, seed, progress=progress)
    if found.mixed:
        warn(
            "clips of one video are learned from and tested on: accuracy will look better than it is; "
            "three videos of each class that show no other are enough to tell them apart"
        )
    return found


def _print(result: TrainResult) -> None:
    from tsm_edge.training.report import time_taken

    rows = [
        ("test accuracy", str(result.test.overall)),
        *((f"  {label}", str(each)) for label, each in zip(result.test.labels, result.test.per_class, strict=True)),
        ("training time", time_taken(result.seconds)),
        ("model card", str(result.card)),
        ("report", str(result.report)),
    ]
    print_table("", ("", ""), rows)
