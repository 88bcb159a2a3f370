"""Non-local attention over a clip: ``softmax(queries · keysᵀ) · values``, a block of queries at a time.

Keys and values are laid out once as a convolution's weights are, so that both products are the register tiles of
``convolution.py``. A work item takes a block of queries: their scores over all keys are in a thread's scratch memory,
become probabilities there, and are multiplied with the values. The matrix of all queries by all keys never exists.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.backends.cpu.choose.tiles import MIN_ITEMS, gemm_tile, k_loop
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import ConvolutionSpec, Row
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.backends.cpu.kernels.functions import exp
from tsm_edge.compile.backends.cpu.kernels.register_tile import convolve_row, for_panel
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec, Stage
from tsm_edge.compile.ir.layout import Image, planar
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.errors import CompileError

# A block's scores take this share of a core's L2 cache, beside a panel of keys or values.
SCORES_L2_SHARE = 0.4
# Of a score: maximum, subtraction, exponential (a polynomial), sum, division.
_SOFTMAX_FLOPS = 24


@dataclass(frozen=True)
class PanelsSpec(KernelSpec):
    """An image laid out as the weights of a product.

    Attributes
    ----------
    source : Image
        One row: a pixel a position.
    product : ConvolutionSpec
        The product that reads them.
    summed : {"channels", "positions"}
        What the product sums over.
    """

    source: Image
    product: ConvolutionSpec
    summed: Literal["channels", "positions"]

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "attention_panels"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        dtype = self.source.dtype
        return (Argument("source", "input", dtype), Argument("target", "output", dtype))

    @property
    def parallel(self) -> Items:
        """Panels."""
        return Items(self.product.tile.panels)

    @property
    def elements(self) -> int:
        """Of all panels."""
        tile = self.product.tile
        tail = tile.vectors - tile.tail_vectors if tile.tail_vectors else 0
        return (tile.panels * tile.vectors - tail) * self.product.lanes * (1 + self.product.reduction)

    @property
    def bytes(self) -> int:
        """Once in and once out."""
        return 2 * self.source.value_bytes

    def write(self, name: str) -> Any:
        """See :func:`panels`."""
        return panels(name, self)


@dataclass(frozen=True)
class AttentionSpec(KernelSpec):
    """Both products and the softmax between them.

    Attributes
    ----------
    queries, target : Image
        One row: a pixel a position.
    scores : ConvolutionSpec
        From a block of queries to their scores, one row of pixels with a channel a key.
    weighted : ConvolutionSpec
        From the probabilities, in the scores' place, to the result.
    """

    queries: Image
    target: Image
    scores: ConvolutionSpec
    weighted: ConvolutionSpec

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "attention"

    @property
    def block(self) -> int:
        """Queries of a work item."""
        return self.scores.target.width

    @property
    def keys(self) -> int:
        """Positions that every query attends to."""
        return self.scores.target.channels

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        dtype = self.queries.dtype
        return (
            Argument("queries", "input", dtype),
            Argument("keys", "input", dtype),
            Argument("values", "input", dtype),
            Argument("scratch", "scratch", dtype),
            Argument("target", "output", dtype),
        )

    @property
    def parallel(self) -> Items:
        """Blocks of queries."""
        return Items(ceil_div(self.queries.width, self.block))

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread: the scores of a block."""
        return self.scores.target.bytes

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The layers, in the order in which they are reported."""
        scores = self.queries.width * self.keys
        return (
            Stage("scores", 2 * scores * self.queries.channels),
            Stage("softmax", _SOFTMAX_FLOPS * scores),
            Stage("values", 2 * scores * self.target.channels),
        )

    @property
    def bytes(self) -> int:
        """Queries, keys, values and the result."""
        return 2 * self.queries.value_bytes + 2 * self.target.value_bytes

    def describe(self) -> str:
        """Queries × keys of a block, and the register tiles of both products."""
        tiles = [product.tile.describe(product.lanes) for product in (self.scores, self.weighted)]
        return f"{self.block}×{self.keys}, scores {tiles[0]}, values {tiles[1]}"

    def write(self, name: str) -> Any:
        """See :func:`attention`."""
        return attention(name, self)


def _lower(at: Lowering, layer: ir.Attention) -> None:
    queries, keys, values = (_positions(at, name) for name in (layer.query, layer.key, layer.value))
    target_image = at.tensors.output_image(layer.output)
    if not target_image.dense_rows:
        raise _padded(layer.output)
    spec = attention_spec(at.core, queries.image, keys.image, values.image, target_image.flat())
    packed = {}
    for name, source, panels_spec in (
        ("keys", keys, PanelsSpec(keys.image, spec.scores, "channels")),
        ("values", values, PanelsSpec(values.image, spec.weighted, "positions")),
    ):
        label = f"{at.label((layer,))} {name}"
        packed[name] = at.workspace.room(label, planar(1, panels_spec.elements, 1, dtype=source.image.dtype))
        at.call(panels_spec, {"source": source.buffer, "target": packed[name]}, label)
    target = at.tensors.new(layer.output, target_image)
    buffers = {"queries": queries.buffer, "scratch": BufferRef("scratch"), "target": target.buffer, **packed}
    at.call(spec, buffers, at.label((layer,)))


RULE = Rule("attention", lambda unit: isinstance(unit, ir.Attention), _lower)


def _positions(at: Lowering, tensor: str) -> Tensor:
    """A tensor as one row of pixels, a pixel a position."""
    found = at.tensors.vectors(tensor)
    if not found.image.dense_rows:
        raise _padded(tensor)
    return Tensor(found.image.flat(), found.buffer)


def _padded(tensor: str) -> CompileError:
    return CompileError(
        f"tensor {tensor!r} of a non-local block is read by a padded convolution, too, which no rule covers",
        "export the block with 1×1 convolutions around it",
    )


def attention_spec(core: Core, queries: Image, keys: Image, values: Image, target: Image) -> AttentionSpec:
    """The kernel by the card's numbers; all images are one row, a pixel a position."""
    count, channels = keys.width, queries.channels
    rows = gemm_tile(core, 1, queries.width, channels, count).rows
    room = int(core.own_l2_bytes * SCORES_L2_SHARE) // core.bytes(count)
    block = max(1, min(room, ceil_div(queries.width, MIN_ITEMS)) // rows) * rows
    block = min(block, queries.width)
    pixel = ceil_div(count, core.lanes) * core.lanes
    strip = Image(1, block, count, pixel, block * pixel, dtype=core.dtype)

    def product(source: Image, result: Image) -> ConvolutionSpec:
        return ConvolutionSpec(
            source=source,
            target=result,
            kernel=(1, 1),
            strides=(1, 1),
            pad_top=0,
            pad_left=0,
            reduction_channels=source.channels,
            tile=gemm_tile(core, 1, block, source.channels, result.channels),
            lanes=core.lanes,
            low=-math.inf,
            high=math.inf,
            k_loop=k_loop(core),
        )

    return AttentionSpec(queries, target, product(queries, strip), product(strip, replace(target, width=block)))


def panels(name: str, spec: PanelsSpec) -> Any:
    """Write the kernel that lays out keys or values; returns its PrimFunc."""
    product, lanes, pixel = spec.product, spec.product.lanes, spec.source.pixel
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]

        def panel(at: Expr, vectors: int) -> None:
            width, first = vectors * lanes, at * (product.tile.vectors * lanes)
            base = first * (1 + product.reduction)
            with emit.loop(vectors) as vector:
                emit.store(target, base + vector * lanes, emit.splat(0.0, lanes, spec.source.dtype), lanes)
            if spec.summed == "positions":
                with emit.loop(product.reduction) as position, emit.loop(vectors) as vector:
                    value = emit.load(source, position * pixel + first + vector * lanes, lanes)
                    emit.store(target, base + (1 + position) * width + vector * lanes, value, lanes)
                return
            with emit.loop(width) as column:
                inside = first + column < spec.source.width
                with emit.when(inside), emit.loop(product.reduction) as channel:
                    value = emit.load(source, (first + column) * pixel + channel)
                    emit.store(target, base + (1 + channel) * width + column, value)
                with emit.when(emit.negate(inside)), emit.loop(product.reduction) as channel:
                    nothing = emit.splat(0.0, 1, spec.source.dtype)
                    emit.store(target, base + (1 + channel) * width + column, nothing)

        with emit.loop(kernel.end, kernel.begin) as item:
            for_panel(product, item, panel)
    return kernel.function


def attention(name: str, spec: AttentionSpec) -> Any:
    """Write the kernel of a non-local attention; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel:
        buffers = kernel.buffers
        scratch = buffers["scratch"]
        with emit.loop(kernel.end, kernel.begin) as item:
            first = emit.smaller(item * spec.block, spec.queries.width - spec.block)
            queries = {"source": buffers["queries"], "weights": buffers["keys"], "target": scratch}
            convolve_row(spec.scores, queries, Row(lambda _: first * spec.queries.pixel, (0, 1), 0))
            kernel.stage_done("scores")
            with emit.loop(spec.block) as row:
                _softmax(spec, scratch, row * spec.scores.target.pixel)
            kernel.stage_done("softmax")
            values = {"source": scratch, "weights": buffers["values"], "target": buffers["target"]}
            convolve_row(spec.weighted, values, Row(lambda _: 0, (0, 1), first * spec.target.pixel))
            kernel.stage_done("values")
    return kernel.function


def _softmax(spec: AttentionSpec, scores: Any, base: Expr) -> None:
    """Scores of one query to probabilities, in place."""
    lanes, dtype = spec.scores.lanes, spec.queries.dtype
    full, tail = divmod(spec.keys, lanes)
    lowest = float(np.finfo(dtype).min)
    inside = emit.first_lanes(tail, lanes) if tail else None
    largest, total, value = (emit.Registers(1, lanes, dtype) for _ in range(3))

    def each(body: Any) -> None:
        with emit.loop(full) as vector:
            body(base + vector * lanes, lambda found, _: found)
        if inside is not None:
            body(base + full * lanes, lambda found, else_: tirx.Select(inside, found, emit.splat(else_, lanes, dtype)))

    def compare(at: Expr, where: Any) -> None:
        found = where(emit.load(scores, at, lanes), lowest)
        largest.set(0, tirx.max(largest.get(0), found))

    def exponential(at: Expr, where: Any) -> None:
        value.set(0, where(exp(emit.load(scores, at, lanes) - largest.get(0), lanes), 0.0))
        emit.store(scores, at, value.get(0), lanes)
        total.add(0, value.get(0))

    def divide(at: Expr, where: Any) -> None:
        emit.store(scores, at, emit.load(scores, at, lanes) * total.get(0), lanes)

    largest.set(0, emit.splat(lowest, lanes, dtype))
    each(compare)
    largest.set(0, emit.splat(_across(largest.get(0), lanes, tirx.max), lanes, dtype))
    total.set(0, emit.splat(0.0, lanes, dtype))
    each(exponential)
    added = _across(total.get(0), lanes, lambda a, b: a + b)
    total.set(0, emit.splat(tirx.const(1.0, dtype) / added, lanes, dtype))
    each(divide)


def _across(vector: Expr, lanes: int, combine: Any) -> Expr:
    """All lanes of a vector as one value."""
    parts = [emit.lane(vector, index) for index in range(lanes)]
    while len(parts) > 1:
        parts = [combine(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
