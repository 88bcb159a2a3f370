"""An inverted residual as one kernel: expand, depthwise and project, an output row at a time.

The expanded tensor, six times as wide as the block's input, never exists: the kernel keeps the few expanded rows that
the depthwise window covers in a ring, a thread's own scratch memory that stays in its L2 cache, makes one new row (or
two, at stride 2) for every output row, and projects the depthwise row while it is still in L1. A thread makes the
first rows of its range anew; nothing else is computed twice.

The first layer of MobileNet-V2 (a 3×3 stem on the camera frame, followed by depthwise and projection) is the same
thing with another convolution in front.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tsm_edge.compile.backends.cpu.choose.fusion import InvertedResidual
from tsm_edge.compile.backends.cpu.choose.tiles import worth_pairing
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import Part, zero_border
from tsm_edge.compile.backends.cpu.kernels.convolution_lowering import (
    ConvolutionSettings,
    convolution_inputs,
    convolution_settings,
    convolution_spec,
    other_convolution_settings,
)
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import (
    ConvolutionSpec,
    Row,
    pack_weights,
    row_of,
)
from tsm_edge.compile.backends.cpu.kernels.depthwise import (
    DepthwiseRow,
    DepthwiseSettings,
    DepthwiseSpec,
    depthwise_settings,
    depthwise_spec,
    other_depthwise_settings,
    pack_depthwise,
    row_run,
)
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.backends.cpu.kernels.fused import (
    depthwise_buffers,
    describe_layers,
    expand_buffers,
    fewest_rows,
    fused_arguments,
)
from tsm_edge.compile.backends.cpu.kernels.register_tile import convolve_row
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir.element import item_bytes
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec, Stage
from tsm_edge.compile.ir.layout import Border, Image
from tsm_edge.compile.ir.program import BufferRef


@dataclass(frozen=True)
class InvertedResidualSpec(KernelSpec):
    """Three layers in one kernel.

    Attributes
    ----------
    expand : ConvolutionSpec
        Its target is the ring: as many rows as the depthwise kernel is high, with the left and right border.
    depthwise : DepthwiseSpec
        From the ring to one row.
    project : ConvolutionSpec
        From that row to the block's output.
    expanded_height : int
        Rows the expanded tensor would have.
    """

    expand: ConvolutionSpec
    depthwise: DepthwiseSpec
    project: ConvolutionSpec
    expanded_height: int

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "inverted_residual"

    @property
    def parallel(self) -> Items:
        """Output rows of all frames.

        The first row of those taken from another thread expands two rows more than the others. A thread that goes on
        where it was finds the last rows in its ring.
        """
        target = self.project.target
        return Items(target.rows, grain=fewest_rows(target.height), resumes=True)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The layers, in the order in which they are reported."""
        expanded, row, frames = self.expand.target, self.depthwise.target, self.project.target.frames
        return (
            Stage("expand", 2 * frames * self.expanded_height * expanded.width * self.expand.weights),
            Stage("depthwise", 2 * self.project.target.rows * row.width * self.depthwise.weights),
            Stage("project", self.project.flops),
        )

    @property
    def bytes(self) -> int:
        """The block's input, all weights, its output, and the residual that is added to it."""
        weights = self.expand.weights + self.depthwise.weights + self.project.weights
        outputs = 2 if self.project.residual is not None else 1
        source, target = self.expand.source, self.project.target
        return source.value_bytes + weights * item_bytes(source.dtype) + outputs * target.value_bytes

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return fused_arguments(
            self.expand.dtype,
            ("expand", "depthwise", "project"),
            ("cache", "cache", self.expand.cache),
            ("residual", "input", self.project.residual),
            ("tap", "next_cache", self.project.tap),
        )

    def describe(self) -> str:
        """The tile of every stage."""
        return describe_layers(expand=self.expand, depthwise=self.depthwise, project=self.project)

    def write(self, name: str) -> Any:
        """See :func:`inverted_residual`."""
        return inverted_residual(name, self)

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread: the ring and the depthwise row."""
        return self.expand.target.bytes + self.depthwise.target.bytes


@dataclass(frozen=True)
class InvertedResidualSettings:
    """What is chosen for an inverted residual.

    Attributes
    ----------
    expand, depthwise, project
        Of the three layers.
    paired : bool
        Two neighbouring pixels of the depthwise row share vectors for the projection.
    """

    expand: ConvolutionSettings
    depthwise: DepthwiseSettings
    project: ConvolutionSettings
    paired: bool = False


def _lower(at: Lowering, unit: InvertedResidual) -> None:
    """Three layers as one kernel, the tensors between them in a thread's scratch memory."""
    expand, depthwise, project = unit.layers
    inputs = convolution_inputs(at, expand)
    residual = at.tensors.vectors(project.residual) if project.residual is not None else None
    _, channels, height, width = at.graph.shapes[expand.output]
    _, _, row_height, row_width = at.graph.shapes[depthwise.output]
    border = at.border_of(depthwise)
    ring = at.nhwc(depthwise.weight.shape[2], width, channels, Border(left=border.left, right=border.right))
    settings = at.given(unit.layers, InvertedResidualSettings)
    if settings is None:
        outputs = int(project.weight.shape[0])
        paired = worth_pairing(at.core, row_height * at.graph.frames, row_width, channels, outputs)
    else:
        paired = settings.paired
    row = replace(at.nhwc(1, row_width, channels), paired=paired)
    target = at.tensors.output(project.output)
    tap = at.caches.take(project.output)
    inner = {name: tensor.image for name, tensor in inputs.items()} | {"target": ring}
    outer = {"source": row, "target": target.image}
    if residual is not None:
        outer["residual"] = residual.image
    if tap is not None:
        outer["tap"] = at.caches.images[tap]
    if settings is None:
        settings = InvertedResidualSettings(
            convolution_settings(at, expand, inner),
            depthwise_settings(at, depthwise, row),
            convolution_settings(at, project, outer),
            paired,
        )
    others = _others(at, unit, settings, inner, outer)
    at.chose(RULE.name, unit.layers, settings, others)
    spec = InvertedResidualSpec(
        expand=convolution_spec(at, expand, inner, settings.expand),
        depthwise=depthwise_spec(at, depthwise, ring, row, settings.depthwise),
        project=convolution_spec(at, project, outer, settings.project),
        expanded_height=height,
    )
    buffers = {name: tensor.buffer for name, tensor in inputs.items()} | {
        "expand_weights": at.add_packed(pack_weights, spec.expand, expand.weight, expand.bias, 1),
        "depthwise_weights": at.add_packed(pack_depthwise, spec.depthwise, depthwise.weight, depthwise.bias),
        "project_weights": at.add_packed(pack_weights, spec.project, project.weight, project.bias, 1),
        "scratch": BufferRef("scratch"),
        "target": target.buffer,
    }
    if residual is not None:
        buffers["residual"] = residual.buffer
    if tap is not None:
        buffers["tap"] = BufferRef("next_cache", tap)
    at.call(spec, buffers, at.label(unit.layers))


def _others(
    at: Lowering,
    unit: InvertedResidual,
    settings: InvertedResidualSettings,
    inner: Mapping[str, Image],
    outer: Mapping[str, Image],
) -> Iterator[InvertedResidualSettings]:
    """What may be faster, the likeliest first: one of the three layers otherwise.

    A row's panels are always outside: the order of items is not there to choose, nor are blocks.
    """
    for part in other_convolution_settings(at, unit.project, outer, settings.project):
        yield replace(settings, project=part)
    for part in other_convolution_settings(at, unit.expand, inner, settings.expand):
        yield replace(settings, expand=part)
    for depthwise in other_depthwise_settings(at, unit.depthwise, outer["source"], settings.depthwise):
        yield replace(settings, depthwise=depthwise)


RULE = Rule("inverted_residual", lambda unit: isinstance(unit, InvertedResidual), _lower, InvertedResidualSettings)


def inverted_residual(name: str, spec: InvertedResidualSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel:
        buffers = kernel.buffers
        anew = emit.equal(kernel.resumed, 0)
        with emit.when(anew):
            _zero_side_borders(spec, buffers["scratch"])
        stride, height = spec.depthwise.strides[0], spec.depthwise.kernel[0]
        target = spec.project.target
        with emit.loop(kernel.end, kernel.begin) as item:
            frame, y = emit.in_frame(item, target.height, target.frames)
            top = y * stride - spec.depthwise.pad_top
            # Rows the previous output row left in the ring are still there; the first of a range, or frame, finds none.
            none = emit.both(anew, emit.equal(item, kernel.begin))
            if target.frames > 1:
                none = emit.either(none, emit.equal(y, 0))
            kept = emit.select(none, 0, height - stride) if height > stride else 0
            with emit.loop(height, kept) as step:
                _ring_row(spec, buffers, top + step, frame)
            kernel.stage_done("expand")
            _depthwise_row(spec, buffers, top)
            kernel.stage_done("depthwise")
            _project_row(spec, buffers, y, frame)
            zero_border(buffers["target"], target, Part(y, 0, frame, target.width), spec.project.lanes)
            kernel.stage_done("project")
    return kernel.function


def _slot(spec: InvertedResidualSpec, expanded_row: Expr) -> Expr:
    """Offset of an expanded row's ring slot (column 0, channel 0)."""
    ring = spec.expand.target
    return ring.origin + emit.mod(expanded_row + spec.depthwise.pad_top, ring.height) * ring.row


def _zero_side_borders(spec: InvertedResidualSpec, scratch: Any) -> None:
    ring, lanes = spec.expand.target, spec.expand.lanes
    columns = (*range(-ring.border.left, 0), *range(ring.width, ring.width + ring.border.right))
    with emit.loop(ring.height) as row, emit.loop(ring.pixel // lanes) as vector:
        for column in columns:
            at = ring.origin + row * ring.row + column * ring.pixel + vector * lanes
            emit.store(scratch, at, emit.splat(0.0, lanes, ring.dtype), lanes)


def _ring_row(spec: InvertedResidualSpec, buffers: Buffers, expanded_row: Expr, frame: Expr) -> None:
    """Expand one row into its slot; a row outside the image is zeros."""
    expand, ring = spec.expand, spec.expand.target
    slot = _slot(spec, expanded_row)
    inside = emit.both(expanded_row >= 0, expanded_row < spec.expanded_height)
    with emit.when(inside):
        whole = row_of(expand, expanded_row, frame)
        row = Row(whole.source, whole.kernel_rows, slot, cache=whole.cache, frame=frame)
        convolve_row(expand, expand_buffers(expand, buffers), row)
    with emit.when(emit.negate(inside)), emit.loop(ring.width * ring.pixel // expand.lanes) as vector:
        zero = emit.splat(0.0, expand.lanes, ring.dtype)
        emit.store(buffers["scratch"], slot + vector * expand.lanes, zero, expand.lanes)


def _depthwise_row(spec: InvertedResidualSpec, buffers: Buffers, top: Expr) -> None:
    depthwise = spec.depthwise
    row = DepthwiseRow(lambda ky: _slot(spec, top + ky), spec.expand.target.elements)
    vectors = depthwise.target.pixel // depthwise.lanes
    row_run(depthwise, depthwise_buffers(buffers, "scratch"), row, 0, 0, vectors)


def _project_row(spec: InvertedResidualSpec, buffers: Buffers, y: Expr, frame: Expr) -> None:
    project = spec.project
    whole = row_of(project, y, frame)
    start = spec.expand.target.elements
    row = Row(lambda _: start, (0, 1), whole.target, whole.residual, tap=whole.tap)
    named = {"source": buffers["scratch"], "weights": buffers["project_weights"], "target": buffers["target"]}
    named |= {name: buffers[name] for name in ("residual", "tap") if name in buffers}
    convolve_row(project, named, row)
