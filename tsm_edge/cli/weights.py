"""Where a model's weights come from: the options of the commands that export it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tsm_edge.cards import LARGEST_SEED

_F = TypeVar("_F", bound=Callable[..., Any])


def weight_options(command: _F) -> _F:
    """Give a click command ``--checkpoint``, ``--trained-mode``, ``--allow-offline-weights`` and ``--seed``."""
    seeds, modes = click.IntRange(0, LARGEST_SEED), click.Choice(["online", "offline", "none"])
    for option in (
        click.option("--seed", metavar="N", type=seeds, help="Random weights of this seed, not the card's."),
        click.option("--allow-offline-weights", is_flag=True, help="Accept weights not trained for online use."),
        click.option("--trained-mode", type=modes, help="How they were trained, where the file does not say."),
        click.option(
            "--checkpoint",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Trained weights.  [default: the card's, or random]",
        ),
    ):
        command = option(command)
    return command
