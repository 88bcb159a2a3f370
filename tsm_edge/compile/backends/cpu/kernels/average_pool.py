"""Global average pooling over NHWC, a vector of channels at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class AveragePoolSpec(KernelSpec):
    """Mean over the whole image, of every frame."""

    source: Image
    target: Image
    lanes: int

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "average_pool"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (
            Argument("source", "input", self.source.dtype),
            Argument("target", "output", self.target.dtype),
        )

    @property
    def parallel(self) -> Items:
        """Vectors of channels of every frame."""
        return Items(self.target.frames * self.vectors)

    @property
    def vectors(self) -> int:
        """Vectors of a pixel."""
        return self.target.pixel // self.lanes

    @property
    def flops(self) -> int:
        """An addition a value."""
        return self.source.values

    @property
    def bytes(self) -> int:
        """The image; the result is one pixel of it, or of every frame."""
        return self.source.bytes

    def write(self, name: str) -> Any:
        """See :func:`global_average_pool`."""
        return global_average_pool(name, self)


def _lower(at: Lowering, layer: ir.GlobalAveragePool) -> None:
    source = at.tensors.vectors(layer.source)
    target = at.tensors.output(layer.output)
    spec = AveragePoolSpec(source.image, target.image, at.lanes)
    at.call(spec, {"source": source.buffer, "target": target.buffer}, at.label((layer,)))


RULE = Rule("average_pool", lambda unit: isinstance(unit, ir.GlobalAveragePool), _lower)


def _lower_mean(at: Lowering, layer: ir.FrameMean) -> None:
    """Frames of one pixel each are the pixels of one image."""
    source = at.tensors.vectors(layer.source)
    target = at.tensors.output(layer.output)
    spec = AveragePoolSpec(source.image.flat(), target.image, at.lanes)
    at.call(spec, {"source": source.buffer, "target": target.buffer}, at.label((layer,)))


FRAME_MEAN = Rule("frame_mean", lambda unit: isinstance(unit, ir.FrameMean), _lower_mean)


def global_average_pool(name: str, spec: AveragePoolSpec) -> Any:
    """Write the kernel of a global average pooling; returns its PrimFunc."""
    lanes, image = spec.lanes, spec.source
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as item:
            frame, vector = emit.in_frame(item, spec.vectors, spec.target.frames)
            total = emit.Registers(1, lanes)
            total.set(0, emit.splat(0.0, lanes))
            with emit.loop(image.height) as y, emit.loop(image.width) as x:
                at = emit.pixel_at(image, y, x, frame) + vector * lanes
                total.add(0, emit.cast(emit.load(source, at, lanes), "float32", lanes))
            scale = 1.0 / (image.height * image.width)
            mean = emit.cast(total.get(0) * emit.splat(scale, lanes), spec.target.dtype, lanes)
            emit.store(target, emit.start_of(spec.target, frame) + vector * lanes, mean, lanes)
    return kernel.function
