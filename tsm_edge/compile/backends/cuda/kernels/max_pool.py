"""Max pooling on planes: a thread makes some rows of one or two columns, so that few pixels are read twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tsm_edge.compile.backends.cuda.kernels import elements, emit
from tsm_edge.compile.backends.cuda.kernels.emit import Expr, div, mod
from tsm_edge.compile.backends.cuda.kernels.pointwise import tapped
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Grid, KernelSpec
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef

_THREADS = 128
_MOST_ROWS = 4


@dataclass(frozen=True)
class MaxPoolSpec(KernelSpec):
    """Spatial maximum; positions outside the image do not take part.

    Attributes
    ----------
    source, target : Image
    size, strides, pads : (int, int)
        Of the window: rows, columns. Pads are those above and left.
    tap : int
        Target channels that are also the next value of a shift cache.
    """

    source: Image
    target: Image
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    tap: int = 0

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "max_pool"

    @property
    def rows(self) -> int:
        """Of the target, a thread's."""
        return min(_MOST_ROWS, self.target.height)

    @property
    def run(self) -> int:
        """Columns of the target, a thread's: two where rows and planes begin on them."""
        return 2 if self.target.width % 2 == 0 and self.target.channel % 2 == 0 else 1

    @property
    def across(self) -> int:
        """Threads of a row."""
        return self.target.width // self.run

    @property
    def items(self) -> int:
        """Threads of a plane."""
        return ceil_div(self.target.height, self.rows) * self.across

    @property
    def halfs(self) -> bool:
        """Whether halfs are compared as they lie."""
        return item_bytes(self.source.dtype) == item_bytes(self.target.dtype) == 2

    @property
    def parallel(self) -> Grid:
        """Threads of all planes, one after the other."""
        return Grid((ceil_div(self.items * self.target.channels, _THREADS), 1, 1), (_THREADS, 1, 1))

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        single = elements.element_type(self.target)
        stored = "uint32" if self.run == 2 and single == "uint16" else single
        return (
            Argument("source", "input", elements.element_type(self.source)),
            Argument("target", "output", stored),
            *((Argument("tap", "next_cache", stored),) if self.tap else ()),
        )

    @property
    def bytes(self) -> int:
        """Image and result."""
        pixels = self.target.height * self.target.width
        tapped = self.tap * pixels * item_bytes(self.target.dtype)
        return self.source.value_bytes + self.target.value_bytes + tapped

    def write(self, name: str) -> Any:
        """See :func:`max_pool`."""
        return max_pool(name, self)


def _lower(at: Lowering, layer: ir.MaxPool) -> None:
    source, target = at.plain(layer.source), at.tensors.output(layer.output)
    cache, tap = tapped(at, layer)
    spec = MaxPoolSpec(source.image, target.image, layer.kernel, layer.strides, layer.pads[:2], tap)
    buffers = {"source": source.buffer, "target": target.buffer}
    if cache is not None:
        buffers["tap"] = BufferRef("next_cache", cache)
    at.call(spec, buffers, at.label((layer,)))


RULE = Rule("max_pool", lambda at, layer: isinstance(layer, ir.MaxPool), _lower)


def max_pool(name: str, spec: MaxPoolSpec) -> Any:
    """Write the kernel of a max pooling; returns its PrimFunc."""
    columns = (spec.run - 1) * spec.strides[1] + spec.size[1]
    with emit.kernel(name, spec) as kernel, _item(kernel, spec) as (channel, y, x):
        line, widest = emit.registers(columns), emit.registers(spec.run)
        best = emit.registers(spec.rows * spec.run)
        for row in range((spec.rows - 1) * spec.strides[0] + spec.size[0]):
            targets = [target for target in range(spec.rows) if 0 <= row - target * spec.strides[0] < spec.size[0]]
            if not targets:
                continue
            _load_line(kernel, spec, line, channel, _inside(spec, 0, y, spec.rows, row), x)
            for column in range(spec.run):
                first = column * spec.strides[1]
                emit.store(widest, column, _widest([line[first + kx] for kx in range(spec.size[1])]))
                for target in targets:
                    at = target * spec.run + column
                    begins = row == target * spec.strides[0]
                    emit.store(best, at, widest[column] if begins else _widest([best[at], widest[column]]))
        for row in range(spec.rows):
            with emit.when_all((y + row < spec.target.height) if spec.target.height % spec.rows else True):
                _store(kernel, spec, channel, y + row, x, [best[row * spec.run + n] for n in range(spec.run)])
    return kernel.function


@contextlib.contextmanager
def _item(kernel: emit.Kernel, spec: MaxPoolSpec) -> Iterator[tuple[Expr, Expr, Expr]]:
    """The thread's channel, first row and first column, where it has any."""
    index, count = kernel.block[0] * _THREADS + kernel.thread, spec.items * spec.target.channels
    with emit.when_all((index < count) if count % _THREADS else True):
        item = mod(index, spec.items)
        yield div(index, spec.items), div(item, spec.across) * spec.rows, mod(item, spec.across) * spec.run


def _inside(spec: MaxPoolSpec, axis: int, first: Expr, run: int, offset: int) -> Expr:
    """A place of the source; beside the image it is the nearest in it, which takes part anyway."""
    extent = (spec.source.height, spec.source.width)[axis]
    whole = (spec.target.height, spec.target.width)[axis]
    stride, pad = spec.strides[axis], spec.pads[axis]
    place = first * stride + (offset - pad)
    if offset < pad:
        place = emit.larger(place, 0)
    last = (ceil_div(whole, run) - 1) * run * stride + offset - pad
    return emit.smaller(place, extent - 1) if last >= extent else place


def _load_line(kernel: emit.Kernel, spec: MaxPoolSpec, line: Any, channel: Expr, y: Expr, x: Expr) -> None:
    """A thread's pixels of a row. The bits of a half, above 16 zeros, are a float of the same order."""
    for index in range((spec.run - 1) * spec.strides[1] + spec.size[1]):
        at = elements.at(spec.source, channel, y, _inside(spec, 1, x, spec.run, index))
        value = kernel.buffers["source"][at]
        if spec.halfs:
            value = tirx.reinterpret("float32", tirx.Cast("uint32", value) << T.uint32(16))
        else:
            value = elements.as_float(value, spec.source)
        emit.store(line, index, value)


def _widest(values: list[Expr]) -> Expr:
    found, *others = values
    for value in others:
        found = emit.call("tsm_larger", found, value)
    return found


def _store(kernel: emit.Kernel, spec: MaxPoolSpec, channel: Expr, y: Expr, x: Expr, values: list[Expr]) -> None:
    """Write neighbouring results."""
    at, lanes = elements.at(spec.target, channel, y, x), len(values)
    half = item_bytes(spec.target.dtype) == 2
    made: Expr
    if spec.halfs:
        bits = [tirx.reinterpret("uint32", value) for value in values]
        low = bits[0] >> T.uint32(16)
        made = tirx.Cast("uint16", low) if lanes == 1 else low | (bits[1] & T.uint32(0xFFFF0000))
    elif half:
        pack, kind = ("tsm_half", "uint16") if lanes == 1 else ("tsm_pack", "uint32")
        made = emit.call(pack, *values, dtype=kind)
    else:
        vector = emit.registers(lanes)
        for index, value in enumerate(values):
            emit.store(vector, index, value)
        made = emit.load(vector, 0, lanes)
    in_word, words = (lanes, 1) if half else (1, lanes)
    emit.store(kernel.buffers["target"], div(at, in_word), made, words)
    if spec.tap:
        with emit.when_all(channel < spec.tap):
            emit.store(kernel.buffers["tap"], div(at, in_word), made, words)
