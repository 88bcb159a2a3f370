"""Dense layers (convolutions of an image of one pixel): a block an output, whose threads share out the reduction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tsm_edge.compile.backends.cuda.kernels import emit
from tsm_edge.compile.backends.cuda.kernels.emit import VECTOR
from tsm_edge.compile.backends.cuda.kernels.pointwise import activation_of
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import WORD_BYTES, ceil_div
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec

_THREADS = 128


@dataclass(frozen=True)
class DenseSpec(KernelSpec):
    """Everything the code of a dense layer depends on.

    Attributes
    ----------
    inputs, outputs : int
    activation : str
        See :func:`emit.activate`; ``low`` and ``high`` are of ``clamp``.
    residual : bool
        A vector of the target's size is added.
    """

    inputs: int
    outputs: int
    activation: str = ""
    low: float = 0.0
    high: float = 0.0
    residual: bool = False

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "dense"

    @property
    def parallel(self) -> Grid:
        """Outputs."""
        return Grid((self.outputs, 1, 1), (_THREADS, 1, 1))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        residual = (Argument("residual", "input"),) if self.residual else ()
        return (
            Argument("source", "input"),
            Argument("weights", "weights"),
            Argument("bias", "weights"),
            Argument("target", "output"),
            *residual,
        )

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.inputs * self.outputs

    @property
    def bytes(self) -> int:
        """Vectors and weights."""
        return WORD_BYTES * (self.inputs + self.outputs * (self.inputs + 2))

    def write(self, name: str) -> Any:
        """See :func:`dense`."""
        return dense(name, self)


def _takes(at: Lowering, layer: ir.Layer) -> bool:
    if not isinstance(layer, ir.Convolution) or layer.groups > 1 or layer.shift:
        return False
    source = at.tensors[layer.source].image
    return (source.height, source.width) == (1, 1) and layer.weight.shape[2:] == (1, 1) and not any(layer.pads)


def _lower(at: Lowering, layer: ir.Convolution) -> None:
    source, scale = at.tensors[layer.source], at.scale_of(layer)
    target = at.tensors.output(layer.output, scale)
    outputs, inputs = layer.weight.shape[:2]
    activation, low, high = activation_of(layer, scale)
    spec = DenseSpec(inputs, outputs, activation, low, high, layer.residual is not None)
    weights = layer.weight.reshape(outputs, inputs).astype(np.float64) * source.scale / scale
    buffers = {
        "source": source.buffer,
        "weights": at.add_weights(weights.astype(np.float32)),
        "bias": at.add_weights((layer.bias / scale).astype(np.float32)),
        "target": target.buffer,
    }
    if layer.residual is not None:
        buffers["residual"] = at.plain(layer.residual).buffer
    at.call(spec, buffers, at.label((layer,)))


RULE = Rule("dense", _takes, _lower)


def dense(name: str, spec: DenseSpec) -> Any:
    """Write the kernel of a dense layer; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel:
        buffers, thread = kernel.buffers, kernel.thread
        output = kernel.block[0]
        parts, total = emit.shared(_THREADS), emit.registers(1)
        emit.store(total, 0, emit.splat(0.0))
        lanes = VECTOR if spec.inputs % VECTOR == 0 else 1  # rows of weights then begin on whole vectors
        count = spec.inputs // lanes
        values, row = emit.registers(lanes), emit.registers(lanes)
        with emit.loop(ceil_div(count, _THREADS)) as turn:
            index = turn * _THREADS + thread
            with emit.when_all((index < count) if count % _THREADS else True):
                emit.store(values, 0, emit.load(buffers["source"], index * lanes, lanes), lanes)
                at = output * spec.inputs + index * lanes
                emit.store(row, 0, emit.load(buffers["weights"], at, lanes), lanes)
                for lane in range(lanes):
                    emit.store(total, 0, total[0] + values[lane] * row[lane])
        emit.store(parts, thread, total[0])
        half = _THREADS // 2
        while half:
            emit.barrier()
            with emit.when_all(thread < half):
                emit.store(parts, thread, parts[thread] + parts[thread + half])
            half //= 2
        with emit.when_all(thread < 1):
            value = parts[0] + buffers["bias"][output]
            if spec.residual:
                value = value + buffers["residual"][output]
            emit.store(buffers["target"], output, emit.activate(value, spec.activation, spec.low, spec.high))
    return kernel.function
