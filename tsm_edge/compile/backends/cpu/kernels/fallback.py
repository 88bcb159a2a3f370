"""Operators without a rule: by TVM's own definition of them, on dense tensors of float32."""

from __future__ import annotations

import math

from tsm_edge.compile.backends.common.fallback import as_image, call_operator, no_image
from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.layout import dense
from tsm_edge.compile.ir.program import BufferRef


def made_dense(at: Lowering, tensor: str, buffer: BufferRef) -> None:
    """Note where a dense tensor lies, and copy it to NHWC if a rule will read it.

    Raises
    ------
    CompileError
        A rule will read it, but it is no image.
    """
    at.tensors.put_dense(tensor, buffer)
    frames = at.graph.frames
    size = as_image(at.graph.shapes[tensor], frames)
    channels, height, width = size or (math.prod(at.graph.shapes[tensor]), 1, 1)
    plain = Tensor(dense(frames if size else 1, height, width, channels), buffer)
    readers = at.readers(tensor) - {ir.Generic}
    if size and readers:
        at.tensors.to_nhwc(tensor, plain)
    elif readers - {ir.View}:
        raise no_image(tensor, at.graph.shapes[tensor])
    elif size or tensor == at.graph.logits:
        at.tensors.put(tensor, plain)


def _lower(at: Lowering, layer: ir.Generic) -> None:
    made_dense(at, layer.output, call_operator(at, layer, at.tensors.dense))


RULE = Rule("generic", lambda unit: isinstance(unit, ir.Generic), _lower)
