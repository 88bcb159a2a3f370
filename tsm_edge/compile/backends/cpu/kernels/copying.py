"""Copies between layouts: the padded camera frame, shift caches taken off an image, borders added, NHWC ↔ NCHW."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Part, zero_border
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class CopySpec(KernelSpec):
    """Copy the first channels of ``source`` into ``target``, whose border is zeroed and whose layout may differ."""

    source: Image
    target: Image
    lanes: int

    @property
    def planar(self) -> bool:
        """Whether both images are NCHW."""
        return self.source.channel > 1 and self.target.channel > 1

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "copy"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (
            Argument("source", "input", self.source.dtype),
            Argument("target", "output", self.target.dtype),
        )

    @property
    def parallel(self) -> Items:
        """Image rows of all frames (of each channel, between planar images)."""
        return Items(self.target.rows * (self.target.channels if self.planar else 1))

    @property
    def bytes(self) -> int:
        """What is read of the source, and the target with its border."""
        read = self.target.rows * self.target.width * min(self.source.channels, self.target.channels)
        return read * item_bytes(self.source.dtype) + self.target.bytes

    def write(self, name: str) -> Any:
        """See :func:`copy`."""
        return copy(name, self)


def copy(name: str, spec: CopySpec) -> Any:
    """Write the kernel of a copy; returns its PrimFunc."""
    if spec.planar:
        return _copy_planes(name, spec)
    # A planar image of one pixel has channel stride 1 as well: what tells NHWC images is their whole quads of channels.
    if all(image.channel == 1 and image.pixel % 4 == 0 for image in (spec.source, spec.target)):
        return _copy_pixels(name, spec)
    return _transpose(name, spec)


def _copy_planes(name: str, spec: CopySpec) -> Any:
    """NCHW → NCHW with a border: whole rows, as vectors."""
    source_image, image, lanes = spec.source, spec.target, spec.lanes
    border, total = image.border, image.row
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as item:
            frame, plane_row = emit.in_frame(item, image.channels * image.height, image.frames)
            channel, y = emit.div(plane_row, image.height), emit.mod(plane_row, image.height)
            read = emit.start_of(source_image, frame) + channel * source_image.channel + y * source_image.row
            write = emit.start_of(image, frame) + channel * image.channel + y * image.row
            _copy_run(source, read, target, write, image.width, lanes, image.dtype)
            for x in (*range(-border.left, 0), *range(image.width, image.width + border.right)):
                emit.store(target, write + x, emit.splat(0.0, 1, image.dtype))
            for rows, at, start in ((border.top, 0, -border.top), (border.bottom, image.height - 1, image.height)):
                if rows:
                    only_row = image.height == 1
                    with emit.when_unsure(only_row or y == at), emit.loop(rows * total) as x:
                        base = emit.start_of(image, frame) + channel * image.channel + start * image.row - border.left
                        emit.store(target, base + x, emit.splat(0.0, 1, image.dtype))
    return kernel.function


def _copy_run(source: Any, read: Any, target: Any, write: Any, count: int, lanes: int, dtype: str) -> None:
    """Copy ``count`` consecutive values; the last vector is moved back to end with the run."""
    if count < lanes:
        with emit.loop(count) as x:
            emit.store(target, write + x, emit.cast(emit.load(source, read + x), dtype, 1))
        return
    with emit.loop(ceil_div(count, lanes)) as vector:
        x = emit.smaller(vector * lanes, count - lanes) if count % lanes else vector * lanes
        emit.store(target, write + x, emit.cast(emit.load(source, read + x, lanes), dtype, lanes), lanes)


def _copy_pixels(name: str, spec: CopySpec) -> Any:
    """NHWC → NHWC with another border or fewer channels."""
    source_image, image = spec.source, spec.target
    lanes = spec.lanes if image.pixel % spec.lanes == 0 and source_image.pixel >= image.pixel else 4
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as item, emit.loop(image.width) as x:
            frame, y = emit.in_frame(item, image.height, image.frames)
            read = emit.pixel_at(source_image, y, x, frame)
            write = emit.pixel_at(image, y, x, frame)
            shared = min(image.pixel, source_image.pixel)
            with emit.loop(shared // lanes) as vector:
                value = emit.cast(emit.load(source, read + vector * lanes, lanes), image.dtype, lanes)
                emit.store(target, write + vector * lanes, value, lanes)
            with emit.loop((image.pixel - shared) // lanes) as vector:
                zero = emit.splat(0.0, lanes, image.dtype)
                emit.store(target, write + shared + vector * lanes, zero, lanes)
            zero_border(target, image, Part(y, x, frame), lanes)
    return kernel.function


def _transpose(name: str, spec: CopySpec) -> Any:
    """NCHW ↔ NHWC, element by element; lanes beyond the last channel are zeroed."""
    source_image, image = spec.source, spec.target
    channels = min(source_image.channels, image.channels)
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as item, emit.loop(image.width) as x:
            frame, y = emit.in_frame(item, image.height, image.frames)
            read = emit.pixel_at(source_image, y, x, frame)
            write = emit.pixel_at(image, y, x, frame)
            with emit.loop(channels) as channel:
                value = emit.cast(emit.load(source, read + channel * source_image.channel), image.dtype, 1)
                emit.store(target, write + channel * image.channel, value)
            if image.channel == 1:
                if image.pixel > channels:
                    with emit.loop(image.pixel, channels) as channel:
                        emit.store(target, write + channel, emit.splat(0.0, 1, image.dtype))
                zero_border(target, image, Part(y, x, frame), 4)
    return kernel.function
