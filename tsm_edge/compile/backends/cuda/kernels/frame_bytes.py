"""A camera's frame on the GPU: from bytes [H][W][RGB] to the normalised planes that the first layer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from tsm_edge.compile.backends.cuda.kernels import emit
from tsm_edge.compile.backends.cuda.kernels.elements import ElementGrid, store_float
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image

_CHANNELS = 3


@dataclass(frozen=True)
class FrameBytesSpec(KernelSpec):
    """``target[c][y][x] = source[y][x][c] * scale[c] + offset[c]``.

    Attributes
    ----------
    target : Image
        Of the frame: planes without gaps, float32.
    scale, offset : tuple of float
        Of each channel.
    """

    target: Image
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def rule(self) -> str:
        """Of what it makes."""
        return "frame_bytes"

    @property
    def parallel(self) -> Grid:
        """Pixels and channels."""
        return ElementGrid(self.target).grid

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return Argument("source", "input", "uint8"), Argument("target", "output")

    @property
    def flops(self) -> int:
        """A multiplication and an addition an element."""
        return 2 * self.target.values

    @property
    def bytes(self) -> int:
        """Bytes in, floats out."""
        return self.target.values + self.target.value_bytes

    def write(self, name: str) -> Any:
        """See :func:`frame_bytes`."""
        return frame_bytes(name, self)


def frame_bytes(name: str, spec: FrameBytesSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    image = spec.target
    with emit.kernel(name, spec) as kernel, ElementGrid(image).element(kernel) as (channel, y, x):
        byte = kernel.buffers["source"][(y * image.width + x) * _CHANNELS + channel]
        value = tirx.Cast("float32", byte) * emit.one_of(spec.scale, channel) + emit.one_of(spec.offset, channel)
        store_float(kernel.buffers["target"], image, channel, y, x, value)
    return kernel.function
