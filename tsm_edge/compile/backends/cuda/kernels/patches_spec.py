"""What the pixels of a convolution's windows as planes depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cuda.kernels import elements
from tsm_edge.compile.backends.cuda.kernels.gemm_spec import Window
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image, planes

THREADS = 128


@dataclass(frozen=True)
class PatchesSpec(KernelSpec):
    """A plane for each position of a window and each channel of the source: what the position reads.

    Attributes
    ----------
    source : Image
        Planes of halfs.
    image : Image
        The convolution's target.
    window : Window
    shift : int
        Source channels that come from a shift cache, which lies as the source does.
    """

    source: Image
    image: Image
    window: Window
    shift: int = 0

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "patches"

    @property
    def target(self) -> Image:
        """The planes: position after position, the channels of each."""
        channels = self.window.positions * self.source.channels
        return planes(self.image.height, self.image.width, channels, self.source.dtype)

    @property
    def words(self) -> int:
        """Of a plane that have pixels: a thread's each."""
        return ceil_div(self.image.height * self.image.width, 2)

    @property
    def together(self) -> bool:
        """Whether both pixels of a word are in one row: their windows overlap, and are read once."""
        return self.image.width % 2 == 0

    @property
    def loaded_bytes(self) -> int:
        """What all threads read."""
        rows, columns = self.window.size
        pixels = rows * (min(columns + self.window.strides[1], 2 * columns) if self.together else 2 * columns)
        return self.words * self.source.channels * pixels * item_bytes(self.source.dtype)

    @property
    def parallel(self) -> Grid:
        """Pairs of pixels of all channels."""
        return Grid((ceil_div(self.words * self.source.channels, THREADS), 1, 1), (THREADS, 1, 1))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        kind = elements.element_type(self.source)
        return (
            Argument("source", "input", kind),
            Argument("target", "output", "uint32"),
            *((Argument("cache", "cache", kind),) if self.shift else ()),
        )

    @property
    def bytes(self) -> int:
        """Image and planes."""
        return self.source.value_bytes + self.target.value_bytes

    def describe(self) -> str:
        """The window."""
        return f"{self.window.size[0]}×{self.window.size[1]}, pixels to planes"

    def write(self, name: str) -> Any:
        """See :func:`tsm_edge.compile.backends.cuda.kernels.patches.patches`."""
        from tsm_edge.compile.backends.cuda.kernels.patches import patches

        return patches(name, self)
