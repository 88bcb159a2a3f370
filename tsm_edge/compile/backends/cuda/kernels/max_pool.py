"""Max pooling on planes, a thread an output."""

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

_LOWEST = -3.4028234663852886e38


@dataclass(frozen=True)
class MaxPoolSpec(KernelSpec):
    """Spatial maximum; positions outside the image do not take part.

    Attributes
    ----------
    source, target : Image
    size, strides, pads : (int, int)
        Of the window: rows, columns. Pads are those above and left.
    """

    source: Image
    target: Image
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "max_pool"

    @property
    def parallel(self) -> Grid:
        """Pixels and channels of the target."""
        return ElementGrid(self.target).grid

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return (
            Argument("source", "input", elements.element_type(self.source)),
            Argument("target", "output", elements.element_type(self.target)),
        )

    @property
    def bytes(self) -> int:
        """Image and result."""
        return self.source.value_bytes + self.target.value_bytes

    def write(self, name: str) -> Any:
        """See :func:`max_pool`."""
        return max_pool(name, self)


def _lower(at: Lowering, layer: ir.MaxPool) -> None:
    source, target = at.plain(layer.source), at.tensors.output(layer.output)
    spec = MaxPoolSpec(source.image, target.image, layer.kernel, layer.strides, layer.pads[:2])
    at.call(spec, {"source": source.buffer, "target": target.buffer}, at.label((layer,)))


RULE = Rule("max_pool", lambda at, layer: isinstance(layer, ir.MaxPool), _lower)


def max_pool(name: str, spec: MaxPoolSpec) -> Any:
    """Write the kernel of a max pooling; returns its PrimFunc."""
    image = spec.source
    with emit.kernel(name, spec) as kernel, ElementGrid(spec.target).element(kernel) as (channel, y, x):
        best = emit.registers(1)
        emit.store(best, 0, emit.splat(_LOWEST))
        for ky in range(spec.size[0]):
            for kx in range(spec.size[1]):
                # Clamping to the image repeats a pixel that takes part anyway.
                row = _clamped(y * spec.strides[0] + (ky - spec.pads[0]), image.height)
                column = _clamped(x * spec.strides[1] + (kx - spec.pads[1]), image.width)
                value = elements.load_float(kernel.buffers["source"], image, channel, row, column)
                emit.store(best, 0, emit.larger(best[0], value))
        elements.store_float(kernel.buffers["target"], spec.target, channel, y, x, best[0])
    return kernel.function


def _clamped(value: Any, extent: int) -> Any:
    return emit.smaller(emit.larger(value, 0), extent - 1)
