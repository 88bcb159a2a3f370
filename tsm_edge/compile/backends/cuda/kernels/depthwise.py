"""Depthwise convolutions on planes.

Whole planes, or a band of rows of large ones, come to shared memory by the widest loads. A thread owns neighbouring
outputs of a row and slides down the image; its window stays in registers. Halfs are turned to floats on the way in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cuda.kernels import emit
from tsm_edge.compile.backends.cuda.kernels.emit import VECTOR, Expr, div, mod
from tsm_edge.compile.ir.element import WORD_BYTES, ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import GPU_VECTOR_BYTES, Image

MARGIN = 4  # floats of shared memory before the first plane: a window begins left of it


@dataclass(frozen=True)
class DepthwiseTile:
    """What is chosen for a depthwise convolution.

    Attributes
    ----------
    run, rows : int
        Outputs of a thread: side by side, and one below the other.
    planes : int
        Of a block.
    band : int
        Output rows of a block, a multiple of ``rows``.
    """

    run: int
    rows: int
    planes: int
    band: int

    def __str__(self) -> str:
        return f"{self.planes} planes × {self.band} rows, a thread {self.rows} × {self.run}"


@dataclass(frozen=True)
class DepthwiseSpec(KernelSpec):
    """Everything the code of a depthwise convolution depends on.

    Attributes
    ----------
    source, target : Image
        Planes.
    size, strides, pads : (int, int)
        Of the kernel: rows, columns. Pads are those above and left.
    tile : DepthwiseTile
    activation : str
        See :func:`emit.activate`; ``low`` and ``high`` are of ``clamp``.
    """

    source: Image
    target: Image
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    tile: DepthwiseTile
    activation: str = ""
    low: float = 0.0
    high: float = 0.0

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "depthwise"

    @property
    def across(self) -> int:
        """Threads side by side."""
        return self.target.width // self.tile.run

    @property
    def down(self) -> int:
        """Threads one below the other in a band, which is whole multiples of their rows."""
        return self.tile.band // self.tile.rows

    @property
    def bands(self) -> int:
        """Of a plane."""
        return ceil_div(self.target.height, self.tile.band)

    @property
    def band_rows(self) -> int:
        """Source rows that a band needs."""
        needed = (self.tile.band - 1) * self.strides[0] + self.size[0]
        return min(self.source.height, needed) if self.bands > 1 else self.source.height

    @property
    def pitch(self) -> int:
        """Floats from a plane to the next in shared memory."""
        vector = GPU_VECTOR_BYTES // item_bytes(self.source.dtype)
        return ceil_div(self.band_rows * self.source.width, vector) * vector

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return WORD_BYTES * (self.tile.planes * self.pitch + 2 * MARGIN)

    @property
    def items(self) -> int:
        """Threads of a block that have work."""
        return self.tile.planes * self.across * self.down

    @property
    def weight_row(self) -> int:
        """Floats of a channel: its bias, its weights, rounded up to whole vectors."""
        return ceil_div(1 + self.size[0] * self.size[1], VECTOR) * VECTOR

    @property
    def parallel(self) -> Grid:
        """Bands, planes."""
        blocks = (self.bands, ceil_div(self.target.channels, self.tile.planes), 1)
        return Grid(blocks, (ceil_div(self.items, 32) * 32, 1, 1))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        halfs = "uint32" if self.pairs else "uint16"
        return (
            Argument("source", "input", "uint32" if item_bytes(self.source.dtype) == 2 else "float32"),
            Argument("weights", "weights"),
            Argument("target", "output", halfs if item_bytes(self.target.dtype) == 2 else "float32"),
        )

    @property
    def pairs(self) -> bool:
        """Whether a thread's outputs are whole pairs of elements."""
        return self.tile.run % 2 == 0

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.target.values * self.size[0] * self.size[1]

    @property
    def bytes(self) -> int:
        """Images and weights."""
        return self.source.value_bytes + self.target.value_bytes + WORD_BYTES * self.target.channels * self.weight_row

    def describe(self) -> str:
        """The tile."""
        return str(self.tile)

    def write(self, name: str) -> Any:
        """See :func:`depthwise`."""
        return depthwise(name, self)


def depthwise(name: str, spec: DepthwiseSpec) -> Any:
    """Write the kernel of a depthwise convolution; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel:
        memory = emit.shared(spec.shared_bytes // WORD_BYTES)
        place = Place(kernel.block[0], kernel.block[1] * spec.tile.planes)
        _stage(kernel, spec, memory, place)
        emit.barrier()
        has_item = (kernel.thread < spec.items) if spec.items % 32 else True
        slide_rows(kernel, spec, memory, place, kernel.thread, has_item)
    return kernel.function


@dataclass(frozen=True)
class Place:
    """What a block makes: a band of rows, and planes from ``channel``."""

    band: Expr
    channel: Expr

    def first_row(self, spec: DepthwiseSpec) -> Expr:
        """Of the source, in shared memory."""
        if spec.bands == 1:
            return 0
        top = emit.larger(self.band * (spec.tile.band * spec.strides[0]) - spec.pads[0], 0)
        return emit.smaller(top, spec.source.height - spec.band_rows)


def _stage(kernel: emit.Kernel, spec: DepthwiseSpec, memory: Any, place: Place) -> None:
    """Bring the block's planes, or their bands, to shared memory."""
    half = item_bytes(spec.source.dtype) == 2
    elements = 8 if half else 4
    vectors = spec.pitch // elements
    words, floats = emit.registers(VECTOR, "uint32" if half else "float32"), emit.registers(2 * VECTOR)
    first_row = place.first_row(spec)
    for _, index, inside in emit.shares(spec.tile.planes * vectors, kernel_threads(spec), kernel.thread):
        channel = place.channel + div(index, vectors)
        if spec.target.channels % spec.tile.planes:
            channel = emit.smaller(channel, spec.target.channels - 1)
        at = channel * spec.source.channel + first_row * spec.source.width + mod(index, vectors) * elements
        with emit.when_all(inside):
            if not half:
                emit.store(memory, MARGIN + index * VECTOR, emit.load(kernel.buffers["source"], at, VECTOR), VECTOR)
                continue
            emit.store(words, 0, emit.load(kernel.buffers["source"], div(at, 2), VECTOR), VECTOR)
            for word in range(VECTOR):
                emit.store(floats, 2 * word, emit.call("tsm_low", words[word]))
                emit.store(floats, 2 * word + 1, emit.call("tsm_high", words[word]))
            for quad in range(0, 8, VECTOR):
                emit.store(memory, MARGIN + index * 8 + quad, emit.load(floats, quad, VECTOR), VECTOR)


def slide_rows(kernel: emit.Kernel, spec: DepthwiseSpec, memory: Any, place: Place, item: Expr, has_item: Expr) -> None:
    """The outputs of one of the block's ``spec.items``, where it has that, from planes in shared memory.

    The planes begin at ``MARGIN``, ``spec.pitch`` floats apart. The kernel's buffers are ``depthwise_weights``, or
    ``weights`` where there are no others, and ``target``.
    """
    writer = _Rows(kernel, spec, memory, place, item)
    channels = spec.target.channels
    has_channel = (writer.channel < channels) if channels % spec.tile.planes else True
    with emit.when_all(has_item, has_channel):
        writer.slide()


class _Rows:
    """A thread's outputs while their code is written."""

    def __init__(self, kernel: emit.Kernel, spec: DepthwiseSpec, memory: Any, place: Place, item: Expr) -> None:
        tile = spec.tile
        self.spec, self.memory = spec, memory
        self.weights = kernel.buffers.get("depthwise_weights", kernel.buffers["weights"])
        self.target = kernel.buffers["target"]
        across, rest = mod(item, spec.across), div(item, spec.across)
        self.plane = div(rest, spec.down)
        self.channel = place.channel + self.plane
        self.x = across * tile.run
        self.y = place.band * tile.band + mod(rest, spec.down) * tile.rows
        self.first_row = place.first_row(spec)

    def slide(self) -> None:
        """The thread's outputs, row after row; a row of the source is read once."""
        spec, tile = self.spec, self.spec.tile
        rows, columns = spec.size
        row_weights = emit.registers(spec.weight_row)
        for quad in range(0, spec.weight_row, VECTOR):
            at = self.channel * spec.weight_row + quad
            emit.store(row_weights, quad, emit.load(self.weights, at, VECTOR), VECTOR)
        width = (tile.run - 1) * spec.strides[1] + columns
        window = emit.registers(rows * width)
        sums = emit.registers(tile.run)
        held: dict[int, int] = {}  # slot of the window -> the row of the source in it
        for row in range(tile.rows):
            for ky in range(rows):
                needed = row * spec.strides[0] + ky
                if held.get(needed % rows) != needed:
                    held[needed % rows] = needed
                    self._load_row(window, needed % rows * width, width, needed)
            emit.fill(sums, tile.run, row_weights[0])
            for ky in range(rows):
                first = (row * spec.strides[0] + ky) % rows * width
                for kx in range(columns):
                    for index in range(tile.run):
                        value = window[first + index * spec.strides[1] + kx] * row_weights[1 + ky * columns + kx]
                        emit.store(sums, index, sums[index] + value)
            self._store_row(sums, row)

    def _load_row(self, window: Any, first: int, width: int, needed: int) -> None:
        """Row ``needed`` below the first that the thread's first output reads, zeros where it is outside."""
        spec, tile, image = self.spec, self.spec.tile, self.spec.source
        row = self.y * spec.strides[0] + (needed - spec.pads[0])
        last = (spec.bands * tile.band - tile.rows) * spec.strides[0] + needed - spec.pads[0]
        outside = [row >= 0 if needed < spec.pads[0] else True, row < image.height if last >= image.height else True]
        left = spec.pads[1]
        x = self.x * spec.strides[1]
        at = MARGIN + self.plane * spec.pitch + (row - self.first_row) * image.width + x
        free = image.width + left - (spec.target.width - tile.run) * spec.strides[1]  # columns that are always inside
        lanes = self._lanes()
        column = 0
        while column < width:
            wide = (
                lanes if left <= column and column + lanes <= min(width, free) and (column - left) % lanes == 0 else 1
            )
            conditions = list(outside)
            if column < left:
                conditions.append(x + (column - left) >= 0)
            elif column >= free:
                conditions.append(x + (column - left) < image.width)
            value = emit.load(self.memory, at + (column - left), wide)
            emit.store(window, first + column, emit.choose(conditions, value, wide), wide)
            column += wide

    def _lanes(self) -> int:
        """Widest loads that are aligned at every thread's first column and in every row."""
        spec = self.spec
        step = spec.tile.run * spec.strides[1]
        return next(n for n in (4, 2, 1) if spec.source.width % n == 0 and spec.pitch % n == 0 and step % n == 0)

    def _store_row(self, sums: Any, row: int) -> None:
        spec, tile, target = self.spec, self.spec.tile, self.target
        values = [emit.activate(sums[index], spec.activation, spec.low, spec.high) for index in range(tile.run)]
        at = self.channel * spec.target.channel + (self.y + row) * spec.target.width + self.x
        inside = (self.y + row < spec.target.height) if spec.bands * tile.band > spec.target.height else True
        with emit.when_all(inside):
            if item_bytes(spec.target.dtype) == 4:
                for index, value in enumerate(values):
                    emit.store(sums, index, value)
                lanes = self._target_lanes()
                for index in range(0, tile.run, lanes):
                    emit.store(target, at + index, emit.load(sums, index, lanes), lanes)
            elif spec.pairs:
                words = emit.registers(tile.run // 2, "uint32")
                for index in range(0, tile.run, 2):
                    emit.store(words, index // 2, emit.call("tsm_pack", *values[index : index + 2], dtype="uint32"))
                lanes = self._target_lanes() // 2 or 1
                for index in range(0, tile.run // 2, lanes):
                    emit.store(target, div(at, 2) + index, emit.load(words, index, lanes), lanes)
            else:
                for index, value in enumerate(values):
                    emit.store(target, at + index, emit.call("tsm_half", value, dtype="uint16"))

    def _target_lanes(self) -> int:
        """Outputs of the widest store; planes begin on whole vectors, and runs divide rows."""
        return next(n for n in (4, 2, 1) if self.spec.tile.run % n == 0)


def kernel_threads(spec: DepthwiseSpec) -> int:
    """Threads of a block."""
    return spec.parallel.threads[0]
