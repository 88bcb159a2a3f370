"""Copies between layouts and element types: a thread an element."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.compile.backends.cuda.kernels.elements import ElementGrid, element_type, load_float, store_float
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class CopySpec(KernelSpec):
    """``target[c] = source[c]`` for the target's channels, which may be fewer."""

    source: Image
    target: Image

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "copy"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (
            Argument("source", "input", element_type(self.source)),
            Argument("target", "output", element_type(self.target)),
        )

    @property
    def parallel(self) -> Grid:
        """Pixels and channels of the target."""
        return ElementGrid(self.target).grid

    @property
    def bytes(self) -> int:
        """In and out."""
        return 2 * self.target.value_bytes

    def write(self, name: str) -> object:
        """Write the kernel; returns its PrimFunc."""
        from tsm_edge.compile.backends.cuda.kernels import emit

        with emit.kernel(name, self) as kernel:
            grid = ElementGrid(self.target)
            with grid.element(kernel) as (channel, y, x):
                value = load_float(kernel.buffers["source"], self.source, channel, y, x)
                store_float(kernel.buffers["target"], self.target, channel, y, x, value)
        return kernel.function
