"""Max pooling over NHWC, a vector of channels at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Part, zero_border
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class MaxPoolSpec(KernelSpec):
    """Spatial maximum; positions outside the image do not take part (they are skipped, not read as zero)."""

    source: Image
    target: Image
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pad_top: int
    pad_left: int
    lanes: int

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "max_pool"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (
            Argument("source", "input", self.source.dtype),
            Argument("target", "output", self.target.dtype),
        )

    @property
    def parallel(self) -> Items:
        """Output rows of all frames."""
        return Items(self.target.rows)

    @property
    def bytes(self) -> int:
        """Image and result."""
        return self.source.bytes + self.target.bytes

    def write(self, name: str) -> Any:
        """See :func:`max_pool`."""
        return max_pool(name, self)


def _lower(at: Lowering, layer: ir.MaxPool) -> None:
    source = at.tensors.vectors(layer.source)
    target = at.tensors.output(layer.output)
    top, left = layer.pads[:2]
    spec = MaxPoolSpec(source.image, target.image, layer.kernel, layer.strides, top, left, at.lanes)
    at.call(spec, {"source": source.buffer, "target": target.buffer}, at.label((layer,)))


RULE = Rule("max_pool", lambda unit: isinstance(unit, ir.MaxPool), _lower)


def max_pool(name: str, spec: MaxPoolSpec) -> Any:
    """Write the kernel of a max pooling; returns its PrimFunc."""
    lanes, source_image, target_image = spec.lanes, spec.source, spec.target
    lowest = float(np.finfo(source_image.dtype).min)
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as item, emit.loop(target_image.width) as x:
            frame, y = emit.in_frame(item, target_image.height, target_image.frames)
            with emit.loop(target_image.pixel // lanes) as vector:
                best = emit.Registers(1, lanes, source_image.dtype)
                best.set(0, emit.splat(lowest, lanes, source_image.dtype))
                for ky in range(spec.kernel[0]):
                    for kx in range(spec.kernel[1]):
                        # Clamping to the image repeats a pixel that takes part anyway.
                        row = _clamped(y * spec.strides[0] + (ky - spec.pad_top), source_image.height)
                        column = _clamped(x * spec.strides[1] + (kx - spec.pad_left), source_image.width)
                        at = emit.pixel_at(source_image, row, column, frame)
                        best.set(0, tirx.max(best.get(0), emit.load(source, at + vector * lanes, lanes)))
                at = emit.pixel_at(target_image, y, x, frame)
                emit.store(target, at + vector * lanes, best.get(0), lanes)
            zero_border(target, target_image, Part(y, x, frame), lanes)
    return kernel.function


def _clamped(value: Any, extent: int) -> Any:
    return tirx.min(tirx.max(value, 0), extent - 1)
