"""How levels lie in memory, and the small vocabulary of kernels on bytes: all offsets are in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.cpu.int8.instructions import Instructions, vector_of
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.element import LINE_BYTES, ceil_div, item_bytes
from tsm_edge.compile.ir.layout import Border, Image

# Pixels and bytes behind an image that a tile may read: rows are made by fours, and vectors read whole.
PIXELS_BEHIND = 3
_NO_BORDER = Border()


@dataclass(frozen=True)
class ByteImage(Image):
    """An image of levels, a byte each; a border is filled with the zero point.

    Attributes
    ----------
    zero : int
        The level of zero.
    quads : bool
        For a depthwise convolution: ``[row][four columns][vector][lane][column]``, so that four neighbouring pixels of
        a channel are one lane. ``pixel`` is then the bytes of four columns of a vector.
    start : int
        Bytes before it in its buffer: of a thread's scratch memory, which has more than one.
    """

    dtype: str = "uint8"
    zero: int = 0
    quads: bool = False
    start: int = 0

    @property
    def origin(self) -> int:
        """Offset of the first pixel, its border before it."""
        return self.start + super().origin

    @property
    def across(self) -> int:
        """Bytes of four columns of all vectors, of an image in quads."""
        return self.row // ceil_div(self.width, 4)

    @property
    def elements(self) -> int:
        """Size of the allocation, with what tiles read behind it."""
        rows = self.border.top + self.height + self.border.bottom
        return rows * self.row + 2 * PIXELS_BEHIND * self.pixel + LINE_BYTES


def byte_image(
    height: int, width: int, channels: int, zero: int, pad_to: int, border: Border = _NO_BORDER
) -> ByteImage:
    """NHWC with channels rounded up to ``pad_to``."""
    pixel = ceil_div(channels, pad_to) * pad_to
    row = (width + border.left + border.right) * pixel
    return ByteImage(height, width, channels, pixel, row, border=border, zero=zero)


def quad_image(
    height: int, width: int, channels: int, zero: int, instructions: Instructions, border: Border = _NO_BORDER
) -> ByteImage:
    """Quads of columns; a border has rows only."""
    cell = instructions.vector_bytes
    row = ceil_div(width, 4) * ceil_div(channels, instructions.lanes) * cell
    return ByteImage(height, width, channels, cell, row, border=border, zero=zero, quads=True)


def load(buffer: Any, at: Expr, dtype: str, lanes: int = 1) -> Expr:
    """``lanes`` values of a type from byte ``at``."""
    size = item_bytes(dtype) * lanes
    raw = buffer[T.ramp(at, 1, size)] if size > 1 else buffer[at]
    kind = vector_of(dtype, lanes)
    return raw if kind == vector_of("uint8", size) else tirx.reinterpret(kind, raw)


def store(buffer: Any, at: Expr, value: Expr, size: int) -> None:
    """Write ``size`` bytes."""
    raw = (
        value if str(value.ty.dtype) == vector_of("uint8", size) else tirx.reinterpret(vector_of("uint8", size), value)
    )
    T.buffer_store(buffer, raw, [T.ramp(at, 1, size) if size > 1 else at])


def repeated(byte: int, size: int) -> Expr:
    """A byte, again and again."""
    constant = tirx.const(byte & 255, "uint8")
    return constant if size == 1 else T.Broadcast(constant, size)


def word_of(byte: int) -> int:
    """The int32 whose four bytes are the same."""
    word = (byte & 255) * 0x01010101
    return word - (1 << 32) if word >> 31 else word


def stored_zero(image: ByteImage, instructions: Instructions) -> int:
    """The byte that stands for zero."""
    return (image.zero - instructions.offset) & 255


def copy_bytes(source: Any, read: Expr, target: Any, write: Expr, count: int) -> None:
    """Copy ``count`` bytes, in as few pieces as possible."""
    done = 0
    for size in (64, 32, 16, 8, 4, 2, 1):
        while count - done >= size:
            store(target, write + done, load(source, read + done, "uint8", size), size)
            done += size


def fill_border_of_row(buffer: Any, image: ByteImage, y: Expr, instructions: Instructions) -> None:
    """The border beside a row, and above the first and below the last: for kernels whose items are rows."""
    border, byte = image.border, stored_zero(image, instructions)
    if border == Border():
        return

    def fill(first_row: Expr, rows: int, first_column: int, columns: int) -> None:
        if rows and columns:
            with emit.loop(rows) as i, emit.loop(columns) as j:
                _fill_pixel(buffer, image, emit.pixel_at(image, first_row + i, first_column + j), byte)

    fill(y, 1, -border.left, border.left)
    fill(y, 1, image.width, border.right)
    across = border.left + image.width + border.right
    for rows, at, start in ((border.top, 0, -border.top), (border.bottom, image.height - 1, image.height)):
        if rows:
            with emit.when_unsure(image.height == 1 or emit.equal(y, at)):
                fill(start, rows, -border.left, across)


def _fill_pixel(buffer: Any, image: ByteImage, at: Expr, byte: int) -> None:
    done = 0
    for size in (64, 16, 4, 1):
        pieces = (image.pixel - done) // size
        if pieces:
            start = done
            with emit.loop(pieces) as piece:
                store(buffer, at + start + piece * size, repeated(byte, size), size)
            done += pieces * size
