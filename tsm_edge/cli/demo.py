"""``tsm-edge demo``: the main job, with no arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tsm_edge.artifact.folder import OUTPUT_FOLDER
from tsm_edge.artifact.manifest import RANDOM_WEIGHTS
from tsm_edge.cards import DEFAULT_MODEL
from tsm_edge.cards.threads import Threads
from tsm_edge.cli.artifacts import threads_option
from tsm_edge.cli.output import json_option, note, print_json, print_table, status, warn
from tsm_edge.cli.watch import watch_command
from tsm_edge.extras import require

if TYPE_CHECKING:
    from tsm_edge.demo import DemoResult


def _judged(result: DemoResult) -> list[tuple[str, str]]:
    if not result.segments:
        return []
    return [("right", f"{result.right} of {len(result.segments)} motions, by the labels after their first 8 frames")]


def _print_segments(result: DemoResult) -> None:
    if not result.segments:
        return
    click.echo()
    rows = [
        (f"{segment.first_s:.1f}", segment.true, segment.found, "" if segment.true == segment.found else "wrong")
        for segment in result.segments
    ]
    print_table("", ("at (s)", "true", "model", ""), rows)


@click.command("demo")
@click.option("--model", metavar="MODEL", default=DEFAULT_MODEL, show_default=True, help="Model card, by name or path.")
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Trained weights; without: the card's, or random.",
)
@click.option("--video", metavar="FILE|URL", help="A clip; without: one is generated.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=OUTPUT_FOLDER,
    show_default=True,
    help="Folder for the compiled model and the videos.",
)
@threads_option
@json_option
def command(model: str, checkpoint: Path | None, video: str | None, output: Path, threads: int, as_json: bool) -> None:
    """Export a model, compile it for this machine, verify it against ONNX Runtime, and run it on a clip."""
    require("compile", "tsm-edge demo")
    from tsm_edge.demo import DemoRequest, run_demo

    with status("starting") as show:
        result = run_demo(DemoRequest(model, checkpoint, video, output, threads), show, warn)
    if as_json:
        print_json(result)
        return
    summary, step = result.run, result.run.step
    parts = f"decode, preprocess, network{'' if result.segments else ', annotated video'}"
    worst = max(check.error for check in result.verify.checks)
    labels = ", ".join(f"{name} ({count} frames)" for name, count in result.labels[:3])
    rows = [
        ("compiled model", f"{result.artifact} ({result.manifest.target.name}, {result.manifest.target.cpu.cpu})"),
        ("verified", f"{result.verify.frames} frames against ONNX Runtime, largest relative error {worst:.1e}"),
        ("clip", f"{summary.source}, {summary.frames} frames"),
        *_judged(result),
        ("labels", labels or "none"),
        (
            "network",
            f"{step.median_ms:.1f} ms a frame (p90 {step.p90_ms:.1f} ms), {Threads(threads)}" if step else "-",
        ),
        ("whole loop", f"{summary.frames_per_s:.1f} frames/s: {parts}"),
        ("annotated video", str(result.video)),
        ("time", f"{result.seconds:.0f} s"),
    ]
    print_table("", ("", ""), rows)
    _print_segments(result)
    if result.manifest.random_weights:
        warn(RANDOM_WEIGHTS)
        note("give trained weights with: tsm-edge demo --checkpoint FILE")
    else:
        note(f"next: {watch_command(result.artifact)}")
