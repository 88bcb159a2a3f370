"""Operators without a rule: by TVM's own definition of them, on dense tensors of float32."""

from __future__ import annotations

import math

from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.placement import Tensor
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.backends.operators.legalize import legalize
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.layout import Image, planar
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.errors import CompileError

# On a dense tensor these change the shape and nothing else.
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def made_dense(at: Lowering, tensor: str, buffer: BufferRef) -> None:
    """Note where a dense tensor lies, and copy it to NHWC if a rule will read it.

    Raises
    ------
    CompileError
        A rule will read it, but it is no image.
    """
    at.tensors.put_dense(tensor, buffer)
    shape = at.graph.shapes[tensor]
    is_image = len(shape) in (2, 4) and shape[0] == 1
    _, channels, height, width = (*shape, 1, 1)[:4] if is_image else (1, math.prod(shape), 1, 1)
    plain = Tensor(planar(height, width, channels), buffer)
    readers = at.readers(tensor) - {ir.Generic}
    if is_image and readers:
        at.tensors.to_nhwc(tensor, plain)
    elif readers - {ir.View}:
        raise CompileError(
            f"tensor {tensor!r} is {list(shape)}: expected [1, channels, height, width]",
            "export the model without reshapes between its convolutions",
        )
    elif is_image or tensor == at.graph.logits:
        at.tensors.put(tensor, plain)


def _lower(at: Lowering, layer: ir.Generic) -> None:
    node = layer.node
    if node.op in RESHAPES:
        made_dense(at, layer.output, at.tensors.dense(node.inputs[0]))
        return
    made = legalize(node, at.graph.shapes, at.graph.constants, at.graph.opset)
    parts = {name: at.tensors.dense(name) for name in layer.sources}
    parts |= {name: at.add_weights(value) for name, value in made.constants.items()}
    parts |= {name: at.tensors.new(name, _room(size)).buffer for name, size in made.temporaries.items()}
    for step in made.steps:
        named = zip(step.spec.arguments, step.arguments, strict=True)
        at.call(step.spec, {argument.name: parts[name] for argument, name in named}, at.label((layer,)))
    made_dense(at, layer.output, parts[made.result])


def _room(size: int) -> Image:
    """For ``size`` bytes."""
    return planar(1, size, 1, dtype="uint8")


RULE = Rule("generic", lambda unit: isinstance(unit, ir.Generic), _lower)
