"""Zero borders: written by the kernel that makes an image, for the padded convolution that reads it."""

from __future__ import annotations

from typing import Any

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.layout import Border, Image


def zero_border(
    buffer: Any,
    image: Image,
    y: Expr,
    x: Expr,
    columns: int,
    channel: Expr,
    channels: int,
    lanes: int,
    many_tiles: bool,
    frame: Expr = 0,
) -> None:
    """Zero the part of ``image``'s border that touches the tile (row ``y``, columns ``x … x + columns - 1``).

    The tiles of an image together cover its whole border: the first row's tiles take what lies above them, corner
    included, and so on. ``many_tiles``: a row has several tiles, so the edge tiles must be told apart.
    """
    border = image.border
    if border == Border():
        return

    def zero(first_row: Expr, rows: Expr, first_column: Expr, count: Expr) -> None:
        with emit.loop(rows) as i, emit.loop(count) as j, emit.loop(channels // lanes) as vector:
            at = emit.start_of(image, frame) + (first_row + i) * image.row + (first_column + j) * image.pixel
            emit.store(buffer, at + channel + vector * lanes, emit.splat(0.0, lanes, image.dtype), lanes)

    def edge(y_from: Expr, rows: Expr) -> None:
        """Left and right border columns of some rows."""
        if border.left:
            with emit.when_unsure(not many_tiles or x == 0):
                zero(y_from, rows, -border.left, border.left)
        if border.right:
            with emit.when_unsure(not many_tiles or x == image.width - columns):
                zero(y_from, rows, image.width, border.right)

    edge(y, 1)
    for rows, at, start in ((border.top, 0, -border.top), (border.bottom, image.height - 1, image.height)):
        if not rows:
            continue
        if isinstance(y, int):
            zero(start, rows, x, columns)
            edge(start, rows)
            continue
        with emit.when(y == at):
            zero(start, rows, x, columns)
            edge(start, rows)


def zero_whole_border(buffer: Any, image: Image, channel: Expr, channels: int, lanes: int, frame: Expr = 0) -> None:
    """Zero the border of a frame of ``image`` in some of its channels, by one work item for all tiles."""
    border, height, width = image.border, image.height, image.width
    across = border.left + width + border.right
    for first_row, rows, first_column, columns in (
        (-border.top, border.top, -border.left, across),
        (height, border.bottom, -border.left, across),
        (0, height, -border.left, border.left),
        (0, height, width, border.right),
    ):
        if rows and columns:
            with emit.loop(rows) as i, emit.loop(columns) as j, emit.loop(channels // lanes) as vector:
                at = emit.start_of(image, frame) + (first_row + i) * image.row + (first_column + j) * image.pixel
                emit.store(buffer, at + channel + vector * lanes, emit.splat(0.0, lanes, image.dtype), lanes)
