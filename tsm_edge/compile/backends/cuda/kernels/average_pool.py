"""The mean over height and width: several planes a block, some threads a plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cuda.kernels import elements, emit
from tsm_edge.compile.backends.cuda.kernels.emit import div, mod
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image

_THREADS = 128
_PLANE_THREADS = 8


@dataclass(frozen=True)
class AveragePoolSpec(KernelSpec):
    """Everything the code of a global average pool depends on."""

    source: Image
    target: Image

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "average_pool"

    @property
    def planes(self) -> int:
        """Of a block."""
        return _THREADS // _PLANE_THREADS

    @property
    def parallel(self) -> Grid:
        """Planes."""
        return Grid((ceil_div(self.source.channels, self.planes), 1, 1), (_THREADS, 1, 1))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return Argument("source", "input", elements.element_type(self.source)), Argument("target", "output")

    @property
    def flops(self) -> int:
        """An addition a pixel."""
        return self.source.values

    @property
    def bytes(self) -> int:
        """Planes in, a number out."""
        return self.source.value_bytes + self.target.value_bytes

    def write(self, name: str) -> Any:
        """See :func:`average_pool`."""
        return average_pool(name, self)


def _lower(at: Lowering, layer: ir.GlobalAveragePool) -> None:
    source = at.tensors[layer.source]
    target = at.tensors.output(layer.output, source.scale)
    spec = AveragePoolSpec(source.image, target.image)
    at.call(spec, {"source": source.buffer, "target": target.buffer}, at.label((layer,)))


RULE = Rule("average_pool", lambda at, layer: isinstance(layer, ir.GlobalAveragePool), _lower)


def average_pool(name: str, spec: AveragePoolSpec) -> Any:
    """Write the kernel of a global average pool; returns its PrimFunc."""
    image = spec.source
    pixels = image.height * image.width
    with emit.kernel(name, spec) as kernel:
        parts, total = emit.shared(_THREADS), emit.registers(1)
        channel = kernel.block[0] * spec.planes + div(kernel.thread, _PLANE_THREADS)
        part = mod(kernel.thread, _PLANE_THREADS)
        has_plane = (channel < image.channels) if image.channels % spec.planes else True
        emit.store(total, 0, emit.splat(0.0))
        with emit.when_all(has_plane), emit.loop(ceil_div(pixels, _PLANE_THREADS)) as turn:
            pixel = turn * _PLANE_THREADS + part
            with emit.when_all((pixel < pixels) if pixels % _PLANE_THREADS else True):
                y, x = div(pixel, image.width), mod(pixel, image.width)
                value = elements.load_float(kernel.buffers["source"], image, channel, y, x)
                emit.store(total, 0, total[0] + value)
        emit.store(parts, kernel.thread, total[0])
        emit.barrier()
        with emit.when_all(part < 1, has_plane):
            for other in range(1, _PLANE_THREADS):
                emit.store(total, 0, total[0] + parts[kernel.thread + other])
            emit.store(kernel.buffers["target"], channel, total[0] * emit.splat(1.0 / pixels))
    return kernel.function
