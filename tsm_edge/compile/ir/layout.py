"""How a tensor lies in memory, in elements, as the kernels see it.

The frames of a clip lie one after the other, each as an image of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tsm_edge.compile.ir.element import ceil_div, item_bytes, line_elements


@dataclass(frozen=True)
class Border:
    """Rows and columns of zeros kept around an image so that a padded convolution reads without conditions."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0


@dataclass(frozen=True)
class Image:
    """Images in memory: element (y, x, c) is at ``origin + y * row + x * pixel + c * channel`` of its frame.

    Activations of a CPU are NHWC: ``channel`` is 1 and ``pixel`` is the channel count rounded up to whole vectors, so
    that vector stores need no tails; the extra lanes hold zeros; only the camera frame is planar. Those of a GPU are
    planes.

    Attributes
    ----------
    height, width, channels : int
        Logical size, without border or rounding.
    pixel, row, channel : int
        Strides, elements.
    border : Border
        Zeros around the image, included in the allocation.
    paired : bool
        The channels of pixels 2 i and 2 i + 1 of a row alternate: element (y, x, c) is at ``origin + y * row +
        (x - x % 2) * pixel + 2 c + x % 2``. So a vector can hold a channel of both, again and again.
    dtype : str
        Of the elements.
    frames : int
        Of a clip: so many images of this size, :attr:`frame` elements apart.
    """

    height: int
    width: int
    channels: int
    pixel: int
    row: int
    channel: int = 1
    border: Border = Border()
    paired: bool = False
    dtype: str = "float32"
    frames: int = 1

    @property
    def origin(self) -> int:
        """Offset of element (0, 0, 0) of the first frame from the start of the allocation, elements."""
        return self.border.top * self.row + self.border.left * self.pixel

    @property
    def frame(self) -> int:
        """Elements from one frame to the next."""
        rows = self.border.top + self.height + self.border.bottom
        return max(rows * self.row, self.channels * self.channel if self.channel > 1 else 0)

    @property
    def rows(self) -> int:
        """Rows of all frames."""
        return self.frames * self.height

    @property
    def elements(self) -> int:
        """Size of the allocation, elements."""
        return self.frames * self.frame

    @property
    def values(self) -> int:
        """Elements that mean something: without border or rounding."""
        return self.rows * self.width * self.channels

    @property
    def bytes(self) -> int:
        """Size of the allocation."""
        return self.elements * item_bytes(self.dtype)

    @property
    def value_bytes(self) -> int:
        """Size of the elements that mean something."""
        return self.values * item_bytes(self.dtype)

    @property
    def line(self) -> int:
        """Elements of a cache line."""
        return line_elements(self.dtype)

    @property
    def dense_rows(self) -> bool:
        """Whether rows follow each other without gaps, so that the image is one long row."""
        return self.row == self.width * self.pixel and self.border == Border()

    def flat(self) -> Image:
        """The same memory as an image of one row: all frames together.

        Raises
        ------
        ValueError
            The rows have gaps between them.
        """
        pixels = self.rows * self.width
        return replace(self.flat_frames(), frames=1, width=pixels, row=pixels * self.pixel)

    def flat_frames(self) -> Image:
        """The same memory, each frame as an image of one row.

        Raises
        ------
        ValueError
            The rows have gaps between them.
        """
        if not self.dense_rows:
            raise ValueError("an image with a border has no flat form")
        pixels = self.height * self.width
        return replace(self, height=1, width=pixels, row=pixels * self.pixel)


# Pixels this many bytes apart fall into the same few sets of an L1 cache; a register tile reads a dozen.
CONFLICTING_STRIDE = 2048


def nhwc(
    height: int,
    width: int,
    channels: int,
    lanes: int,
    border: Border = Border(),
    dtype: str = "float32",
    frames: int = 1,
) -> Image:
    """An NHWC image with channels rounded up to ``lanes``, and one vector more where pixels would conflict in L1."""
    pixel = ceil_div(channels, lanes) * lanes
    if pixel * item_bytes(dtype) % CONFLICTING_STRIDE == 0 and frames * height * width > 1:
        pixel += lanes
    row = (width + border.left + border.right) * pixel
    return Image(height, width, channels, pixel, row, border=border, dtype=dtype, frames=frames)


def planar(
    height: int, width: int, channels: int, border: Border = Border(), dtype: str = "float32", frames: int = 1
) -> Image:
    """An NCHW image (the camera frame, or its padded copy)."""
    row = width + border.left + border.right
    rows = height + border.top + border.bottom
    return Image(height, width, channels, 1, row, rows * row, border, dtype=dtype, frames=frames)


def dense(frames: int, height: int, width: int, channels: int) -> Image:
    """A tensor of float32 without gaps, in ONNX's own layout."""
    if frames > 1 and height * width == 1:
        return Image(1, 1, channels, channels, channels, frames=frames)
    return planar(height, width, channels, frames=frames)


# Bytes that a GPU's widest load takes.
GPU_VECTOR_BYTES = 16


def planes(height: int, width: int, channels: int, dtype: str = "float32") -> Image:
    """An NCHW image whose planes begin on 16 bytes; an image of one pixel is a vector of channels without gaps.

    What lies between the planes may be anything.
    """
    if height * width == 1:
        return Image(1, 1, channels, channels, channels, dtype=dtype)
    vector = GPU_VECTOR_BYTES // item_bytes(dtype)
    return Image(height, width, channels, 1, width, ceil_div(height * width, vector) * vector, dtype=dtype)
