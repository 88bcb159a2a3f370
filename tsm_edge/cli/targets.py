"""``tsm-edge targets``: the target cards."""

from __future__ import annotations

import click

from tsm_edge.cards import TargetCard, load_target, target_names
from tsm_edge.cli.output import json_option, print_json, print_table, warn
from tsm_edge.errors import CardError

# What a narrow window can do without.
_OPTIONAL = ("device", "power sensors", "lanes (fp32)", "L1d/L2/L3 (KiB)", "libc", "cores", "cpu")


@click.command("targets")
@json_option
def command(as_json: bool) -> None:
    """List the target cards: the machines `tsm-edge compile` can make code for."""
    cards = []
    for name in target_names():
        try:
            cards.append(load_target(name))
        except CardError as error:  # `native` where this machine cannot be detected
            warn(str(error))
    if as_json:
        print_json(cards)
        return
    columns = (
        "target",
        "device",
        "cpu",
        "lanes (fp32)",
        "cores",
        "L1d/L2/L3 (KiB)",
        "libc",
        "power sensors",
        "description",
    )
    print_table("", columns, [_row(card) for card in cards], optional=_OPTIONAL)


def _row(card: TargetCard) -> list[object]:
    cpu = card.cpu
    caches = "/".join(str(size) if size else "-" for size in (cpu.l1d_kib, cpu.l2_kib, cpu.l3_kib))
    sensors = ", ".join(card.power_sensors) or "external meter"
    return [
        card.name,
        card.device,
        cpu.cpu,
        cpu.vector_lanes,
        cpu.cores,
        caches,
        card.libc,
        sensors,
        card.description,
    ]
