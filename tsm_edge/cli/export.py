"""``tsm-edge export``: a model as ONNX."""

from __future__ import annotations

from pathlib import Path

import click

from tsm_edge.artifact.manifest import RANDOM_WEIGHTS
from tsm_edge.cards import DEFAULT_MODEL, Extent, TemporalMode, load_model, model_files
from tsm_edge.cli.frame_size import frame_size_option
from tsm_edge.cli.output import json_option, note, print_json, print_table, status, warn
from tsm_edge.cli.weights import weight_options
from tsm_edge.extras import require
from tsm_edge.files.paths import refuse_replacing


@click.command("export")
@click.argument("model", default=DEFAULT_MODEL)
@click.option(
    "-o", "--output", metavar="FILE.onnx", type=click.Path(path_type=Path), required=True, help="ONNX file to write."
)
@weight_options
@click.option(
    "--mode",
    type=click.Choice(["online", "offline", "none"]),
    help="Temporal mode; offline: whole clips.  [default: the model card's]",
)
@click.option("--frames", metavar="N", type=click.IntRange(2, 128), help="Of a clip (modes offline and none).")
@frame_size_option
@click.option("--from-rgb", is_flag=True, help="The checkpoint is an RGB network's, to begin training one of flow.")
@json_option
def command(
    model: str,
    output: Path,
    checkpoint: Path | None,
    trained_mode: TemporalMode | None,
    allow_offline_weights: bool,
    mode: TemporalMode | None,
    frames: int | None,
    frame_size: Extent | None,
    seed: int | None,
    from_rgb: bool,
    as_json: bool,
) -> None:
    """Write MODEL as one ONNX file, its shift caches as inputs and outputs.

    MODEL is a model card's name or path (default: motion).
    """
    require("compile", "tsm-edge export")
    from tsm_edge.export.onnx import ExportRequest, export_onnx

    card = load_model(model)
    refuse_replacing(output, model_files(model, card), "-o FILE.onnx")
    card = card if frame_size is None else card.with_frame_size(frame_size)
    request = ExportRequest(card, output, checkpoint, allow_offline_weights, mode, seed, trained_mode, frames, from_rgb)
    with status(f"exporting {request.card.name}"):
        result = export_onnx(request)
    if as_json:
        print_json(result)
        return
    rows = [("input", name, shape) for name, shape in result.inputs.items()]
    rows += [("output", name, shape) for name, shape in result.outputs.items()]
    print_table(f"{result.path} ({result.bytes / 1e6:.1f} MB)", ("", "name", "shape (float32)"), rows)
    note(f"weights: {result.weights}")
    if result.weights.random:
        warn(RANDOM_WEIGHTS)
    elif result.weights.from_rgb:
        warn("weights of an RGB network: train the network on optical flow before its predictions mean anything")
    elif result.weights.trained_mode != result.card.network.temporal_mode:
        warn(f"weights trained in mode {result.weights.trained_mode}: predictions are worse than they could be")
