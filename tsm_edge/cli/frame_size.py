"""``--frame-size``: a model for frames of another size than its card's."""

from __future__ import annotations

import re

import click

from tsm_edge.cards import Extent, extent_of


class _FrameSize(click.ParamType):
    name = "PIXELS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Extent:
        """A side, or height and width, of what was written; which sizes can be, the card knows."""
        found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(value))
        if found is None:
            self.fail(f"{value!r}: expected pixels, as 256, or height and width, as 128x224", param, ctx)
        return extent_of(int(found[1]), int(found[2] or found[1]))


frame_size_option = click.option(
    "--frame-size", type=_FrameSize(), help="Of the network's input; 256: upstream's full resolution (the card's)."
)
