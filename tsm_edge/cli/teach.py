"""``tsm-edge teach``: classes of one's own from a few clips."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.artifact.folder import OUTPUT_FOLDER
from tsm_edge.cards import LARGEST_SEED
from tsm_edge.cards.model import is_label
from tsm_edge.cli.given import refuse_given
from tsm_edge.cli.numbers import RealRange
from tsm_edge.cli.output import json_option, note, print_json, print_table, status, warn
from tsm_edge.cli.train import LOADING, Steady
from tsm_edge.cli.watch import watch_command
from tsm_edge.extras import require

if TYPE_CHECKING:
    from tsm_edge.training.teach import TeachResult


_RECORDING = {"labels": "--labels", "each": "--each", "seconds": "--seconds"}


@click.command("teach")
@click.argument("name")
@click.option(
    "--clips", metavar="DIR|CSV", type=click.Path(path_type=Path), help="A folder of videos for each class, or a table."
)
@click.option("--camera", metavar="N|URL", help="Record the clips now, with this camera.")
@click.option("--labels", metavar="A,B,…", default="", help="With --camera: the classes to record.")
@click.option(
    "--each",
    metavar="N",
    type=click.IntRange(3, 100),
    default=10,
    show_default=True,
    help="With --camera: clips of a class.",
)
@click.option(
    "--seconds",
    metavar="S",
    type=RealRange(0.5, 30),
    default=2.0,
    show_default=True,
    help="With --camera: of a clip.",
)
@click.option("--model", metavar="MODEL", default="motion", show_default=True, help="Model card to begin from.")
@click.option("--freeze", metavar="N", default=7, show_default=True, help="First parts kept; -1: all but the last.")
@click.option("--seed", metavar="N", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True)
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), help="Folder to write.  [default: out/NAME]"
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    name: str,
    clips: Path | None,
    camera: str | None,
    labels: str,
    each: int,
    seconds: float,
    model: str,
    freeze: int,
    seed: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Teach a model to tell classes of your own: NAME becomes the name of the new model.

    Give a folder of videos for each class with --clips, or record them with --camera and --labels. A fifth of the clips
    is held out: the compiled model is measured on them.
    """
    require("compile", "tsm-edge teach")
    folder = output or OUTPUT_FOLDER / name
    place = clips or folder / "clips"
    if (clips is None) == (camera is None):
        raise click.UsageError("expected either --clips DIR or --camera N|URL", ctx)
    if camera is None:
        refuse_given(ctx, _RECORDING, "goes with --camera")
    names = [] if camera is None else _names(ctx, labels)
    with status(LOADING) as show:
        show(LOADING, 0.0)
        from tsm_edge.training.teach import TeachRequest, check, record, teach
        from tsm_edge.video.source import chosen_source

        request = TeachRequest(name, place, folder, model, freeze, seed=seed)
        check(request)  # before somebody waves for minutes
    if camera is not None:
        record(chosen_source(None, camera), place, names, each, seconds, _asks(each, seconds))
        note(f"recorded into {place}; to teach from these clips again: --clips {shlex.quote(str(place))}")
    with status("reading the clips") as show:
        result = teach(request, Steady(show), note)
    if as_json:
        print_json(result)
        return
    _print(result)
    for label, score in zip(result.measures.labels, result.measures.per_class, strict=True):
        if score.share < 0.5:
            warn(f"{label}: fewer than half of its held-out clips are right; more clips of it may help")
    note(f"next: {watch_command(result.artifact, camera or '0')}")


def _names(ctx: click.Context, labels: str) -> list[str]:
    names = [label.strip() for label in labels.split(",") if label.strip()]
    if len(set(names)) < max(len(names), 2) or not all(map(_is_folder_name, names)):
        raise click.UsageError(
            "expected at least two classes, each once, not long, without slashes: --labels wave,still", ctx
        )
    return names


def _is_folder_name(label: str) -> bool:
    return is_label(label) and len(label.encode()) < 256 and "/" not in label and not label.startswith(".")


def _asks(each: int, seconds: float) -> Callable[[str, int], None]:
    def ask(label: str, number: int) -> None:
        click.prompt(
            f"{label}, clip {number} of {each}: press Enter, then move for {seconds:g} s",
            "",
            show_default=False,
            err=True,  # stdout may be JSON
        )

    return ask


def _print(result: TeachResult) -> None:
    measures = result.measures
    worst = max(check.error for check in result.verify.checks)
    scores = zip(measures.labels, measures.per_class, strict=True)
    rows = [
        ("held-out clips right", str(measures.overall)),
        *((f"  {label}", f"{score.right} of {score.clips}") for label, score in scores),
        ("training", f"{result.training.seconds:.0f} s, report: {result.training.report}"),
        ("compiled model", str(result.artifact)),
        ("verified", f"{result.verify.frames} frames against ONNX Runtime, largest relative error {worst:.1e}"),
    ]
    print_table("", ("", ""), rows)
