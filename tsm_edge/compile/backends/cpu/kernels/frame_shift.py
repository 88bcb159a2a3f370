"""A shift between the frames of a clip as a tensor, where its reader cannot take channels of several frames itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Part, zero_border
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layers import FrameRun
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class FrameShiftSpec(KernelSpec):
    """``target`` is ``source`` with the first channels, run after run, of other frames; its border is zeroed."""

    source: Image
    target: Image
    runs: tuple[FrameRun, ...]
    lanes: int

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "frame_shift"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        dtype = self.source.dtype
        return (Argument("source", "input", dtype), Argument("target", "output", dtype))

    @property
    def parallel(self) -> Items:
        """Image rows of all frames."""
        return Items(self.target.rows)

    @property
    def bytes(self) -> int:
        """Everything once in and once out."""
        return 2 * self.target.bytes

    def write(self, name: str) -> Any:
        """See :func:`frame_shift`."""
        return frame_shift(name, self)


def _lower(at: Lowering, layer: ir.FrameShift) -> None:
    source = at.tensors.vectors(layer.source)
    target = at.tensors.output(layer.output)
    spec = FrameShiftSpec(source.image, target.image, layer.runs, at.lanes)
    at.call(spec, {"source": source.buffer, "target": target.buffer}, at.label((layer,)))


RULE = Rule("frame_shift", lambda unit: isinstance(unit, ir.FrameShift), _lower)


def frame_shift(name: str, spec: FrameShiftSpec) -> Any:
    """Write the kernel of a materialised shift; returns its PrimFunc."""
    image, lanes = spec.target, spec.lanes
    with emit.kernel(name, spec) as kernel:
        source, target = kernel.buffers["source"], kernel.buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as item, emit.loop(image.width) as x:
            frame, y = emit.in_frame(item, image.height, image.frames)
            read = emit.pixel_at(spec.source, y, x, frame)
            write = emit.pixel_at(image, y, x, frame)
            with emit.loop(image.pixel // lanes) as vector:
                emit.store(target, write + vector * lanes, emit.load(source, read + vector * lanes, lanes), lanes)
            first = 0
            for run in spec.runs:
                inside = emit.has_frame(image, frame, run.offset)
                with emit.when(inside), emit.loop(first + run.channels, first) as channel:
                    value = emit.load(source, read + run.offset * spec.source.frame + channel)
                    emit.store(target, write + channel, value)
                with emit.when(emit.negate(inside)), emit.loop(first + run.channels, first) as channel:
                    emit.store(target, write + channel, emit.splat(0.0, 1, image.dtype))
                first += run.channels
            zero_border(target, image, Part(y, x, frame), lanes)
    return kernel.function
