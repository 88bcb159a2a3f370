"""Kernels with a thread an element of the target: simple, for what moves more than it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cuda.kernels import emit
from tsm_edge.compile.backends.cuda.kernels.emit import Expr, div, mod
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Grid
from tsm_edge.compile.ir.layout import Image

THREADS = 128


@dataclass(frozen=True)
class ElementGrid:
    """A thread for every element of an image: neighbours in a row are neighbours in a warp."""

    image: Image

    @property
    def grid(self) -> Grid:
        """Pixels × channels; of an image of one pixel, channels."""
        pixels = self.image.height * self.image.width
        if pixels == 1:
            return Grid((ceil_div(self.image.channels, THREADS), 1, 1), (THREADS, 1, 1))
        return Grid((ceil_div(pixels, THREADS), self.image.channels, 1), (THREADS, 1, 1))

    @contextlib.contextmanager
    def element(self, kernel: emit.Kernel) -> Iterator[tuple[Expr, Expr, Expr]]:
        """The thread's channel, row and column, where it has any."""
        image = self.image
        index = kernel.block[0] * THREADS + kernel.thread
        if image.height * image.width == 1:
            with emit.when_all((index < image.channels) if image.channels % THREADS else True):
                yield index, 0, 0
        else:
            pixels = image.height * image.width
            with emit.when_all((index < pixels) if pixels % THREADS else True):
                yield kernel.block[1], div(index, image.width), mod(index, image.width)


def element_type(image: Image) -> str:
    """How a kernel that takes single elements sees an image's memory: halfs as bits."""
    return "uint16" if item_bytes(image.dtype) == 2 else image.dtype


def at(image: Image, channel: Expr, y: Expr, x: Expr) -> Expr:
    """Where an element lies."""
    place = channel * image.channel
    if not (isinstance(y, int) and y == 0 and image.height == 1):
        place = place + y * image.row
    if not (isinstance(x, int) and x == 0 and image.width == 1):
        place = place + x * image.pixel
    return place


def as_float(value: Expr, image: Image) -> Expr:
    """An element as a float."""
    return emit.call("tsm_float", value) if item_bytes(image.dtype) == 2 else value


def load_float(buffer: Any, image: Image, channel: Expr, y: Expr, x: Expr) -> Expr:
    """An element, as a float."""
    return as_float(buffer[at(image, channel, y, x)], image)


def store_float(buffer: Any, image: Image, channel: Expr, y: Expr, x: Expr, value: Expr) -> None:
    """Write a float as an element."""
    if item_bytes(image.dtype) == 2:
        value = emit.call("tsm_half", value, dtype="uint16")
    emit.store(buffer, at(image, channel, y, x), value)
