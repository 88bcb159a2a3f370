"""An inverted residual on levels as one kernel: expand, depthwise and project, an output row at a time.

As in float32 (``kernels/inverted_residual.py``) the expanded tensor never exists: a thread keeps the three expanded
rows that the depthwise convolution reads in a ring of its own, in quads, and projects the depthwise row while it is
still in L1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tsm_edge.compile.backends.cpu.choose.fusion import InvertedResidual
from tsm_edge.compile.backends.cpu.int8.convolution import convolve_row
from tsm_edge.compile.backends.cpu.int8.convolution_lowering import (
    convolution_spec,
    inputs_of,
    make_target,
    next_cache,
    requantised,
    residual_of,
    row_tile,
    target_image,
)
from tsm_edge.compile.backends.cpu.int8.convolution_spec import Int8ConvolutionSpec, pack_convolution
from tsm_edge.compile.backends.cpu.int8.depthwise import (
    KERNEL,
    TOGETHER,
    DepthwiseRow,
    Int8DepthwiseSpec,
    depthwise_row,
    for_block,
    pack_depthwise,
)
from tsm_edge.compile.backends.cpu.int8.images import byte_image, quad_image, repeated, store, stored_zero
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering
from tsm_edge.compile.backends.cpu.int8.plan import INVERTED_RESIDUAL
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.backends.cpu.kernels.fused import describe_layers, fewest_rows, fused_arguments
from tsm_edge.compile.ir.element import LINE_BYTES, ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec, Stage
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef


@dataclass(frozen=True)
class Int8InvertedResidualSpec(KernelSpec):
    """Three layers in one kernel.

    Attributes
    ----------
    expand : Int8ConvolutionSpec
        Its target is the ring, at the start of the scratch memory.
    depthwise : Int8DepthwiseSpec
        From the ring to one row behind it.
    project : Int8ConvolutionSpec
        From that row to the block's output.
    expanded_height : int
        Rows the expanded tensor would have.
    """

    expand: Int8ConvolutionSpec
    depthwise: Int8DepthwiseSpec
    project: Int8ConvolutionSpec
    expanded_height: int

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "inverted_residual"

    @property
    def parallel(self) -> Items:
        """Output rows; the first row of a range expands up to two rows more than the others."""
        rows = self.project.target.height
        return Items(rows, grain=fewest_rows(rows), resumes=True)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The layers, in the order in which they are reported."""
        expanded, rows = self.expand.target, self.project.target.height
        return (
            Stage("expand", 2 * self.expanded_height * expanded.width * self.expand.weights),
            Stage("depthwise", rows * self.depthwise.flops),
            Stage("project", rows * self.project.row_flops),
        )

    @property
    def bytes(self) -> int:
        """The block's input, all weights, its output, and the residual that is added to it."""
        weights = self.expand.weights + self.depthwise.weights + self.project.weights
        outputs = 2 if self.project.made.residual is not None else 1
        return self.expand.source.value_bytes + weights + outputs * self.project.target.value_bytes

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order; bytes, whatever lies in them."""
        return fused_arguments(
            "uint8",
            ("expand", "depthwise", "project"),
            ("cache", "cache", self.expand.cache),
            ("residual", "input", self.project.made.residual),
            ("tap", "next_cache", self.project.tap),
        )

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread: the ring and the depthwise row."""
        row = self.project.source
        return row.start + row.bytes

    def describe(self) -> str:
        """The tile of every stage."""
        return describe_layers(expand=self.expand, depthwise=self.depthwise, project=self.project)

    def write(self, name: str) -> Any:
        """See :func:`inverted_residual`."""
        return inverted_residual(name, self)


def lower_inverted_residual(at: ByteLowering, unit: InvertedResidual) -> None:
    """Three layers as one kernel, the tensors between them in a thread's scratch memory."""
    expand, depthwise, project = unit.layers
    at.floats.chose(INVERTED_RESIDUAL, unit.layers)
    instructions, integers = at.instructions, at.quantisation.convolutions
    inner, outer = inputs_of(at, expand), residual_of(at, project)
    channels, height, width = at.size_of(expand.output)
    _, _, row_width = at.size_of(depthwise.output)
    ring = quad_image(KERNEL, width, channels, at.scale(expand.output).zero, instructions)
    behind = ceil_div(ring.elements, LINE_BYTES) * LINE_BYTES
    row = byte_image(1, row_width, channels, at.scale(depthwise.output).zero, instructions.lanes)
    row = replace(row, start=behind)
    target = target_image(at, project)
    read: dict[str, Image] = {name: levels.image for name, levels in inner.items()}
    made: dict[str, Image] = {name: levels.image for name, levels in outer.items()} | {"source": row, "target": target}
    tile = row_tile(at, project, target)
    buffers = {name: levels.buffer for name, levels in (inner | outer).items()}
    tap = next_cache(at, project, target, tile)
    if tap is not None:
        made["tap"] = at.caches[tap]
        buffers["tap"] = BufferRef("next_cache", tap)
    spec = Int8InvertedResidualSpec(
        expand=convolution_spec(at, expand, read | {"target": ring}, row_tile(at, expand, ring)),
        depthwise=Int8DepthwiseSpec(
            instructions, ring, row, depthwise.strides[0], requantised(integers[depthwise.output])
        ),
        project=convolution_spec(at, project, made, tile),
        expanded_height=height,
    )
    buffers |= {
        "expand_weights": at.add_weights(pack_convolution(spec.expand, integers[expand.output])),
        "depthwise_weights": at.add_weights(pack_depthwise(spec.depthwise, integers[depthwise.output])),
        "project_weights": at.add_weights(pack_convolution(spec.project, integers[project.output])),
        "scratch": BufferRef("scratch"),
        "target": make_target(at, project, target),
    }
    at.floats.call(spec, buffers, at.floats.label(unit.layers))


def inverted_residual(name: str, spec: Int8InvertedResidualSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    stride = spec.depthwise.stride
    with emit.kernel(name, spec) as kernel, emit.loop(kernel.end, kernel.begin) as y:
        top = y * stride - 1
        # Rows the previous output row left in the ring are still there; the first of a range finds none.
        none = emit.both(emit.equal(kernel.resumed, 0), emit.equal(y, kernel.begin))
        with emit.loop(KERNEL, emit.select(none, 0, KERNEL - stride)) as step:
            _ring_row(spec, kernel.buffers, top + step)
        kernel.stage_done("expand")
        _depthwise_row(spec, kernel.buffers, top)
        kernel.stage_done("depthwise")
        convolve_row(spec.project, _named(kernel.buffers, spec.project, "scratch", "project_weights"), 0, y)
        kernel.stage_done("project")
    return kernel.function


def _named(buffers: Buffers, spec: Int8ConvolutionSpec, source: str, weights: str, target: str = "target") -> Buffers:
    """A stage's buffers, by the names its own kernel has for them."""
    optional = ("cache",) * (spec.cache is not None) + ("tap",) * (spec.tap is not None)
    optional += ("residual",) * (spec.made.residual is not None)
    named = {"source": buffers[source], "weights": buffers[weights], "target": buffers[target]}
    return named | {name: buffers[name] for name in optional}


def _ring_row(spec: Int8InvertedResidualSpec, buffers: Buffers, expanded_row: Expr) -> None:
    """Expand one row into its slot; a row outside the image is zeros."""
    ring, slot = spec.depthwise.source, _slot(expanded_row)
    inside = emit.both(expanded_row >= 0, expanded_row < spec.expanded_height)
    with emit.when(inside):
        named = _named(buffers, spec.expand, "source", "expand_weights", "scratch")
        convolve_row(spec.expand, named, expanded_row, slot)
    size, byte = spec.expand.instructions.vector_bytes, stored_zero(ring, spec.expand.instructions)
    with emit.when(emit.negate(inside)), emit.loop(ring.row // size) as vector:
        store(buffers["scratch"], ring.origin + slot * ring.row + vector * size, repeated(byte, size), size)


def _slot(expanded_row: Expr) -> Expr:
    return emit.mod(expanded_row + 1, KERNEL)


def _depthwise_row(spec: Int8InvertedResidualSpec, buffers: Buffers, top: Expr) -> None:
    depthwise, ring = spec.depthwise, spec.depthwise.source
    named = {"source": buffers["scratch"], "weights": buffers["depthwise_weights"], "target": buffers["scratch"]}
    slots = [ring.origin + _slot(top + row) * ring.row for row in range(KERNEL)]
    size, lanes = depthwise.instructions.vector_bytes, depthwise.instructions.lanes

    def block_of(block: Expr, vectors: int) -> None:
        first = block * TOGETHER
        target = depthwise.target.origin + first * lanes
        depthwise_row(depthwise, named, DepthwiseRow(lambda row: slots[row] + first * size, target, first, vectors))

    with emit.loop(depthwise.blocks) as block:
        for_block(depthwise.vectors, block, block_of)
