"""Any convolution, a thread an output: for shapes that no other rule takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tsm_edge.compile.backends.cuda.kernels import elements, emit
from tsm_edge.compile.backends.cuda.kernels.elements import ElementGrid
from tsm_edge.compile.backends.cuda.kernels.emit import div
from tsm_edge.compile.backends.cuda.kernels.pointwise import activation_of
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import WORD_BYTES
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image


@dataclass(frozen=True)
class DirectSpec(KernelSpec):
    """Everything the code of a direct convolution depends on.

    Attributes
    ----------
    source, target : Image
    size, strides, pads : (int, int)
        Of the kernel: rows, columns. Pads are those above and left.
    groups : int
    cache, residual : Image or None
        The shift cache that is read for the first channels; what is added.
    activation : str
        See :func:`emit.activate`; ``low`` and ``high`` are of ``clamp``.
    """

    source: Image
    target: Image
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    groups: int = 1
    cache: Image | None = None
    residual: Image | None = None
    activation: str = ""
    low: float = 0.0
    high: float = 0.0

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "direct"

    @property
    def inputs(self) -> int:
        """Source channels of a group."""
        return self.source.channels // self.groups

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
            Argument("weights", "weights"),
            Argument("bias", "weights"),
            Argument("target", "output", kind(self.target)),
            *((Argument("cache", "cache", kind(self.cache)),) if self.cache else ()),
            *((Argument("residual", "input", kind(self.residual)),) if self.residual else ()),
        )

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.target.values * self.inputs * self.size[0] * self.size[1]

    @property
    def bytes(self) -> int:
        """Images and weights."""
        weights = WORD_BYTES * self.target.channels * (self.inputs * self.size[0] * self.size[1] + 1)
        extra = self.target.value_bytes if self.residual else 0
        return self.source.value_bytes + self.target.value_bytes + weights + extra

    def write(self, name: str) -> Any:
        """See :func:`direct`."""
        return direct(name, self)


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    source, scale = at.tensors[layer.source], at.scale_of(layer)
    target = at.tensors.output(layer.output, scale)
    activation, low, high = activation_of(layer, scale)
    cache = at.plain(layer.shift.cache) if layer.shift else None
    residual = at.plain(layer.residual) if layer.residual is not None else None
    spec = DirectSpec(
        source=source.image,
        target=target.image,
        size=layer.weight.shape[2:],
        strides=layer.strides,
        pads=layer.pads[:2],
        groups=layer.groups,
        cache=cache.image if cache else None,
        residual=residual.image if residual else None,
        activation=activation,
        low=low,
        high=high,
    )
    at.chose(spec.rule, (layer,))
    buffers = {
        "source": source.buffer,
        "weights": at.add_weights((layer.weight.astype(np.float64) * source.scale / scale).astype(np.float32)),
        "bias": at.add_weights((layer.bias / scale).astype(np.float32)),
        "target": target.buffer,
    }
    buffers |= {"cache": cache.buffer} if cache else {}
    buffers |= {"residual": residual.buffer} if residual else {}
    at.call(spec, buffers, at.label((layer,)))


RULE = Rule("direct", lambda at, layer: isinstance(layer, ir.Convolution), _lower)


def direct(name: str, spec: DirectSpec) -> Any:
    """Write the kernel of a direct convolution; returns its PrimFunc."""
    rows, columns = spec.size
    image = spec.source
    with emit.kernel(name, spec) as kernel, ElementGrid(spec.target).element(kernel) as (output, y, x):
        buffers, total = kernel.buffers, emit.registers(1)
        emit.store(total, 0, buffers["bias"][output])
        group = div(output, spec.target.channels // spec.groups)
        with emit.loop(spec.inputs) as index, emit.loop(rows) as ky, emit.loop(columns) as kx:
            channel = group * spec.inputs + index
            iy, ix = y * spec.strides[0] + ky - spec.pads[0], x * spec.strides[1] + kx - spec.pads[1]
            with emit.when_all(iy >= 0, iy < image.height, ix >= 0, ix < image.width):
                value = elements.load_float(buffers["source"], image, channel, iy, ix)
                if spec.cache:
                    cached = elements.load_float(buffers["cache"], spec.cache, channel, iy, ix)
                    value = emit.either(channel < spec.cache.channels, cached, value)
                weight = buffers["weights"][((output * spec.inputs + index) * rows + ky) * columns + kx]
                emit.store(total, 0, total[0] + value * weight)
        value = total[0]
        if spec.residual:
            value = value + elements.load_float(buffers["residual"], spec.residual, output, y, x)
        value = emit.activate(value, spec.activation, spec.low, spec.high)
        elements.store_float(buffers["target"], spec.target, output, y, x, value)
    return kernel.function
