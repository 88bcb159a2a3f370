"""Pooling of levels: the maximum as it is, the mean with a scale of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from tsm_edge.compile.backends.cpu.int8.images import ByteImage, load, store
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions, vector_of, whole
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec


@dataclass(frozen=True)
class _PoolSpec(KernelSpec):
    instructions: Instructions
    source: ByteImage
    target: ByteImage

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (Argument("source", "input", "uint8"), Argument("target", "output", "uint8"))

    @property
    def bytes(self) -> int:
        """Image and result."""
        return self.source.value_bytes + self.target.value_bytes


@dataclass(frozen=True)
class Int8AveragePoolSpec(_PoolSpec):
    """Mean over the whole image; ``multiplier`` makes levels of the sum over it."""

    multiplier: float

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "average_pool"

    @property
    def parallel(self) -> Items:
        """Vectors of channels."""
        return Items(self.target.pixel // self.instructions.lanes)

    @property
    def flops(self) -> int:
        """An addition a value."""
        return self.source.values

    def write(self, name: str) -> Any:
        """See :func:`average_pool`."""
        return average_pool(name, self)


@dataclass(frozen=True)
class Int8MaxPoolSpec(_PoolSpec):
    """Spatial maximum; positions outside the image do not take part."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pad_top: int
    pad_left: int

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "max_pool"

    @property
    def parallel(self) -> Items:
        """Output rows."""
        return Items(self.target.height)

    def write(self, name: str) -> Any:
        """See :func:`max_pool`."""
        return max_pool(name, self)


def average_pool(name: str, spec: Int8AveragePoolSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    instructions, image, lanes = spec.instructions, spec.source, spec.instructions.lanes
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as vector:
            total = emit.Registers(1, lanes, "int32")
            total.set(0, whole((instructions.offset - image.zero) * image.height * image.width, lanes))
            with emit.loop(image.height) as y, emit.loop(image.width) as x:
                raw = load(source, emit.pixel_at(image, y, x) + vector * lanes, "uint8", lanes)
                total.add(0, instructions.widen(raw))
            mean = tirx.Cast(vector_of("float32", lanes), total.get(0)) * emit.splat(spec.multiplier, lanes)
            moved = spec.target.zero - instructions.offset
            levels = instructions.round(mean) + whole(moved, lanes) if moved else instructions.round(mean)
            store(target, emit.pixel_at(spec.target, 0, 0) + vector * lanes, instructions.narrow(levels), lanes)
    return kernel.function


def max_pool(name: str, spec: Int8MaxPoolSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    image, made, size = spec.source, spec.target, spec.instructions.vector_bytes
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as y, emit.loop(made.width) as x:
            done = 0
            for wide in (size, spec.instructions.lanes):
                pieces = (made.pixel - done) // wide
                if pieces:
                    start = done
                    with emit.loop(pieces) as piece:
                        channel = start + piece * wide
                        best = _best(spec, source, image, y, x, channel, wide)
                        store(target, emit.pixel_at(made, y, x) + channel, best, wide)
                    done += pieces * wide
    return kernel.function


def _best(spec: Int8MaxPoolSpec, source: Any, image: ByteImage, y: Expr, x: Expr, channel: Expr, size: int) -> Expr:
    """The largest of a window, as bytes; what lies outside the image repeats a pixel that takes part anyway."""
    best: Expr = None
    for ky in range(spec.kernel[0]):
        for kx in range(spec.kernel[1]):
            row = _inside(y * spec.strides[0] + (ky - spec.pad_top), image.height)
            column = _inside(x * spec.strides[1] + (kx - spec.pad_left), image.width)
            value = load(source, emit.pixel_at(image, row, column) + channel, spec.instructions.stored, size)
            best = value if best is None else tirx.max(best, value)
    return best


def _inside(value: Expr, extent: int) -> Expr:
    return emit.smaller(emit.larger(value, 0), extent - 1)
