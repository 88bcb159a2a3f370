"""``tsm-edge evaluate``: how often a compiled model is right."""

from __future__ import annotations

from pathlib import Path

import click

from tsm_edge.cli.artifacts import artifact_argument, chosen_artifact, rpc_options, threads_option
from tsm_edge.cli.given import data_option, refuse_given
from tsm_edge.cli.numbers import RealRange
from tsm_edge.cli.output import json_option, print_json, print_table, status
from tsm_edge.cli.train import Steady
from tsm_edge.rpc.place import Place


@click.command("evaluate")
@artifact_argument
@data_option
@click.option(
    "--clips", metavar="N", type=click.IntRange(1, 100_000), default=1200, show_default=True, help="Generated clips."
)
@click.option("--frames", metavar="N", type=click.IntRange(2, 1000), default=12, show_default=True, help="Of a clip.")
@click.option(
    "--fps", metavar="N", type=RealRange(0, 1000), default=12.0, show_default=True, help="Of videos; 0: all frames."
)
@threads_option
@rpc_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    artifact: Path | None,
    data: str,
    clips: int,
    frames: int,
    fps: float,
    threads: int,
    device: Place | None,
    as_json: bool,
) -> None:
    """Measure the compiled model in DIR on clips: accuracy, per class, and how early it is right.

    With --rpc or --tracker the network runs on another machine.
    """
    if data == "motion":
        refuse_given(ctx, {"fps": "--fps"}, "is of videos, and no --data names any")
    else:
        refuse_given(ctx, {"clips": "--clips"}, "is of generated clips, of --data all are measured on")
    from tsm_edge.training.evaluate import EvaluateRequest, evaluate

    with status("reading the clips") as show:
        result = evaluate(
            EvaluateRequest(chosen_artifact(artifact), data, clips, frames, fps, device, threads), Steady(show)
        )
    if as_json:
        print_json(result)
        return
    measures = result.measures
    rows = [
        ("all", str(measures.overall)),
        *((label, str(each)) for label, each in zip(measures.labels, measures.per_class, strict=True)),
    ]
    print_table(f"{result.model} ({result.precision}) for {result.target}, on {result.data}", ("class", "right"), rows)
    early = [(f"{100 * share:.0f}", f"{100 * value:.1f}") for share, value in measures.early]
    print_table("\nhow early", ("frames seen (%)", "right (%)"), early)
