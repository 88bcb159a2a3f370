"""``--frame-size``: a model for frames of another size than its card's."""

from __future__ import annotations

import re

import click

from tsm_edge.cards import Extent, extent_of


def _read(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Extent | None:
    """A side, or height and width, of what was written; which sizes can be, the card knows."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", value)
    if found is None:
        raise click.BadParameter(f"{value!r}: expected pixels, as 256, or height and width, as 128x224")
    return extent_of(int(found[1]), int(found[2] or found[1]))


frame_size_option = click.option(
    "--frame-size",
    metavar="PIXELS",
    callback=_read,
    help="Of the network's input; 256: upstream's full resolution.  [default: the card's]",
)
