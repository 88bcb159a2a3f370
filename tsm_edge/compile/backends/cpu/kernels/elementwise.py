"""Element-wise operators over NHWC: images of one size, per-channel operands ([1, C, 1, 1]) and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from tsm_edge.compile.backends.common.elementwise import ElementwiseBase, bound_operands, is_everywhere
from tsm_edge.compile.backends.common.step import too_large
from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Part, zero_border
from tsm_edge.compile.backends.cpu.kernels.emit import Expr
from tsm_edge.compile.backends.cpu.kernels.functions import sigmoid
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items
from tsm_edge.compile.ir.layout import Image

_Place = tuple[Expr, Expr, Expr]  # row, column, frame


@dataclass(frozen=True)
class ElementwiseSpec(ElementwiseBase):
    """See :class:`~tsm_edge.compile.backends.common.elementwise.ElementwiseBase`; in vectors of ``lanes``."""

    lanes: int

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        inputs = [Argument(name, "input", operand.dtype) for name, operand in self.images.items()]
        return (*inputs, Argument("target", "output", self.target.dtype))

    @property
    def parallel(self) -> Items:
        """Image rows of all frames."""
        return Items(self.target.rows)

    def write(self, name: str) -> Any:
        """See :func:`elementwise`."""
        return elementwise(name, self)


@dataclass(frozen=True)
class _Vectors:
    """Arithmetic on ``lanes`` values at a time."""

    lanes: int

    def number(self, value: float) -> Expr:
        return emit.splat(value, self.lanes)

    def clamp(self, value: Expr, low: float, high: float) -> Expr:
        return emit.clamp(value, low, high, self.lanes)

    def sigmoid(self, value: Expr) -> Expr:
        return sigmoid(value, self.lanes)


def _lower(at: Lowering, layer: ir.Elementwise) -> None:
    def constant(values: np.ndarray) -> Tensor:
        image = at.nhwc(1, 1, values.size)
        row = _row(values, image)
        if np.isinf(row).sum() > np.isinf(values).sum():  # some may be infinite in the network
            raise too_large(at.label((layer,)), row.dtype)
        return Tensor(image, at.add_weights(row))

    operands, buffers = bound_operands(layer, at.tensors.vectors, constant)
    target = at.tensors.output(layer.output)
    spec = ElementwiseSpec(
        layer.operation,
        operands,
        target.image,
        at.lanes,
        parameters=layer.parameters,
        low=layer.clamp.low,
        high=layer.clamp.high,
    )
    at.call(spec, buffers | {"target": target.buffer}, at.label((layer,)))


def _row(values: np.ndarray, image: Image) -> np.ndarray:
    """A value a channel, as an image of one pixel."""
    return np.pad(values, (0, image.pixel - values.size)).astype(image.dtype)


RULE = Rule("elementwise", lambda unit: isinstance(unit, ir.Elementwise), _lower)


def elementwise(name: str, spec: ElementwiseSpec) -> Any:
    """Write the kernel of an element-wise operator; returns its PrimFunc."""
    image, lanes = spec.target, spec.lanes
    full, tail = divmod(image.channels, lanes)
    with emit.kernel(name, spec) as kernel:
        buffers = kernel.buffers
        target = buffers["target"]
        with emit.loop(kernel.end, kernel.begin) as item, emit.loop(image.width) as x:
            frame, y = emit.in_frame(item, image.height, image.frames)
            at = y, x, frame
            write = emit.pixel_at(image, *at)
            if full:
                with emit.loop(full) as vector:
                    emit.store(target, write + vector * lanes, _value(spec, buffers, at, vector), lanes)
            if tail:  # lanes beyond the last channel stay zero, whatever the operation makes of zeros
                zeros = emit.splat(0.0, lanes, image.dtype)
                value = tirx.Select(emit.first_lanes(tail, lanes), _value(spec, buffers, at, full), zeros)
                emit.store(target, write + full * lanes, value, lanes)
            for vector in range(ceil_div(image.channels, lanes), image.pixel // lanes):
                emit.store(target, write + vector * lanes, emit.splat(0.0, lanes, image.dtype), lanes)
            zero_border(target, image, Part(*at), lanes)
    return kernel.function


def _value(spec: ElementwiseSpec, buffers: Mapping[str, Any], place: _Place, vector: Expr) -> Expr:
    """One vector of the result, computed in float32."""

    def read(name: str, operand: Image) -> Expr:
        at = emit.start_of(operand, place[2]) if is_everywhere(operand) else emit.pixel_at(operand, *place)
        found = emit.load(buffers[name], at + vector * spec.lanes, spec.lanes)
        return emit.cast(found, "float32", spec.lanes)

    return emit.cast(spec.result(read, _Vectors(spec.lanes)), spec.target.dtype, spec.lanes)
