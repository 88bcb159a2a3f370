"""Element-wise operators on planes, a thread an element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.common.elementwise import ElementwiseBase, bound_operands, is_everywhere
from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.backends.cuda.kernels import elements, emit
from tsm_edge.compile.backends.cuda.kernels.elements import ElementGrid
from tsm_edge.compile.backends.cuda.kernels.emit import Expr
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.kernel import Argument, Grid
from tsm_edge.compile.ir.layout import Image, planes


@dataclass(frozen=True)
class ElementwiseSpec(ElementwiseBase):
    """See :class:`~tsm_edge.compile.backends.common.elementwise.ElementwiseBase`."""

    @property
    def parallel(self) -> Grid:
        """Pixels and channels of the target."""
        return ElementGrid(self.target).grid

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        inputs = [Argument(name, "input", elements.element_type(operand)) for name, operand in self.images.items()]
        return (*inputs, Argument("target", "output", elements.element_type(self.target)))

    def write(self, name: str) -> Any:
        """See :func:`elementwise`."""
        return elementwise(name, self)


class _Floats:
    """Arithmetic on a thread's float."""

    def number(self, value: float) -> Expr:
        return emit.splat(value)

    def clamp(self, value: Expr, low: float, high: float) -> Expr:
        return emit.activate(value, "clamp", low, high)

    def sigmoid(self, value: Expr) -> Expr:
        one = emit.splat(1.0)
        return one / (one + tirx.exp(emit.splat(0.0) - value))


def _lower(at: Lowering, layer: ir.Elementwise) -> None:
    def constant(values: np.ndarray) -> Tensor:
        return Tensor(planes(1, 1, values.size), at.add_weights(values.astype(np.float32)))

    operands, buffers = bound_operands(layer, at.plain, constant)
    target = at.tensors.output(layer.output)
    spec = ElementwiseSpec(
        layer.operation,
        operands,
        target.image,
        parameters=layer.parameters,
        low=layer.clamp.low,
        high=layer.clamp.high,
    )
    at.call(spec, buffers | {"target": target.buffer}, at.label((layer,)))


RULE = Rule("elementwise", lambda at, layer: isinstance(layer, ir.Elementwise), _lower)


def elementwise(name: str, spec: ElementwiseSpec) -> Any:
    """Write the kernel of an element-wise operator; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel, ElementGrid(spec.target).element(kernel) as (channel, y, x):

        def read(name: str, operand: Image) -> Expr:
            place = (channel, 0, 0) if is_everywhere(operand) else (channel, y, x)
            return elements.load_float(kernel.buffers[name], operand, *place)

        value = spec.result(read, _Floats())
        elements.store_float(kernel.buffers["target"], spec.target, channel, y, x, value)
    return kernel.function
