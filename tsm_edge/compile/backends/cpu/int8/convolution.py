"""Convolution on levels as a register-tiled GEMM: pointwise, k×k, strided and dense layers.

A step of the k loop multiplies four channels of each of a tile's pixels by vectors of weights: a dot product for every
lane. On Arm sixteen channels of a pixel are loaded at once and taken by lane. The temporal shift is two ranges of the
k loop with different sources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tsm_edge.compile.backends.cpu.int8.convolution_spec import WORD, Int8ConvolutionSpec, RegisterTile
from tsm_edge.compile.backends.cpu.int8.epilogue import finish
from tsm_edge.compile.backends.cpu.int8.images import ByteImage, load
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr

# Weights are asked for this many k steps ahead: about the latency of the next cache level.
WEIGHT_DISTANCE = 24
# Steps written out in a turn of the k loop where pixels are loaded four channels at a time.
STEPS_TOGETHER = 4
# Quads of a pixel in a vector of Arm's.
VECTOR_QUADS = 4

Pixel = Callable[[int], Expr]  # tile column → its four channels, as the dot product takes them


def convolution(name: str, spec: Int8ConvolutionSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel, emit.loop(kernel.end, kernel.begin) as item:
        if spec.tile.panels_outside:
            panel, block = emit.div(item, spec.blocks), emit.mod(item, spec.blocks)
        else:
            panel, block = emit.mod(item, spec.panels), emit.div(item, spec.panels)

        def tiles(at: Expr, vectors: int) -> None:
            _tiles(spec, kernel.buffers, block, at, vectors)

        for_panel(spec, panel, tiles)
    return kernel.function


def for_panel(spec: Int8ConvolutionSpec, panel: Expr, body: Callable[[Expr, int], None]) -> None:
    """Write ``body(panel, its vectors)``, once more for the narrower last panel where there is one."""
    tail, last = spec.tail_vectors, spec.panels - 1
    if not tail:
        body(panel, spec.tile.vectors)
    elif spec.panels == 1:
        body(0, tail)
    else:
        with emit.when(panel < last):
            body(panel, spec.tile.vectors)
        with emit.when(panel >= last):
            body(last, tail)


def _tiles(spec: Int8ConvolutionSpec, buffers: Buffers, block: Expr, panel: Expr, vectors: int) -> None:
    first = block * spec.tile.block
    end = emit.smaller(first + spec.tile.block, spec.tiles) if spec.tiles % spec.tile.block else first + spec.tile.block
    with emit.loop(end, first) as index:
        y = emit.div(index, spec.row_tiles) if spec.target.height > 1 else 0
        step = emit.mod(index, spec.row_tiles) if spec.row_tiles > 1 else 0
        x = tile_start(spec, step)
        register_tile(spec, buffers, RegisterTile(y, x, y, panel, vectors, panel * spec.tile.vectors))


def tile_start(spec: Int8ConvolutionSpec, step: Expr) -> Expr:
    """First column of the ``step``-th register tile of a row."""
    return emit.tile_start(spec.columns, spec.tile.rows, step) if spec.row_tiles > 1 else 0


def convolve_row(spec: Int8ConvolutionSpec, buffers: Buffers, y: Expr, row: Expr) -> None:
    """All register tiles of row ``y``, written to ``row``; a panel's weights stay in L1 meanwhile."""
    with emit.loop(spec.panels) as panel:

        def tiles(at: Expr, vectors: int) -> None:
            with emit.loop(spec.row_tiles) as step:
                x = tile_start(spec, step)
                register_tile(spec, buffers, RegisterTile(y, x, row, at, vectors, at * spec.tile.vectors))

        for_panel(spec, panel, tiles)


def register_tile(spec: Int8ConvolutionSpec, buffers: Buffers, tile: RegisterTile) -> None:
    """One tile: sums, the k loop over them, and levels of them."""
    panel, vectors = tile.panel, tile.vectors
    instructions, rows = spec.instructions, spec.tile.rows
    lanes, size = instructions.lanes, instructions.vector_bytes
    base = panel * spec.panel_bytes(spec.tile.vectors)
    body = base + spec.header_bytes(vectors)
    weights = buffers["weights"]
    sums = emit.Registers(rows * vectors, lanes, "int32")
    for vector in range(vectors):
        start = load(weights, base + vector * size, "int32", lanes)
        for row in range(rows):
            sums.set(row * vectors + vector, start)

    def step(index: Expr, pixel: Pixel) -> None:
        for row in range(rows):
            quad = pixel(row)
            for vector in range(vectors):
                weight = load(weights, body + (index * vectors + vector) * size, "int8", size)
                at = row * vectors + vector
                sums.set(at, instructions.dot(sums.get(at), quad, weight))
        if spec.far:
            ahead = body + (index + WEIGHT_DISTANCE) * (vectors * size)
            for line in range(0, vectors * size, 64):
                emit.prefetch(weights, ahead + line)

    _reduce(spec, buffers, tile.y, tile.x, step)
    finish(spec, buffers, sums, tile)


def _reduce(spec: Int8ConvolutionSpec, buffers: Buffers, y: Expr, x: Expr, step: Callable[[Expr, Pixel], None]) -> None:
    """The k loop: the shift cache's channels first, if there is one; kernel rows, columns, channels."""
    (down, right), image, source = spec.strides, spec.source, buffers["source"]

    def run(buffer: Any, of: ByteImage, base: Expr, first: int, count: int, index: Expr) -> None:
        _quads(spec, buffer, base + first * WORD, right * of.pixel, count, index, step)

    top, left = y * down - spec.pad_top, x * right - spec.pad_left
    if spec.cache is not None:
        cached = emit.pixel_at(spec.cache, y * down, x * right)
        run(buffers["cache"], spec.cache, cached, 0, spec.cache_quads, 0)
    if spec.kernel == (1, 1):
        base, count = emit.pixel_at(image, top, left), spec.quads - spec.first_quad
        run(source, image, base, spec.first_quad, count, spec.cache_quads)
        return
    height, width = spec.kernel

    def position(ky: Expr, kx: Expr) -> None:
        index = (ky * width + kx) * spec.quads
        run(source, image, emit.pixel_at(image, top + ky, left + kx), 0, spec.quads, index)

    with emit.loop(height) as ky:
        if spec.quads <= STEPS_TOGETHER:
            for kx in range(width):
                position(ky, kx)
        else:
            with emit.loop(width) as kx:
                position(ky, kx)


def _quads(
    spec: Int8ConvolutionSpec,
    buffer: Any,
    base: Expr,
    stride: int,
    count: int,
    index: Expr,
    step: Callable[[Expr, Pixel], None],
) -> None:
    """``count`` steps from ``base``, pixels ``stride`` bytes apart."""
    instructions, done = spec.instructions, 0
    if instructions.arm and count >= VECTOR_QUADS:
        turns = count // VECTOR_QUADS
        with emit.loop(turns) as turn:
            for quad in range(VECTOR_QUADS):

                def by_lane(row: int, quad: int = quad) -> Expr:
                    at = base + row * stride + turn * (VECTOR_QUADS * WORD)
                    return instructions.quad_at(load(buffer, at, "int32", 4), quad)

                step(index + turn * VECTOR_QUADS + quad, by_lane)
        done = turns * VECTOR_QUADS

    def single(quad: Expr) -> None:
        step(index + quad, lambda row: instructions.spread(load(buffer, base + row * stride + quad * WORD, "int32")))

    if count - done <= STEPS_TOGETHER:
        for quad in range(done, count):
            single(quad)
        return
    for together in (STEPS_TOGETHER, 1):
        turns = (count - done) // together
        if turns:
            start = done
            with emit.loop(turns) as turn:
                for part in range(together):
                    single(start + turn * together + part)
            done += turns * together
