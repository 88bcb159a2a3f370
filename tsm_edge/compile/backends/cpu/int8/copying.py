"""Copies of levels: a shift cache taken off an image, another border, the shift as a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.int8.images import (
    ByteImage,
    copy_bytes,
    fill_border_of_row,
    load,
    repeated,
    store,
    stored_zero,
)
from tsm_edge.compile.backends.cpu.int8.instructions import Instructions
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec


@dataclass(frozen=True)
class CopyLevelsSpec(KernelSpec):
    """Copy the first channels of ``source``; those of ``cache``, if there is one, take the place of its first ones."""

    instructions: Instructions
    source: ByteImage
    target: ByteImage
    cache: ByteImage | None = None

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "copy" if self.cache is None else "shift"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        cache = (Argument("cache", "cache", "uint8"),) if self.cache is not None else ()
        return (Argument("source", "input", "uint8"), Argument("target", "output", "uint8"), *cache)

    @property
    def parallel(self) -> Items:
        """Image rows."""
        return Items(self.target.height)

    @property
    def bytes(self) -> int:
        """Everything once in and once out."""
        return 2 * self.target.value_bytes

    def write(self, name: str) -> Any:
        """See :func:`copy_levels`."""
        return copy_levels(name, self)


def copy_levels(name: str, spec: CopyLevelsSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    source_image, image, cache = spec.source, spec.target, spec.cache
    with emit.kernel(name, spec) as kernel:
        buffers = kernel.buffers
        source, target = buffers["source"], buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as y:
            with emit.loop(image.width) as x:
                read, write = emit.pixel_at(source_image, y, x), emit.pixel_at(image, y, x)
                copy_bytes(source, read, target, write, min(source_image.pixel, image.pixel))
                if cache is not None:
                    copy_bytes(buffers["cache"], emit.pixel_at(cache, y, x), target, write, cache.channels)
            fill_border_of_row(target, image, y, spec.instructions)
    return kernel.function


@dataclass(frozen=True)
class ToQuadsSpec(KernelSpec):
    """NHWC to quads, where the layer before a depthwise convolution does not make them itself."""

    instructions: Instructions
    source: ByteImage
    target: ByteImage

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "to_quads"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (Argument("source", "input", "uint8"), Argument("target", "output", "uint8"))

    @property
    def parallel(self) -> Items:
        """Image rows."""
        return Items(self.target.height)

    @property
    def bytes(self) -> int:
        """Everything once in and once out."""
        return 2 * self.target.value_bytes

    def write(self, name: str) -> Any:
        """See :func:`to_quads`."""
        return to_quads(name, self)


def to_quads(name: str, spec: ToQuadsSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    image, made = spec.source, spec.target
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as y:
            write, across = made.origin + y * made.row, made.across
            full, rest = divmod(image.width, 4)
            if full:
                with emit.loop(full) as quad:
                    _cells(spec, source, emit.pixel_at(image, y, quad * 4), target, write + quad * across, 4)
            if rest:
                _cells(spec, source, emit.pixel_at(image, y, full * 4), target, write + full * across, rest)
            byte = stored_zero(made, spec.instructions)
            for rows, at, row in ((made.border.top, 0, -1), (made.border.bottom, made.height - 1, made.height)):
                if rows:
                    with emit.when_unsure(made.height == 1 or emit.equal(y, at)), emit.loop(made.row // 4) as word:
                        store(target, made.origin + row * made.row + word * 4, repeated(byte, 4), 4)
    return kernel.function


def _cells(spec: ToQuadsSpec, source: Any, read: Expr, target: Any, write: Expr, columns: int) -> None:
    """Four columns of all channels, those beyond the row zero."""
    lanes, size = spec.instructions.lanes, spec.instructions.vector_bytes
    byte = stored_zero(spec.target, spec.instructions)
    groups, rest = divmod(ceil_div(spec.target.channels, lanes), 4)

    def lane_of(cell: Expr, lane: Expr, channel: Expr) -> None:
        for column in range(4):
            inside = column < columns
            value = load(source, read + column * spec.source.pixel + channel, "uint8") if inside else repeated(byte, 1)
            store(target, write + cell + lane * 4 + column, value, 1)

    if groups:
        with emit.loop(groups) as group, emit.loop(lanes) as lane:
            for part in range(4):  # as ``channel_order`` has them
                channel = group * (4 * lanes) + emit.div(lane, 4) * 16 + 4 * part + emit.mod(lane, 4)
                lane_of((group * 4 + part) * size, lane, channel)
    if rest:
        with emit.loop(rest) as vector, emit.loop(lanes) as lane:
            whole = groups * 4 + vector
            lane_of(whole * size, lane, whole * lanes + lane)
