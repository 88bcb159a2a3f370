"""float32 to levels and back: the camera frame, and what operators without an integer form read and make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.cpu.int8.images import (
    ByteImage,
    fill_border_of_row,
    load,
    store,
)
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions, vector_of, whole
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.scale import LEVELS

FLOAT_BYTES = 4


@dataclass(frozen=True)
class _ConversionSpec(KernelSpec):
    """What both directions have in common; ``step`` is the tensor's."""

    instructions: Instructions
    source: Image
    target: Image
    step: float

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order; bytes, whatever lies in them."""
        return (Argument("source", "input", "uint8"), Argument("target", "output", "uint8"))

    @property
    def parallel(self) -> Items:
        """Image rows."""
        return Items(self.target.height)

    @property
    def bytes(self) -> int:
        """Everything once in and once out."""
        return self.source.value_bytes + self.target.value_bytes


@dataclass(frozen=True)
class QuantiseSpec(_ConversionSpec):
    """float32, NHWC or the planar frame, to levels; a frame's pixel is four bytes, the last of them zero."""

    target: ByteImage

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "quantise"

    def write(self, name: str) -> Any:
        """See :func:`quantise`."""
        return quantise(name, self)


@dataclass(frozen=True)
class DequantiseSpec(_ConversionSpec):
    """Levels to float32 NHWC; lanes beyond the last channel are zero."""

    source: ByteImage

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "dequantise"

    def write(self, name: str) -> Any:
        """See :func:`dequantise`."""
        return dequantise(name, self)


def quantise(name: str, spec: QuantiseSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    row = _planar_row if spec.source.channel > 1 else _row
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as y:
            row(spec, source, target, y)
            fill_border_of_row(target, spec.target, y, spec.instructions)
    return kernel.function


def _row(spec: QuantiseSpec, source: Any, target: Any, y: Expr) -> None:
    image, made, lanes = spec.source, spec.target, spec.instructions.lanes
    vectors = min(image.pixel, made.pixel) // lanes
    with emit.loop(made.width) as x, emit.loop(vectors) as vector:
        at = (emit.pixel_at(image, y, x) + vector * lanes) * FLOAT_BYTES
        value = _stored(spec, load(source, at, "float32", lanes), lanes)
        narrow = spec.instructions.narrow(value, lanes=lanes)
        store(target, emit.pixel_at(made, y, x) + vector * lanes, narrow, lanes)


def _planar_row(spec: QuantiseSpec, source: Any, target: Any, y: Expr) -> None:
    """Three planes at once: a pixel's bytes are shifted together in an int32."""
    image, made = spec.source, spec.target
    lanes = next(size for size in (spec.instructions.lanes, 4, 1) if size <= image.width)
    with emit.tiled_loop(image.width, lanes) as x:
        pixels: Expr = None
        for channel in range(image.channels):
            at = (channel * image.channel + y * image.row + x) * FLOAT_BYTES
            value = _stored(spec, load(source, at, "float32", lanes), lanes)
            value = value & whole(255, lanes) if spec.instructions.arm else value
            value = tirx.shift_left(value, whole(8 * channel, lanes)) if channel else value
            pixels = value if pixels is None else pixels | value
        store(target, emit.pixel_at(made, y, x), pixels, 4 * lanes)


def _stored(spec: QuantiseSpec, values: Expr, lanes: int) -> Expr:
    """float32 to stored levels, int32."""
    zero = spec.target.zero
    inverse = float(np.float32(1.0) / np.float32(spec.step))
    scaled = emit.clamp(values * emit.splat(inverse, lanes), float(-zero), float(LEVELS - zero), lanes)
    rounded = spec.instructions.round(scaled, lanes)
    moved = zero - spec.instructions.offset
    return rounded + whole(moved, lanes) if moved else rounded


def dequantise(name: str, spec: DequantiseSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    instructions, image, made = spec.instructions, spec.source, spec.target
    lanes = instructions.lanes
    size = FLOAT_BYTES * lanes
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as y, emit.loop(made.width) as x:
            read, write = emit.pixel_at(image, y, x), emit.pixel_at(made, y, x) * FLOAT_BYTES

            def vector(index: Expr, inside: int) -> None:
                stored = load(source, read + index * lanes, "uint8", lanes)
                shifted = instructions.widen(stored) - whole(image.zero - instructions.offset, lanes)
                value = tirx.Cast(vector_of("float32", lanes), shifted) * emit.splat(spec.step, lanes)
                if inside < lanes:
                    value = tirx.Select(emit.first_lanes(inside, lanes), value, emit.splat(0.0, lanes))
                store(target, write + index * size, value, size)

            full, rest = divmod(made.channels, lanes)
            if full:
                with emit.loop(full) as index:
                    vector(index, lanes)
            if rest:
                vector(full, rest)
            for empty in range(ceil_div(made.channels, lanes), made.pixel // lanes):
                store(target, write + empty * size, emit.splat(0.0, lanes), size)
    return kernel.function
