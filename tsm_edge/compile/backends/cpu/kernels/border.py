"""Zero borders: written by the kernel that makes an image, for the padded convolution that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.layout import Border, Image

Span = tuple[Expr, Expr]  # the first, and how many


@dataclass(frozen=True)
class Part:
    """A part of an image that is made at once: ``columns`` pixels of a row, in some channels.

    Attributes
    ----------
    y, x : expression
        Its row, and the first of its columns.
    frame : expression
        Of a clip: which one it is in.
    columns : int
    channels : (expression, expression) or None
        The first, and how many; None: all that the image has.
    """

    y: Expr
    x: Expr
    frame: Expr = 0
    columns: int = 1
    channels: Span | None = None


def zero_border(buffer: Any, image: Image, part: Part, lanes: int) -> None:
    """Zero the part of ``image``'s border that touches a part of it.

    The parts of an image together cover its whole border: those of the first row take what lies above them, corner
    included, and so on.
    """
    border, x, y, columns = image.border, part.x, part.y, part.columns
    if border == Border():
        return
    alone = columns >= image.width  # where a row has several parts, those at its ends must be told apart
    channels = part.channels or (0, image.pixel)

    def zero(rows: Span, columns: Span) -> None:
        _zero(buffer, image, part.frame, rows, columns, channels, lanes)

    def edge(rows: Span) -> None:
        """Left and right border columns of some rows."""
        if border.left:
            with emit.when_unsure(alone or x == 0):
                zero(rows, (-border.left, border.left))
        if border.right:
            with emit.when_unsure(alone or x == image.width - columns):
                zero(rows, (image.width, border.right))

    edge((y, 1))
    above, below = (-border.top, border.top), (image.height, border.bottom)
    for rows, at in ((above, 0), (below, image.height - 1)):
        if not rows[1]:
            continue
        if isinstance(y, int):
            zero(rows, (x, columns))
            edge(rows)
            continue
        with emit.when(y == at):
            zero(rows, (x, columns))
            edge(rows)


def zero_whole_border(buffer: Any, image: Image, channels: Span, lanes: int, frame: Expr = 0) -> None:
    """Zero the border of a frame of ``image`` in some of its channels, by one work item for all others."""
    border, height, width = image.border, image.height, image.width
    across = -border.left, border.left + width + border.right
    for rows, columns in (
        ((-border.top, border.top), across),
        ((height, border.bottom), across),
        ((0, height), (-border.left, border.left)),
        ((0, height), (width, border.right)),
    ):
        if rows[1] and columns[1]:
            _zero(buffer, image, frame, rows, columns, channels, lanes)


def _zero(buffer: Any, image: Image, frame: Expr, rows: Span, columns: Span, channels: Span, lanes: int) -> None:
    with emit.loop(rows[1]) as i, emit.loop(columns[1]) as j, emit.loop(channels[1] // lanes) as vector:
        at = emit.pixel_at(image, rows[0] + i, columns[0] + j, frame)
        emit.store(buffer, at + channels[0] + vector * lanes, emit.splat(0.0, lanes, image.dtype), lanes)
