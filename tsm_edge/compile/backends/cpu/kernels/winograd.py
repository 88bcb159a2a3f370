"""3×3 convolution at stride 1 by Winograd's minimal filtering F(m×m, 3×3): fewer multiplications, a little more moving.

``common/winograd.py`` has the formula. Summed over input channels, its elementwise product is (m+2)² matrix products,
one a position: ``[tiles, channels] · [channels, outputs]``, done by the register tiles of ``convolution.py``. Weights
are transformed and packed at compile time.

A thread transforms a block of tiles into its own scratch memory once, multiplies it with as many panels of output
channels as its work items say, and transforms each panel's products back while they are in cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsm_edge.compile.backends.common.winograd import TRANSFORMS, Matrix, combination, transformed_weights
from tsm_edge.compile.backends.cpu.choose.tiles import WinogradTile, k_loop
from tsm_edge.compile.backends.cpu.choose.winograd import WinogradConvolution, WinogradSettings
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Span, zero_whole_border
from tsm_edge.compile.backends.cpu.kernels.convolution_lowering import far_operands
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import ConvolutionSpec, RegisterTile, Row
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.backends.cpu.kernels.register_tile import register_tile, tile_start
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Border, Image
from tsm_edge.compile.ir.program import BufferRef


@dataclass(frozen=True)
class WinogradSpec(KernelSpec):
    """Everything a Winograd kernel's code depends on.

    Attributes
    ----------
    source, target : Image
        The source has the border that ``borders.winograd_border`` says.
    outputs : int
        m: outputs a side of a tile.
    block : int
        Tiles transformed together.
    product : ConvolutionSpec
        One position's matrix product: from the transformed block (a row of pixels a position) to the products of a
        panel (a pixel a tile, position after position).
    low, high, residual
        As in ``ConvolutionSpec``.
    """

    source: Image
    target: Image
    pad_top: int
    pad_left: int
    outputs: int
    block: int
    product: ConvolutionSpec
    low: float
    high: float
    residual: Image | None = None

    @property
    def lanes(self) -> int:
        """Lanes of a vector."""
        return self.product.lanes

    @property
    def side(self) -> int:
        """Input pixels a side of a tile: m + 2."""
        return self.outputs + 2

    @property
    def tile_columns(self) -> int:
        """Tiles in a row of tiles."""
        return ceil_div(self.target.width, self.outputs)

    @property
    def frame_tiles(self) -> int:
        """Tiles of a frame."""
        return ceil_div(self.target.height, self.outputs) * self.tile_columns

    @property
    def tiles(self) -> int:
        """Tiles of all frames."""
        return self.target.frames * self.frame_tiles

    @property
    def panels(self) -> int:
        """Panels of output channels."""
        return self.product.tile.panels

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "winograd"

    @property
    def parallel(self) -> Items:
        """(Block of tiles, panel) pairs, the panel running fastest.

        Panels that share a transformed block are taken together; a thread that goes on where it was finds the block
        transformed.
        """
        return Items(ceil_div(self.tiles, self.block) * self.panels, grain=self.panels, resumes=True)

    @property
    def flops(self) -> int:
        """Of the products: the transforms are not counted, nor are the multiplications they save."""
        return 2 * self.tiles * self.side**2 * self.source.channels * self.target.channels

    @property
    def bytes(self) -> int:
        """Image, transformed weights, result, and the residual it is added to."""
        panel = self.side**2 * (1 + self.source.channels) * self.product.tile.vectors * self.lanes
        outputs = 2 if self.residual is not None else 1
        weights = self.panels * panel * item_bytes(self.source.dtype)
        return self.source.value_bytes + weights + outputs * self.target.value_bytes

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        dtype = self.source.dtype
        return (
            Argument("source", "input", dtype),
            Argument("weights", "weights", dtype),
            Argument("scratch", "scratch", dtype),
            Argument("target", "output", dtype),
            *((Argument("residual", "input", dtype),) if self.residual is not None else ()),
        )

    def describe(self) -> str:
        """The algorithm, tiles of a block, and the register tile of its products."""
        return f"F({self.outputs}×{self.outputs}, 3×3) of {self.block}, {self.product.tile.describe(self.lanes)}"

    def write(self, name: str) -> Any:
        """See :func:`winograd`."""
        return winograd(name, self)

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread: the transformed block and a panel's products."""
        return self.product.source.bytes + self.product.target.bytes


def pack_winograd(spec: WinogradSpec, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Transform and pack float32 [out, in, 3, 3] as ``[panel][position][1 + in][panel's channels]``."""
    outputs, channels = weight.shape[:2]
    width = spec.product.tile.vectors * spec.lanes
    packed = np.zeros((spec.side, spec.side, 1 + channels, spec.panels * width), spec.source.dtype)
    packed[:, :, 1:, :outputs] = transformed_weights(spec.outputs, weight)
    packed[1, 1, 0, :outputs] = bias
    panels = packed.reshape(spec.side**2, 1 + channels, spec.panels, width).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(panels).reshape(-1)


def _lower(at: Lowering, unit: WinogradConvolution) -> None:
    layer, tile = unit.convolution, unit.tile
    source = at.tensors.vectors(layer.source, at.border_of(layer))
    residual = at.tensors.vectors(layer.residual) if layer.residual is not None else None
    target = at.tensors.output(layer.output)
    channels, vectors = layer.weight.shape[1], tile.product.vectors
    positions = (tile.outputs + 2) ** 2
    block = at.nhwc(positions, tile.block, channels)
    products = at.nhwc(1, tile.block, positions * vectors * at.lanes)
    settings = at.given((layer,), WinogradSettings) or settings_of(at, layer, tile)
    at.chose(RULE.name, (layer,), settings)
    product = ConvolutionSpec(
        source=block,
        target=products,
        kernel=(1, 1),
        strides=(1, 1),
        pad_top=0,
        pad_left=0,
        reduction_channels=channels,
        tile=tile.product,
        lanes=at.lanes,
        low=-math.inf,
        high=math.inf,
        prefetch=settings.prefetch,
        k_loop=k_loop(at.core),
    )
    spec = WinogradSpec(
        source=source.image,
        target=target.image,
        pad_top=layer.pads[0],
        pad_left=layer.pads[1],
        outputs=tile.outputs,
        block=tile.block,
        product=product,
        low=layer.clamp.low,
        high=layer.clamp.high,
        residual=None if residual is None else residual.image,
    )
    buffers = {
        "source": source.buffer,
        "weights": at.add_packed(pack_winograd, spec, layer.weight, layer.bias),
        "scratch": BufferRef("scratch"),
        "target": target.buffer,
    }
    if residual is not None:
        buffers["residual"] = residual.buffer
    at.call(spec, buffers, at.label(unit.layers))


def settings_of(at: Lowering, layer: ir.Convolution, tile: WinogradTile) -> WinogradSettings:
    """With a tile, and what comes from beyond L2."""
    block = at.nhwc((tile.outputs + 2) ** 2, tile.block, layer.weight.shape[1])
    far = far_operands(at, layer, {"source": block})
    return WinogradSettings(tile, tuple(name for name in far if name == "weights"))


RULE = Rule("winograd", lambda unit: isinstance(unit, WinogradConvolution), _lower, WinogradSettings)


def winograd(name: str, spec: WinogradSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel:
        buffers = kernel.buffers
        with emit.loop(kernel.end, kernel.begin) as item:
            block, panel = emit.div(item, spec.panels), emit.mod(item, spec.panels)
            first = emit.smaller(block * spec.block, spec.tiles - spec.block)
            anew = emit.both(emit.equal(kernel.resumed, 0), emit.equal(item, kernel.begin))
            with emit.when(emit.either(anew, emit.equal(panel, 0))):
                _transform_block(spec, buffers, first)
            _multiply(spec, buffers, panel)
            _transform_back(spec, buffers, first, panel)
            if spec.target.border != Border():
                width = spec.product.tile.vectors * spec.lanes
                with emit.when(emit.equal(block, 0)):
                    _zero_border(spec, buffers, (panel * width, width))
    return kernel.function


def _zero_border(spec: WinogradSpec, buffers: Buffers, channels: Span) -> None:
    """Of every frame, in some of its channels."""
    if spec.target.frames == 1:
        zero_whole_border(buffers["target"], spec.target, channels, spec.lanes)
        return
    with emit.loop(spec.target.frames) as frame:
        zero_whole_border(buffers["target"], spec.target, channels, spec.lanes, frame)


def _tile_place(spec: WinogradSpec, tile: Expr) -> tuple[Expr, Expr, Expr]:
    """Frame, output row and column where a tile starts."""
    frame, tile = emit.in_frame(tile, spec.frame_tiles, spec.target.frames)
    return frame, emit.div(tile, spec.tile_columns) * spec.outputs, emit.mod(tile, spec.tile_columns) * spec.outputs


def _transform_block(spec: WinogradSpec, buffers: Buffers, first: Expr) -> None:
    """``Bᵀ d B`` of a block's tiles, for all input channels, into scratch."""
    source, transformed, lanes = spec.source, spec.product.source, spec.lanes
    matrix = TRANSFORMS[spec.outputs].input
    with emit.loop(spec.block) as tile:
        frame, y, x = _tile_place(spec, first + tile)
        corner = emit.pixel_at(source, y - spec.pad_top, x - spec.pad_left, frame)
        with emit.loop(ceil_div(source.channels, lanes)) as vector:
            channel = vector * lanes
            pixels = [
                [
                    emit.load(buffers["source"], corner + i * source.row + j * source.pixel + channel, lanes)
                    for j in range(spec.side)
                ]
                for i in range(spec.side)
            ]
            for i, row in enumerate(_both_sides(matrix, pixels, lanes)):
                for j, value in enumerate(row):
                    at = (i * spec.side + j) * transformed.row + tile * transformed.pixel + channel
                    emit.store(buffers["scratch"], at, value, lanes)


def _multiply(spec: WinogradSpec, buffers: Buffers, panel: Expr) -> None:
    """Every position's matrix product for one panel of output channels."""
    product, positions = spec.product, spec.side**2
    named = {"source": buffers["scratch"], "weights": buffers["weights"], "target": buffers["scratch"]}
    products = product.source.elements - panel * (positions * product.tile.vectors * spec.lanes)
    with emit.loop(positions) as position:
        row = Row(lambda _: position * product.source.row, (0, 1), products)
        with emit.loop(product.row_tiles) as step:
            # Panels of the product are positions: those of one panel of output channels follow each other.
            at = panel * positions + position
            tile = RegisterTile(row, tile_start(product, step), at, product.tile.vectors, step)
            register_tile(product, named, tile)


def _transform_back(spec: WinogradSpec, buffers: Buffers, first: Expr, panel: Expr) -> None:
    """``Aᵀ M A`` of a panel's products, and the epilogue, into the target."""
    lanes, vectors, target = spec.lanes, spec.product.tile.vectors, spec.target
    matrix = TRANSFORMS[spec.outputs].output
    with emit.loop(spec.block) as tile:
        frame, y, x = _tile_place(spec, first + tile)
        start = spec.product.source.elements + tile * spec.product.target.pixel
        with emit.loop(vectors) as vector:
            products = [
                [
                    emit.load(buffers["scratch"], start + ((i * spec.side + j) * vectors + vector) * lanes, lanes)
                    for j in range(spec.side)
                ]
                for i in range(spec.side)
            ]
            channel = (panel * vectors + vector) * lanes
            for i, row in enumerate(_both_sides(matrix, products, lanes)):
                for j, value in enumerate(row):
                    inside = _inside(spec, y + i, x + j, i, j)
                    if any(condition is False for condition in inside):
                        continue
                    with emit.when_all(*inside):
                        if spec.residual is not None:
                            image = spec.residual
                            at = emit.pixel_at(image, y + i, x + j, frame) + channel
                            value = value + emit.load(buffers["residual"], at, lanes)
                        at = emit.pixel_at(target, y + i, x + j, frame) + channel
                        emit.store(buffers["target"], at, emit.clamp(value, spec.low, spec.high, lanes), lanes)


def _inside(spec: WinogradSpec, y: Expr, x: Expr, i: int, j: int) -> list[Expr]:
    """Conditions for an output to be in the image: the last tiles may reach beyond it.

    Where an image is one tile high or wide they are known, as Python bools.
    """
    conditions = []
    if i and spec.target.height % spec.outputs:
        conditions.append(y < spec.target.height)
    if j and spec.target.width % spec.outputs:
        conditions.append(x < spec.target.width)
    return conditions


def _both_sides(matrix: Matrix, values: Sequence[Sequence[Expr]], lanes: int) -> list[list[Expr]]:
    """``matrix · values · matrixᵀ``, elementwise on vectors."""
    columns = len(values[0])

    def constant(value: float) -> Expr:
        return emit.splat(value, lanes)

    half = emit.Registers(len(matrix) * columns, lanes)
    for i, coefficients in enumerate(matrix):
        for j in range(columns):
            half.set(i * columns + j, combination(coefficients, [line[j] for line in values], constant))
    lines = [[half.get(i * columns + j) for j in range(columns)] for i in range(len(matrix))]
    return [[combination(coefficients, line, constant) for coefficients in matrix] for line in lines]
