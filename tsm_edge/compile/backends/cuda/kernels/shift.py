"""The shift as a tensor, where its reader cannot take cache and frame as two sources: ``concat(cache, x[:, c:])``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cuda.kernels import elements, emit
from tsm_edge.compile.backends.cuda.kernels.elements import ElementGrid
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class ShiftSpec(KernelSpec):
    """``target = [cache channels | remaining channels of source]``."""

    source: Image
    cache: Image
    target: Image

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "shift"

    @property
    def parallel(self) -> Grid:
        """Pixels and channels of the target."""
        return ElementGrid(self.target).grid

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        kind = elements.element_type
        return (
            Argument("source", "input", kind(self.source)),
            Argument("cache", "cache", kind(self.cache)),
            Argument("target", "output", kind(self.target)),
        )

    @property
    def bytes(self) -> int:
        """Everything once in and once out."""
        return 2 * self.target.value_bytes

    def write(self, name: str) -> Any:
        """See :func:`shift`."""
        return shift(name, self)


def _lower(at: Lowering, layer: ir.ShiftConcat) -> None:
    source, cache = at.plain(layer.source), at.plain(layer.cache)
    target = at.tensors.output(layer.output)
    spec = ShiftSpec(source.image, cache.image, target.image)
    buffers = {"source": source.buffer, "cache": cache.buffer, "target": target.buffer}
    at.call(spec, buffers, at.label((layer,)))


RULE = Rule("shift", lambda at, layer: isinstance(layer, ir.ShiftConcat), _lower)


def shift(name: str, spec: ShiftSpec) -> Any:
    """Write the kernel of a materialised shift; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel, ElementGrid(spec.target).element(kernel) as (channel, y, x):
        buffers = kernel.buffers
        cached = elements.load_float(buffers["cache"], spec.cache, channel, y, x)
        plain = elements.load_float(buffers["source"], spec.source, channel, y, x)
        value = emit.either(channel < spec.cache.channels, cached, plain)
        elements.store_float(buffers["target"], spec.target, channel, y, x, value)
    return kernel.function
