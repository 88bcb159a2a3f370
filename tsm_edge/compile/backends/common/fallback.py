"""Operators without a rule: by TVM's own definition of them, on dense tensors of float32."""

from __future__ import annotations

from collections.abc import Callable

from tsm_edge.compile.backends.common.step import Step
from tsm_edge.compile.backends.operators.generic import GenericSpec, Grain
from tsm_edge.compile.backends.operators.legalize import legalize
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import Shape
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.errors import CompileError

# On a dense tensor these change the shape and nothing else.
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def call_operator(
    at: Step,
    layer: ir.Generic,
    dense: Callable[[str], BufferRef],
    items: Grain = "runs",
    kernel: Callable[[GenericSpec], KernelSpec] = lambda loops: loops,
) -> BufferRef:
    """Add the calls of an operator.

    Parameters
    ----------
    at : Step
    layer : ir.Generic
    dense : callable
        Where a tensor lies without gaps, in ONNX's own layout.
    items : str
        See :func:`~tsm_edge.compile.backends.operators.generic.parts_of`.
    kernel : callable
        The backend's kernel around loops.

    Returns
    -------
    BufferRef
        The result, dense.
    """
    node = layer.node
    if node.op in RESHAPES:
        return dense(node.inputs[0])
    made = legalize(node, at.graph.shapes, at.graph.constants, at.graph.opset, items)
    parts = {name: dense(name) for name in layer.sources}
    parts |= {name: at.add_weights(value) for name, value in made.constants.items()}
    parts |= {name: at.workspace.bytes_room(name, size) for name, size in made.temporaries.items()}
    for step in made.steps:
        named = zip(step.spec.arguments, step.arguments, strict=True)
        at.call(kernel(step.spec), {argument.name: parts[name] for argument, name in named}, at.label((layer,)))
    return parts[made.result]


def as_image(shape: Shape, frames: int = 1) -> tuple[int, int, int] | None:
    """Channels, height and width of a tensor that is an image a frame, or a vector; None: it is neither."""
    if len(shape) not in (2, 4) or shape[0] != frames:
        return None
    _, channels, height, width = (*shape, 1, 1)[:4]
    return channels, height, width


def no_image(tensor: str, shape: Shape) -> CompileError:
    """A rule will read a tensor that is no image."""
    return CompileError(
        f"tensor {tensor!r} is {list(shape)}: expected [1, channels, height, width]",
        "export the model without reshapes between its convolutions",
    )
