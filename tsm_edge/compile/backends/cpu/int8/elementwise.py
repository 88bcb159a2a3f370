"""Element-wise operators on levels: by a table, or the sum or product of two tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.cpu.int8.images import ByteImage, fill_border_of_row, load, store
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions, fused, vector_of, whole
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.elementwise_levels import form_on_levels, level_bounds, multipliers
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.quantisation import level_of_each
from tsm_edge.compile.ir.scale import LEVELS


@dataclass(frozen=True)
class Int8ElementwiseSpec(KernelSpec):
    """Everything the code depends on.

    Attributes
    ----------
    instructions : Instructions
    operation : str
        ONNX's name, for people.
    operands : tuple of ByteImage
        One is read through a table. Of two, an image of one pixel is used at every pixel.
    target : ByteImage
    multipliers : tuple of float
        None of a table, two of a sum, one of a product: see ``ir/elementwise_levels.py``.
    low, high : int
        Bounds of the levels.
    """

    instructions: Instructions
    operation: str
    operands: tuple[ByteImage, ...]
    target: ByteImage
    multipliers: tuple[float, ...] = ()
    low: int = 0
    high: int = LEVELS

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "elementwise"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        table = () if self.multipliers else (Argument("table", "weights", "uint8"),)
        inputs = [Argument(f"operand{index}", "input", "uint8") for index in range(len(self.operands))]
        return (*inputs, Argument("target", "output", "uint8"), *table)

    @property
    def parallel(self) -> Items:
        """Image rows."""
        return Items(self.target.height)

    @property
    def flops(self) -> int:
        """One a multiplier."""
        return len(self.multipliers) * self.target.values

    @property
    def bytes(self) -> int:
        """Images in and out."""
        return sum(image.value_bytes for image in (*self.operands, self.target))

    def describe(self) -> str:
        """The operation."""
        return f"{self.operation}, int8{'' if self.multipliers else ' by a table'}"

    def write(self, name: str) -> Any:
        """See :func:`elementwise`."""
        return elementwise(name, self)


def lower_elementwise(at: ByteLowering, layer: ir.Elementwise) -> None:
    """Turn an operator with a form on levels into a call."""
    form, made = form_on_levels(layer), at.scale(layer.output)
    names = ir.layer_sources(layer)
    found = [at.levels(name, step=at.instructions.lanes) for name in names]
    target = at.image(layer.output, at.border(layer.output))
    images = tuple(levels.image for levels in found)
    buffers = {f"operand{index}": levels.buffer for index, levels in enumerate(found)}
    if form == "table":
        spec = Int8ElementwiseSpec(at.instructions, layer.operation, images, target)
        levels = level_of_each(layer, at.scale(names[0]), made)
        buffers["table"] = at.add_weights(_as_stored(levels, at.instructions.offset))
    else:
        first, second = (at.scale(name).step for name in names)
        by = multipliers(layer, (first, second), made.step)
        bounds = level_bounds(layer.clamp, made.step, made.zero)
        spec = Int8ElementwiseSpec(at.instructions, layer.operation, images, target, by, *bounds)
    at.floats.call(spec, buffers | {"target": at.make(layer.output, target)}, at.floats.label((layer,)))


def _as_stored(levels: np.ndarray, offset: int) -> np.ndarray:
    """A table from levels to levels as one from stored bytes to stored bytes."""
    stored: np.ndarray = (np.roll(levels, -offset).astype(np.int64) - offset).astype(np.uint8)
    return stored


def elementwise(name: str, spec: Int8ElementwiseSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    image = spec.target
    with emit.kernel(name, spec) as kernel, emit.loop(kernel.end, kernel.begin) as y:
        with emit.loop(image.width) as x:
            reads = [
                emit.pixel_at(operand, *((0, 0) if (operand.height, operand.width) == (1, 1) else (y, x)))
                for operand in spec.operands
            ]
            pixel = _pixel if spec.multipliers else _pixel_by_table
            pixel(spec, kernel.buffers, reads, emit.pixel_at(image, y, x))
        fill_border_of_row(kernel.buffers["target"], image, y, spec.instructions)
    return kernel.function


def _pixel_by_table(spec: Int8ElementwiseSpec, buffers: Buffers, reads: list[Expr], write: Expr) -> None:
    with emit.loop(min(spec.operands[0].pixel, spec.target.pixel)) as channel:
        stored = tirx.Cast("int32", load(buffers["operand0"], reads[0] + channel, "uint8"))
        store(buffers["target"], write + channel, buffers["table"][stored], 1)


def _pixel(spec: Int8ElementwiseSpec, buffers: Buffers, reads: list[Expr], write: Expr) -> None:
    lanes = spec.instructions.lanes
    with emit.loop(min(image.pixel for image in (*spec.operands, spec.target)) // lanes) as vector:
        raw = [
            load(buffers[f"operand{index}"], read + vector * lanes, "uint8", lanes) for index, read in enumerate(reads)
        ]
        store(buffers["target"], write + vector * lanes, _levels(spec, raw), lanes)


def _levels(spec: Int8ElementwiseSpec, raw: list[Expr]) -> Expr:
    """A vector of stored levels of two."""
    instructions, lanes = spec.instructions, spec.instructions.lanes
    kind, offset = vector_of("float32", lanes), spec.instructions.offset
    first, second = (
        instructions.widen(stored) - whole(operand.zero - offset, lanes)
        for stored, operand in zip(raw, spec.operands, strict=True)
    )
    if len(spec.multipliers) == 1:
        value = tirx.Cast(kind, first * second) * emit.splat(spec.multipliers[0], lanes)
    else:
        by = [emit.splat(multiplier, lanes) for multiplier in spec.multipliers]
        value = fused(tirx.Cast(kind, first), by[0], tirx.Cast(kind, second) * by[1], lanes)
    level = instructions.round(value) + whole(spec.target.zero - offset, lanes)
    if spec.low > 0:
        level = tirx.max(level, whole(spec.low - offset, lanes))
    if spec.high < LEVELS:
        level = tirx.min(level, whole(spec.high - offset, lanes))
    return instructions.narrow(level)
