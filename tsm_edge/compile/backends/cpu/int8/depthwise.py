"""3×3 depthwise convolution on quads: four neighbouring pixels of a channel are one lane of a dot product.

There is no sum over channels, but one over columns. With a kernel row ``A = t0 t1 t2 0`` and ``B = 0 t0 t1 t2`` the
dot products of A and B with a quad give its second and third output, and those with the four pixels in the middle of
two quads the next two: four outputs cost four dot products, one shift and two loads a kernel row. At stride 2, B with
the quad and with the middle give two outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsm_edge.compile.backends.cpu.int8.convolution_spec import (
    Requantised,
    channel_order,
    headers,
)
from tsm_edge.compile.backends.cpu.int8.epilogue import Rounding
from tsm_edge.compile.backends.cpu.int8.images import ByteImage, load, store, stored_zero, word_of
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions, whole
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.quantisation import IntegerConvolution

KERNEL = 3
# Vectors of channels that are packed together.
TOGETHER = 4


@dataclass(frozen=True)
class Output:
    """One of the outputs between two quads.

    Attributes
    ----------
    column : int
        Counted from the first.
    middle : bool
        Of the pixels in the middle of the two quads, not of the first.
    shifted : bool
        With weights B.
    """

    column: int
    middle: bool
    shifted: bool


OUTPUTS = {
    1: (Output(0, False, False), Output(1, False, True), Output(2, True, False), Output(3, True, True)),
    2: (Output(0, False, True), Output(1, True, True)),
}


@dataclass(frozen=True)
class Int8DepthwiseSpec(KernelSpec):
    """Everything a depthwise kernel's code depends on; ``source`` is in quads."""

    instructions: Instructions
    source: ByteImage
    target: ByteImage
    stride: int
    made: Requantised

    @property
    def vectors(self) -> int:
        """Vectors of channels."""
        return ceil_div(self.target.channels, self.instructions.lanes)

    @property
    def blocks(self) -> int:
        """Blocks of :data:`TOGETHER` vectors, the last one narrower."""
        return ceil_div(self.vectors, TOGETHER)

    @property
    def header_vectors(self) -> int:
        """Vectors before a vector's weights."""
        return 3 if self.made.magic else 2

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector's weights: A and B of every kernel row."""
        return (self.header_vectors + 2 * KERNEL) * self.instructions.vector_bytes

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "depthwise"

    @property
    def parallel(self) -> Items:
        """(Block of channels, output row) pairs, the row running fastest."""
        return Items(self.target.height * self.blocks)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order; bytes, whatever lies in them."""
        return (
            Argument("source", "input", "uint8"),
            Argument("weights", "weights", "uint8"),
            Argument("target", "output", "uint8"),
        )

    @property
    def weights(self) -> int:
        """Weights, as many as multiply-adds a pixel."""
        return self.target.channels * KERNEL * KERNEL

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.target.height * self.target.width * self.weights

    @property
    def bytes(self) -> int:
        """Image, weights and result."""
        return self.source.value_bytes + self.weights + self.target.value_bytes

    def describe(self) -> str:
        """How pixels are taken."""
        return f"int8 quads{', no conversion' if self.made.magic else ''}"

    def write(self, name: str) -> Any:
        """See :func:`depthwise`."""
        return depthwise(name, self)


def pack_depthwise(spec: Int8DepthwiseSpec, integers: IntegerConvolution) -> np.ndarray:
    """Bytes of every vector: its header, then A and B of every kernel row."""
    instructions, channels = spec.instructions, spec.target.channels
    parts = []
    for lanes in channel_order(spec.vectors, instructions.lanes):
        inside = lanes < channels
        at = np.where(inside, lanes, 0)
        parts += headers(integers, instructions, at, inside)
        taps = np.where(inside[:, None, None], integers.weight[at, 0], 0)  # [lane][row][column]
        for row in range(KERNEL):
            for first in (0, 1):
                quad = np.zeros((instructions.lanes, 4), np.int8)
                quad[:, first : first + KERNEL] = taps[:, row]
                order = instructions.weight_order
                parts.append(np.array([quad[lane, term] for lane, term in order], np.int8).tobytes())
    return np.frombuffer(b"".join(parts), np.uint8)


@dataclass(frozen=True)
class DepthwiseRow:
    """Where the outputs of a row and a block of channels come from and go to.

    Attributes
    ----------
    source : callable
        Kernel row → where the block begins in its first quad.
    target : Expr
        The block in the first pixel.
    vector : Expr
        Its first vector, of all.
    vectors : int
    """

    source: Callable[[int], Expr]
    target: Expr
    vector: Expr
    vectors: int


def depthwise(name: str, spec: Int8DepthwiseSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    image, size = spec.source, spec.instructions.vector_bytes
    with emit.kernel(name, spec) as kernel, emit.loop(kernel.end, kernel.begin) as item:
        block, y = emit.div(item, spec.target.height), emit.mod(item, spec.target.height)
        top = image.origin + (y * spec.stride - 1) * image.row

        def row(at: Expr, vectors: int) -> None:
            start = top + at * (TOGETHER * size)
            target = emit.pixel_at(spec.target, y, 0) + at * (TOGETHER * spec.instructions.lanes)
            rows = DepthwiseRow(lambda ky: start + ky * image.row, target, at * TOGETHER, vectors)
            depthwise_row(spec, kernel.buffers, rows)

        for_block(spec.vectors, block, row)
    return kernel.function


def for_block(vectors: int, block: Expr, body: Callable[[Expr, int], None]) -> None:
    """Write ``body(block, its vectors)`` for one of the blocks of some vectors, the last one narrower."""
    full, tail = divmod(vectors, TOGETHER)
    if not tail:
        body(block, TOGETHER)
    elif not full:
        body(0, tail)
    else:
        with emit.when(block < full):
            body(block, TOGETHER)
        with emit.when(block >= full):
            body(full, tail)


def depthwise_row(spec: Int8DepthwiseSpec, buffers: Buffers, row: DepthwiseRow) -> None:
    """All columns of an output row; where all outputs between two quads are inside, in a loop."""
    outputs, quads, width = OUTPUTS[spec.stride], ceil_div(spec.source.width, 4), spec.target.width
    step = len(outputs)

    def inside(quad: int) -> list[Output]:
        return [output for output in outputs if 0 <= quad * step + 1 + output.column < width]

    inner = [quad for quad in range(quads - 1) if len(inside(quad)) == step]
    for quad in range(-1, quads):
        if inner and quad == inner[0]:
            with emit.loop(len(inner)) as index:
                # LLVM takes weights that are the same in every turn out of the loop: more than there are registers.
                apart = index * emit.hidden_zero(0)
                _between(spec, buffers, row, inner[0] + index, list(outputs), apart)
        if quad not in inner and inside(quad):
            _between(spec, buffers, row, quad, inside(quad), row.target * emit.hidden_zero(int(quad >= 0)))


def _between(
    spec: Int8DepthwiseSpec,
    buffers: Buffers,
    place: DepthwiseRow,
    quad: Expr,
    outputs: list[Output],
    apart: Expr = 0,
) -> None:
    """The outputs between a quad and the next, of a block of channels; ``apart`` is zero, to be added to addresses."""
    vectors = place.vectors
    instructions = spec.instructions
    lanes, size = instructions.lanes, instructions.vector_bytes
    sums = emit.Registers(len(outputs) * vectors, lanes, "int32")
    weights = buffers["weights"]

    def base_of(vector: int) -> Expr:
        return (place.vector + vector) * spec.vector_bytes + apart

    def begin(vector: int) -> None:
        start = load(weights, base_of(vector), "int32", lanes)
        for index in range(len(outputs)):
            sums.set(index * vectors + vector, start)

    def add(vector: int, row: int) -> None:
        first, middle = _pixels(spec, buffers["source"], place.source(row) + vector * size, quad, outputs)
        for index, output in enumerate(outputs):
            which = spec.header_vectors + 2 * row + int(output.shifted)
            weight = load(weights, base_of(vector) + which * size, "int8", size)
            at = index * vectors + vector
            sums.set(at, instructions.dot(sums.get(at), middle if output.middle else first, weight))

    # Without dot products a row's products stay in registers, too, until they are added.
    together = 1 if instructions.kind == "mlal" else KERNEL
    parts = [(vector, row) for vector in range(vectors) for row in range(0, KERNEL, together)]
    for number, (vector, first) in enumerate(parts):
        with _in_a_block(number > 0 and instructions.arm, quad, apart, number):
            if not first:
                begin(vector)
            for row in range(first, first + together):
                add(vector, row)
    _store(spec, buffers, sums, place, quad, outputs, apart)


def _in_a_block(split: bool, quad: Expr, apart: Expr, number: int) -> contextlib.AbstractContextManager[None]:
    """A basic block of its own, by a condition that always holds, which LLVM cannot know.

    LLVM would do the products of all vectors before it adds them: more than there are registers. Two blocks in a row
    with the same condition it would make one.
    """
    if not split or isinstance(quad, int):
        return contextlib.nullcontext()
    other = emit.hidden_zero(1)
    conditions = (emit.equal(apart, 0), emit.equal(quad * other, 0), emit.equal(apart, other))
    return emit.when(conditions[(number - 1) % len(conditions)])


def _pixels(spec: Int8DepthwiseSpec, source: Any, start: Expr, quad: Expr, outputs: list[Output]) -> tuple[Expr, Expr]:
    """A quad of a vector, and the middle of it and the next; beyond the row there is zero."""
    instructions, image = spec.instructions, spec.source
    lanes, quads = instructions.lanes, ceil_div(image.width, 4)

    def at(index: Expr) -> Expr:
        if isinstance(index, int) and not 0 <= index < quads:
            return whole(word_of(stored_zero(image, instructions)), lanes)
        return load(source, start + index * image.across, "int32", lanes)

    first = at(quad)
    plain = instructions.arranged(first) if any(not output.middle for output in outputs) else None
    if not any(output.middle for output in outputs):
        return plain, None
    return plain, instructions.arranged(instructions.middle(first, at(quad + 1)))


def _store(
    spec: Int8DepthwiseSpec,
    buffers: Buffers,
    sums: emit.Registers,
    place: DepthwiseRow,
    quad: Expr,
    outputs: list[Output],
    apart: Expr,
) -> None:
    instructions, vectors = spec.instructions, place.vectors
    lanes, size = instructions.lanes, instructions.vector_bytes
    rounding = Rounding(instructions, spec.made)

    def header(vector: int, which: int) -> Expr:
        at = (place.vector + vector) * spec.vector_bytes + which * size + apart
        return load(buffers["weights"], at, "float32", lanes)

    for index, output in enumerate(outputs):
        column = quad * len(OUTPUTS[spec.stride]) + 1 + output.column
        at = place.target + column * spec.target.pixel
        levels = [
            rounding.levels(
                sums.get(index * vectors + vector), header(vector, 1), header(vector, 2) if spec.made.magic else None
            )
            for vector in range(vectors)
        ]
        if vectors == TOGETHER:
            store(buffers["target"], at, instructions.pack(levels, rounding.biased), size)
            continue
        for vector, value in enumerate(levels):
            store(buffers["target"], at + vector * lanes, instructions.narrow(value, rounding.biased), lanes)
