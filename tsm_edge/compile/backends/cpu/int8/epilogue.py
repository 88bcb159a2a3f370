"""From a register tile's sums to levels in memory: rounding, the residual, saturation, layout, border."""

from __future__ import annotations

import contextlib
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.cpu.int8.convolution_spec import (
    WORD,
    Int8ConvolutionSpec,
    RegisterTile,
    Requantised,
    tapped_panels,
)
from tsm_edge.compile.backends.cpu.int8.images import (
    ByteImage,
    copy_bytes,
    load,
    repeated,
    store,
    stored_zero,
    word_of,
)
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions, fused, vector_of, whole
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.quantisation import MAGIC_BITS
from tsm_edge.compile.ir.scale import LEVELS


class Rounding:
    """Sums to int32 levels as they are stored, not yet saturated, for kernels of one :class:`Requantised`.

    Parameters
    ----------
    instructions : Instructions
    made : Requantised
    """

    def __init__(self, instructions: Instructions, made: Requantised) -> None:
        self.instructions, self.made = instructions, made

    @property
    def biased(self) -> bool:
        """Whether what comes out still has a float's high bits (Arm), which packing throws away."""
        return self.made.magic and self.instructions.arm

    def levels(self, sums: Expr, multiplier: Expr, constant: Expr = None, residual: Expr = None) -> Expr:
        """One vector; ``residual``: stored bytes as int32."""
        instructions, made, lanes = self.instructions, self.made, self.instructions.lanes
        if made.magic:
            value = fused(tirx.reinterpret(vector_of("float32", lanes), sums), multiplier, constant, lanes)
            return self._bounded(instructions.low_bits(value), MAGIC_BITS if self.biased else 0)
        product = tirx.Cast(vector_of("float32", lanes), sums) * multiplier
        if residual is not None and made.residual is not None:
            zero = made.residual.zero - instructions.offset
            added = residual - whole(zero, lanes) if zero else residual
            added = tirx.Cast(vector_of("float32", lanes), added)
            product = fused(added, emit.splat(made.residual_multiplier, lanes), product, lanes)
        rounded = instructions.round(product)
        moved = made.zero - instructions.offset
        return self._bounded(rounded + whole(moved, lanes) if moved else rounded, 0)

    def _bounded(self, value: Expr, bias: int) -> Expr:
        """Bounds that saturation does not keep by itself."""
        bias, lanes = bias - self.instructions.offset, self.instructions.lanes
        if self.made.low > 0:
            value = tirx.max(value, whole(self.made.low + bias, lanes))
        if self.made.high < LEVELS:
            value = tirx.min(value, whole(self.made.high + bias, lanes))
        return value


def finish(spec: Int8ConvolutionSpec, buffers: Buffers, sums: emit.Registers, tile: RegisterTile) -> None:
    """What becomes of a tile's sums."""
    made = _Tile(spec, buffers, sums, tile)
    if spec.in_float:
        made.store_floats()
    elif spec.in_quads:
        made.store_quads()
    else:
        made.store_pixels()


class _Tile:
    def __init__(self, spec: Int8ConvolutionSpec, buffers: Buffers, sums: emit.Registers, tile: RegisterTile) -> None:
        self.spec, self.buffers, self.sums, self.place = spec, buffers, sums, tile
        self.vectors = tile.vectors
        self.header = tile.panel * spec.panel_bytes(spec.tile.vectors)
        self.channel = spec.first_channel(tile.panel)
        self.instructions = spec.instructions
        self.lanes, self.size = spec.instructions.lanes, spec.instructions.vector_bytes
        self.rounding = Rounding(spec.instructions, spec.made)
        self.target = buffers["target"]

    def _header(self, which: int, vector: int, dtype: str) -> Expr:
        at = self.header + (which * self.vectors + vector) * self.size
        return load(self.buffers["weights"], at, dtype, self.lanes)

    def _levels(self, row: int, vector: int, residual: Expr = None) -> Expr:
        constant = self._header(2, vector, "float32") if self.spec.made.magic else None
        sums = self.sums.get(row * self.vectors + vector)
        return self.rounding.levels(sums, self._header(1, vector, "float32"), constant, residual)

    def store_floats(self) -> None:
        """float32 results, where nobody reads levels."""
        spec, lanes = self.spec, self.lanes
        for row in range(spec.tile.rows):
            for vector in range(self.vectors):
                sums = tirx.Cast(vector_of("float32", lanes), self.sums.get(row * self.vectors + vector))
                value = emit.clamp(sums * self._header(1, vector, "float32"), spec.low, spec.high, lanes)
                at = self._pixel(spec.target, row) + vector * lanes
                store(self.target, at * WORD, value, self.size)

    def store_pixels(self) -> None:
        """NHWC: four vectors of channels at a time, then the others one by one."""
        spec, lanes, size = self.spec, self.lanes, self.size
        image = spec.target
        whole_vectors = self.vectors // 4 * 4
        for row in range(spec.tile.rows):
            at = self._pixel(image, row)
            added = 0 if spec.made.residual is None else self._pixel(spec.made.residual, row)
            for first in range(0, whole_vectors, 4):
                raw = self._residual(added + first * lanes, size)
                values = [
                    self._levels(row, first + part, None if raw is None else self.instructions.pick(raw, part))
                    for part in range(4)
                ]
                packed = self.instructions.pack(values, self.rounding.biased)
                store(self.target, at + first * lanes, packed, size)
            for vector in range(whole_vectors, self.vectors):
                raw = self._residual(added + vector * lanes, lanes)
                value = self._levels(row, vector, None if raw is None else self.instructions.widen(raw))
                narrow = self.instructions.narrow(value, self.rounding.biased)
                store(self.target, at + vector * lanes, narrow, lanes)
        self._tap()
        if isinstance(image, ByteImage):
            _fill_border(spec, image, self.target, self.place, self.vectors * lanes)

    def _pixel(self, image: Image, column: int) -> Expr:
        """Offset of the panel's first channel in a pixel of the tile."""
        return emit.pixel_at(image, self.place.row, self.place.x + column) + self.channel

    def _tap(self) -> None:
        """Copy the first channels of the finished tile, still in the store buffer, to the next shift cache."""
        spec = self.spec
        if spec.tap is None:
            return
        count, panels = min(spec.tap.pixel, spec.panel_channels), tapped_panels(spec.tap, spec.panel_channels)
        inside = panels == spec.panels or self.place.panel < panels
        if inside is False:
            return
        with emit.when_unsure(inside):
            for column in range(spec.tile.rows):
                read, write = self._pixel(spec.target, column), self._pixel(spec.tap, column)
                copy_bytes(self.target, read, self.buffers["tap"], write, count)

    def _residual(self, at: Expr, size: int) -> Expr:
        return None if self.spec.made.residual is None else load(self.buffers["residual"], at, "uint8", size)

    def store_quads(self) -> None:
        """Four columns of a vector side by side, for the depthwise convolution; columns beyond the row are zero."""
        spec, image, size = self.spec, self.spec.target, self.size
        if not isinstance(image, ByteImage):
            raise TypeError("quads are levels")
        first = emit.div(self.place.x, 4)
        for quad in range(spec.tile.rows // 4):
            for vector in range(self.vectors):
                values = [self._levels(4 * quad + column, vector) for column in range(4)]
                packed = self.instructions.quads(self.instructions.pack(values, self.rounding.biased))
                store(self.target, self._cell(image, self.place.row, first + quad, vector), packed, size)
        if image.width % 4:
            only = spec.row_tiles == 1
            last = emit.equal(self.place.x, spec.columns - spec.tile.rows)
            with contextlib.nullcontext() if only else emit.when(last):
                self._fill_rest_of_row(image)
        for rows, edge, row in ((image.border.top, 0, -1), (image.border.bottom, image.height - 1, image.height)):
            if rows:
                with emit.when_unsure(image.height == 1 or emit.equal(self.place.row, edge)):
                    self._fill_row(image, row)

    def _cell(self, image: ByteImage, y: Expr, quad: Expr, vector: int) -> Expr:
        return image.origin + y * image.row + quad * image.across + (self.place.cell + vector) * self.size

    def _fill_rest_of_row(self, image: ByteImage) -> None:
        columns, byte = image.width % 4, stored_zero(image, self.instructions)
        kept = T.Broadcast(tirx.const((1 << 8 * columns) - 1, "int32"), self.lanes)
        beyond = word_of(byte) & ~((1 << 8 * columns) - 1)
        beyond = beyond if -(2**31) <= beyond < 2**31 else beyond - (1 << 32)
        for vector in range(self.vectors):
            at = self._cell(image, self.place.row, image.width // 4, vector)
            value = load(self.target, at, "int32", self.lanes) & kept
            store(self.target, at, value | whole(beyond, self.lanes), self.size)

    def _fill_row(self, image: ByteImage, row: Expr) -> None:
        byte = stored_zero(image, self.instructions)
        for quad in range(self.spec.tile.rows // 4):
            for vector in range(self.vectors):
                at = self._cell(image, row, emit.div(self.place.x, 4) + quad, vector)
                store(self.target, at, repeated(byte, self.size), self.size)


def _fill_border(spec: Int8ConvolutionSpec, image: ByteImage, buffer: Any, tile: RegisterTile, size: int) -> None:
    """The part of the border that touches the tile; the tiles of an image together cover all of it."""
    y, x, channel = tile.row, tile.x, spec.first_channel(tile.panel)
    border, lanes, byte = image.border, spec.instructions.lanes, stored_zero(image, spec.instructions)
    if not any((border.top, border.left, border.bottom, border.right)):
        return

    def fill(first_row: Expr, rows: int, first_column: Expr, columns: int) -> None:
        with emit.loop(rows) as i, emit.loop(columns) as j, emit.loop(size // lanes) as vector:
            at = emit.pixel_at(image, first_row + i, first_column + j) + channel + vector * lanes
            store(buffer, at, repeated(byte, lanes), lanes)

    def edges(row: Expr, rows: int) -> None:
        only = spec.row_tiles == 1
        for columns, last, first in (
            (border.left, 0, -border.left),
            (border.right, spec.columns - spec.tile.rows, image.width),
        ):
            if columns:
                with contextlib.nullcontext() if only else emit.when(emit.equal(x, last)):
                    fill(row, rows, first, columns)

    edges(y, 1)
    for rows, at, start in ((border.top, 0, -border.top), (border.bottom, image.height - 1, image.height)):
        if rows:
            with emit.when_unsure(image.height == 1 or emit.equal(y, at)):
                fill(start, rows, x, spec.tile.rows)
                edges(start, rows)
