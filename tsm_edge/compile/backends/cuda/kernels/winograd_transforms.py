"""The two ends of a convolution by Winograd's algorithm: pixels to the products' operands, and products to pixels.

A thread transforms a tile of a channel. Both write and read positions of the tiles as planes, ``[position][channel]
[tile]``, so that a warp's accesses lie side by side; only the image's pixels are apart by a tile, and come through L1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.common.winograd import TRANSFORMS, Matrix, combination
from tsm_edge.compile.backends.cuda.kernels import elements, emit
from tsm_edge.compile.backends.cuda.kernels.emit import Expr, div, mod
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image, planes

_THREADS = 128


@dataclass(frozen=True)
class Tiling:
    """An image in tiles of m×m outputs.

    Attributes
    ----------
    outputs : int
        m.
    image : Image
        The convolution's target.
    """

    outputs: int
    image: Image

    @property
    def side(self) -> int:
        """Input pixels a side of a tile: m + 2."""
        return self.outputs + 2

    @property
    def rows(self) -> int:
        """Of tiles."""
        return ceil_div(self.image.height, self.outputs)

    @property
    def columns(self) -> int:
        """Of tiles."""
        return ceil_div(self.image.width, self.outputs)

    def positions(self, channels: int) -> Image:
        """Tiles of some channels, transformed: position after position."""
        return planes(self.rows, self.columns, self.side**2 * channels, self.image.dtype)

    def transform_flops(self, matrix: Matrix) -> int:
        """Of ``matrix · tile · matrixᵀ`` for all tiles of a channel."""
        line = sum(2 * sum(1 for value in row if value) - 1 for row in matrix)
        return self.rows * self.columns * line * (self.side + len(matrix))

    def grid(self, channels: int) -> Grid:
        """A thread for a tile of a channel."""
        return Grid((ceil_div(self.rows * self.columns * channels, _THREADS), 1, 1), (_THREADS, 1, 1))


@dataclass(frozen=True)
class WinogradSourceSpec(KernelSpec):
    """``Bᵀ d B`` of every tile and input channel.

    Attributes
    ----------
    source : Image
    tiling : Tiling
        Of the convolution's target.
    pads : (int, int)
        Rows above, columns left.
    shift : int
        Source channels that come from a shift cache, which lies as the source does.
    """

    source: Image
    tiling: Tiling
    pads: tuple[int, int]
    shift: int = 0

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "winograd_source"

    @property
    def target(self) -> Image:
        """The transformed tiles."""
        return self.tiling.positions(self.source.channels)

    @property
    def parallel(self) -> Grid:
        """Tiles × channels."""
        return self.tiling.grid(self.source.channels)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        kind = elements.element_type(self.source)
        return (
            Argument("source", "input", kind),
            Argument("target", "output", kind),
            *((Argument("cache", "cache", kind),) if self.shift else ()),
        )

    @property
    def flops(self) -> int:
        """Additions, and some multiplications."""
        return self.tiling.transform_flops(TRANSFORMS[self.tiling.outputs].input) * self.source.channels

    @property
    def bytes(self) -> int:
        """Image and transformed tiles."""
        return self.source.value_bytes + self.target.value_bytes

    def describe(self) -> str:
        """The algorithm."""
        return f"F({self.tiling.outputs}×{self.tiling.outputs}, 3×3), pixels to products"

    def write(self, name: str) -> Any:
        """See :func:`transform_source`."""
        return transform_source(name, self)


@dataclass(frozen=True)
class WinogradTargetSpec(KernelSpec):
    """``Aᵀ M A`` of every tile and output channel, and what follows the convolution.

    Attributes
    ----------
    tiling : Tiling
        Of the target.
    activation : str
        See :func:`emit.activate`; ``low`` and ``high`` are of ``clamp``.
    residual : bool
        An image of the target's size is added.
    tap : int
        Target channels that are also the next value of a shift cache.
    """

    tiling: Tiling
    activation: str = ""
    low: float = 0.0
    high: float = 0.0
    residual: bool = False
    tap: int = 0

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "winograd_target"

    @property
    def target(self) -> Image:
        """The convolution's."""
        return self.tiling.image

    @property
    def source(self) -> Image:
        """The products."""
        return self.tiling.positions(self.target.channels)

    @property
    def parallel(self) -> Grid:
        """Tiles × channels."""
        return self.tiling.grid(self.target.channels)

    @property
    def pairs(self) -> bool:
        """Whether two neighbouring outputs are stored at a time: rows begin on them."""
        return self.target.width % 2 == 0 and self.target.channel % 2 == 0

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        single = elements.element_type(self.target)
        stored = "uint32" if self.pairs and item_bytes(self.target.dtype) == 2 else single
        return (
            Argument("source", "input", single),
            Argument("target", "output", stored),
            *((Argument("residual", "input", single),) if self.residual else ()),
            *((Argument("tap", "next_cache", stored),) if self.tap else ()),
        )

    @property
    def flops(self) -> int:
        """Additions, and some multiplications."""
        return self.tiling.transform_flops(TRANSFORMS[self.tiling.outputs].output) * self.target.channels

    @property
    def bytes(self) -> int:
        """Products, residual and image."""
        size = item_bytes(self.target.dtype)
        images = self.target.value_bytes * (2 if self.residual else 1)
        return self.source.value_bytes + images + self.tap * self.target.height * self.target.width * size

    def describe(self) -> str:
        """The algorithm."""
        return f"F({self.tiling.outputs}×{self.tiling.outputs}, 3×3), products to pixels"

    def write(self, name: str) -> Any:
        """See :func:`transform_target`."""
        return transform_target(name, self)


def transform_source(name: str, spec: WinogradSourceSpec) -> Any:
    """Write the kernel of ``Bᵀ d B``; returns its PrimFunc."""
    tiling, image, side = spec.tiling, spec.source, spec.tiling.side
    with emit.kernel(name, spec) as kernel, _tile(kernel, tiling, image.channels) as (channel, tile):
        buffers = kernel.buffers
        top = div(tile, tiling.columns) * tiling.outputs - spec.pads[0]
        left = mod(tile, tiling.columns) * tiling.outputs - spec.pads[1]
        pixels = emit.registers(side * side)
        last_top = (tiling.rows - 1) * tiling.outputs - spec.pads[0]
        last_left = (tiling.columns - 1) * tiling.outputs - spec.pads[1]
        for i in range(side):
            for j in range(side):
                y, x = top + i, left + j
                inside = [
                    y >= 0 if i < spec.pads[0] else True,
                    y < image.height if last_top + i >= image.height else True,
                    x >= 0 if j < spec.pads[1] else True,
                    x < image.width if last_left + j >= image.width else True,
                ]
                value = elements.load_float(buffers["source"], image, channel, y, x)
                if spec.shift:
                    cached = elements.load_float(buffers["cache"], image, channel, y, x)
                    value = emit.either(channel < spec.shift, cached, value)
                emit.store(pixels, i * side + j, emit.choose(inside, value))
        target = spec.target
        for position, value in enumerate(_both_sides(TRANSFORMS[tiling.outputs].input, pixels, side)):
            at = (position * image.channels + channel) * target.channel + tile
            emit.store(buffers["target"], at, _stored(value, target))
    return kernel.function


def transform_target(name: str, spec: WinogradTargetSpec) -> Any:
    """Write the kernel of ``Aᵀ M A``; returns its PrimFunc."""
    tiling, image, source, side = spec.tiling, spec.target, spec.source, spec.tiling.side
    with emit.kernel(name, spec) as kernel, _tile(kernel, tiling, image.channels) as (channel, tile):
        products = emit.registers(side * side)
        for position in range(side * side):
            value = kernel.buffers["source"][(position * image.channels + channel) * source.channel + tile]
            emit.store(products, position, elements.as_float(value, image))
        outputs = tiling.outputs
        made = emit.registers(outputs * outputs)
        for index, value in enumerate(_both_sides(TRANSFORMS[outputs].output, products, side)):
            emit.store(made, index, value)
        y, x = div(tile, tiling.columns) * outputs, mod(tile, tiling.columns) * outputs
        run = 2 if spec.pairs else 1
        for i in range(outputs):
            for j in range(0, outputs, run):
                inside = [
                    (y + i < image.height) if (tiling.rows - 1) * outputs + i >= image.height else True,
                    (x + j < image.width) if (tiling.columns - 1) * outputs + j >= image.width else True,
                ]
                with emit.when_all(*inside):
                    values = [made[i * outputs + j + element] for element in range(run)]
                    _finish(kernel, spec, channel, channel * image.channel + (y + i) * image.row + (x + j), values)
    return kernel.function


@contextlib.contextmanager
def _tile(kernel: emit.Kernel, tiling: Tiling, channels: int) -> Iterator[tuple[Expr, Expr]]:
    """The thread's channel and tile, where it has one."""
    tiles = tiling.rows * tiling.columns
    index = kernel.block[0] * _THREADS + kernel.thread
    with emit.when_all((index < channels * tiles) if channels * tiles % _THREADS else True):
        yield div(index, tiles), mod(index, tiles)


def _finish(kernel: emit.Kernel, spec: WinogradTargetSpec, channel: Expr, at: Expr, values: list[Expr]) -> None:
    """Add the residual, clamp and store outputs that lie side by side from ``at``."""
    buffers, image = kernel.buffers, spec.target
    if spec.residual:
        others = [elements.as_float(buffers["residual"][at + index], image) for index in range(len(values))]
        values = [value + other for value, other in zip(values, others, strict=True)]
    values = [emit.activate(value, spec.activation, spec.low, spec.high) for value in values]
    half = item_bytes(image.dtype) == 2
    if len(values) == 1:
        place, lanes, made = at, 1, _stored(values[0], image)
    elif half:
        place, lanes, made = div(at, 2), 1, emit.call("tsm_pack", *values, dtype="uint32")
    else:
        words = emit.registers(len(values))
        for index, value in enumerate(values):
            emit.store(words, index, value)
        place, lanes, made = at, len(values), emit.load(words, 0, len(values))
    emit.store(buffers["target"], place, made, lanes)
    if spec.tap:
        with emit.when_all(channel < spec.tap):
            emit.store(buffers["tap"], place, made, lanes)


def _stored(value: Expr, image: Image) -> Expr:
    """A float as an element of an image."""
    return emit.call("tsm_half", value, dtype="uint16") if item_bytes(image.dtype) == 2 else value


def _both_sides(matrix: Matrix, values: Any, side: int) -> list[Expr]:
    """``matrix · values · matrixᵀ`` of side × side registers, row after row."""
    half = emit.registers(len(matrix) * side)
    for i, coefficients in enumerate(matrix):
        for j in range(side):
            column = [values[line * side + j] for line in range(side)]
            emit.store(half, i * side + j, combination(coefficients, column, emit.splat))
    rows: list[Sequence[Expr]] = [[half[i * side + j] for j in range(side)] for i in range(len(matrix))]
    return [combination(coefficients, row, emit.splat) for row in rows for coefficients in matrix]
