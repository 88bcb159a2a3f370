"""Operators without a rule: by TVM's own definition of them, on dense tensors, a thread an element."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from tsm_edge.compile.backends.common.fallback import as_image, call_operator, no_image
from tsm_edge.compile.backends.cuda.kernels.copying import CopySpec
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.backends.cuda.tensors import Planes
from tsm_edge.compile.backends.operators.generic import GenericSpec
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Grid, Items, KernelSpec
from tsm_edge.compile.ir.layout import Image, planar
from tsm_edge.compile.ir.program import BufferRef

_THREADS = 128


@dataclass(frozen=True)
class FallbackSpec(KernelSpec):
    """Loops of TVM's whose work items are threads."""

    loops: GenericSpec

    @property
    def rule(self) -> str:
        """The fallback."""
        return self.loops.rule

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """In order: those read, then those written."""
        return self.loops.arguments

    @property
    def items(self) -> int:
        """Elements, or whatever TVM could not part."""
        return self.loops.parallel.count if isinstance(self.loops.parallel, Items) else 1

    @property
    def parallel(self) -> Grid:
        """A thread an item."""
        threads = min(_THREADS, self.items)
        return Grid((ceil_div(self.items, threads), 1, 1), (threads, 1, 1))

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return self.loops.flops

    @property
    def bytes(self) -> int:
        """Of the buffers touched."""
        return self.loops.bytes

    def describe(self) -> str:
        """The operator."""
        return self.loops.operator

    def write(self, name: str) -> Any:
        """See :func:`fallback`."""
        return fallback(name, self)


def fallback(name: str, spec: FallbackSpec) -> Any:
    """Write the kernel of an operator without a rule: its loop's ``begin`` is the thread; returns its PrimFunc."""
    function = spec.loops.function
    begin, end, *pointers = function.params
    (blocks, _, _), (threads, _, _) = spec.parallel.blocks, spec.parallel.threads
    block, thread = (_index(axis, count) for axis, count in (("blockIdx.x", blocks), ("threadIdx.x", threads)))
    body = tirx.IfThenElse(begin < spec.items, function.body, None)
    body = tirx.stmt_seq(tirx.Bind(begin, block.var * threads + thread.var), tirx.Bind(end, begin + 1), body)
    for index, count in ((thread, threads), (block, blocks)):
        body = tirx.AttrStmt(index, "thread_extent", tirx.const(count, "int32"), body)
    attributes = {"global_symbol": name, "calling_conv": 2, "tirx.is_global_func": True, "tirx.noalias": True}
    whole = tirx.PrimFunc(pointers, body).with_attr(attributes)
    return tirx.transform.FlattenBuffer()(tvm.IRModule({name: whole}))[name]


def _index(axis: str, count: int) -> Any:
    variable = tirx.Var(axis.replace(".", "_"), "int32")
    return tirx.IterVar(tvm.ir.Range(0, count), variable, tirx.IterVar.ThreadIndex, axis)


def dense(at: Lowering, tensor: str) -> BufferRef:
    """The tensor without gaps, in ONNX's own layout and float32; copied if it does not lie like that."""
    found = at.plain(tensor)
    image = found.image
    plain = planar(image.height, image.width, image.channels)
    if image == plain or ((image.height, image.width) == (1, 1) and image.dtype == "float32"):
        return found.buffer
    key = f"{tensor} as NCHW"
    if key not in at.tensors:
        made = at.tensors.new(key, plain)
        at.call(CopySpec(image, plain), {"source": found.buffer, "target": made.buffer}, key)
    return at.tensors[key].buffer


def made_dense(at: Lowering, tensor: str, buffer: BufferRef) -> None:
    """Note where a dense tensor lies, and copy it to planes if a rule will read it.

    Raises
    ------
    CompileError
        A rule will read it, but it is no image.
    """
    size = as_image(at.graph.shapes[tensor])
    channels, height, width = size or (math.prod(at.graph.shapes[tensor]), 1, 1)
    plain = planar(height, width, channels) if height * width > 1 else Image(1, 1, channels, channels, channels)
    readers = at.readers(tensor) - {ir.Generic, ir.View}
    if readers and not size:
        raise no_image(tensor, at.graph.shapes[tensor])
    at.tensors.put(tensor, Planes(plain, buffer))
    if readers and (planes := at.tensors.planes_of(tensor)) != plain:
        target = at.tensors.output(tensor)
        at.call(CopySpec(plain, planes), {"source": buffer, "target": target.buffer}, tensor)


def _lower(at: Lowering, layer: ir.Generic) -> None:
    result = call_operator(at, layer, lambda tensor: dense(at, tensor), "elements", FallbackSpec)
    made_dense(at, layer.output, result)


RULE = Rule("generic", lambda at, layer: isinstance(layer, ir.Generic), _lower)


def _view(at: Lowering, layer: ir.View) -> None:
    made_dense(at, layer.output, dense(at, layer.source))


VIEW = Rule("dense_view", lambda at, layer: isinstance(layer, ir.View), _view)
