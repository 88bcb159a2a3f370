"""``tsm-edge models``: the model cards."""

from __future__ import annotations

from pathlib import PurePath

import click

from tsm_edge.cards import ModelCard, extent_text, load_model, model_names
from tsm_edge.cli.output import json_option, print_json, print_table


@click.command("models")
@json_option
def command(as_json: bool) -> None:
    """List the model cards: what `tsm-edge export` and `tsm-edge compile` can be asked for."""
    cards = [load_model(name) for name in model_names()]
    if as_json:
        print_json(cards)
        return
    columns = ("model", "backbone", "mode", "classes", "frame (px)", "shift", "labels", "description")
    optional = ("labels", "frame (px)", "shift", "mode", "backbone", "classes")
    print_table("", columns, [_row(card) for card in cards], optional)


def _row(card: ModelCard) -> list[object]:
    network = card.network
    backbone = network.backbone if network.width == 1.0 else f"{network.backbone} x{network.width:g}"
    mode = f"offline, {network.frames} frames" if network.temporal_mode == "offline" else network.temporal_mode
    shift = "none" if network.temporal_mode == "none" else f"{network.shift_proportion} {network.shift_place}"
    frame = extent_text(network.frame_size)
    labels = PurePath(card.labels_file).stem or "none"
    return [card.name, backbone, mode, network.classes, frame, shift, labels, card.description]
