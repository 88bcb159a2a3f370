"""The shift as a tensor, where its reader cannot take cache and frame as two sources: ``concat(cache, x[:, c:])``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Part, zero_border
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class ShiftCopySpec(KernelSpec):
    """``target = [cache channels | remaining channels of source]``, with ``target``'s border zeroed."""

    source: Image
    cache: Image
    target: Image
    lanes: int

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "shift"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        dtype = self.source.dtype
        return (
            Argument("source", "input", dtype),
            Argument("cache", "cache", dtype),
            Argument("target", "output", dtype),
        )

    @property
    def parallel(self) -> Items:
        """Image rows."""
        return Items(self.target.height)

    @property
    def bytes(self) -> int:
        """Everything once in and once out."""
        return 2 * self.target.bytes

    def write(self, name: str) -> Any:
        """See :func:`shift_copy`."""
        return shift_copy(name, self)


def _lower(at: Lowering, layer: ir.ShiftConcat) -> None:
    source = at.tensors.vectors(layer.source)
    cache = at.tensors[layer.cache]
    target = at.tensors.output(layer.output)
    spec = ShiftCopySpec(source.image, cache.image, target.image, at.lanes)
    buffers = {"source": source.buffer, "cache": cache.buffer, "target": target.buffer}
    at.call(spec, buffers, at.label((layer,)))


RULE = Rule("shift", lambda unit: isinstance(unit, ir.ShiftConcat), _lower)


def shift_copy(name: str, spec: ShiftCopySpec) -> Any:
    """Write the kernel of a materialised shift; returns its PrimFunc."""
    image, lanes = spec.target, spec.lanes
    with emit.kernel(name, spec) as kernel:
        source, cache, target = (kernel.buffers[name] for name in ("source", "cache", "target"))
        with emit.loop(kernel.end, kernel.begin) as y, emit.loop(image.width) as x:
            read = emit.pixel_at(spec.source, y, x)
            cached = emit.pixel_at(spec.cache, y, x)
            write = emit.pixel_at(image, y, x)
            with emit.loop(image.pixel // lanes) as vector:
                emit.store(target, write + vector * lanes, emit.load(source, read + vector * lanes, lanes), lanes)
            with emit.loop(spec.cache.channels) as channel:
                emit.store(target, write + channel, emit.load(cache, cached + channel))
            zero_border(target, image, Part(y, x), lanes)
    return kernel.function
