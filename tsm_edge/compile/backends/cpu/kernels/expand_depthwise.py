"""Expand and depthwise of an inverted residual as one kernel: a panel of channels at a time, over the whole image.

The depthwise convolution of a channel needs no other channel: a work item makes one panel of the expanded tensor,
into a thread's own scratch memory where the L1 cache holds it, and convolves it at once. The expanded tensor, six
times as wide as the block's input, never exists, nothing is computed twice, and no thread reads what another made but
the block's input. It is for small images; where a panel is larger than the cache, ``inverted_residual`` goes by rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tsm_edge.compile.backends.cpu.choose.fusion import ExpandDepthwise
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.border import zero_whole_border
from tsm_edge.compile.backends.cpu.kernels.convolution_lowering import (
    ConvolutionSettings,
    convolution_inputs,
    convolution_settings,
    convolution_spec,
    other_convolution_settings,
)
from tsm_edge.compile.backends.cpu.kernels.convolution_spec import (
    ConvolutionSpec,
    RegisterTile,
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
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr, Kernel
from tsm_edge.compile.backends.cpu.kernels.fused import (
    depthwise_buffers,
    describe_layers,
    expand_buffers,
    fused_arguments,
)
from tsm_edge.compile.backends.cpu.kernels.register_tile import for_panel, register_tile, tile_start
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.rule import Rule
from tsm_edge.compile.ir.element import ceil_div, item_bytes
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec, Stage
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef


@dataclass(frozen=True)
class ExpandDepthwiseSpec(KernelSpec):
    """Two layers in one kernel.

    Attributes
    ----------
    expand : ConvolutionSpec
        Its target is one panel of the expanded tensor, with the border the depthwise convolution needs.
    depthwise : DepthwiseSpec
        From that panel to its channels of the result.
    """

    expand: ConvolutionSpec
    depthwise: DepthwiseSpec

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "expand_depthwise"

    @property
    def parallel(self) -> Items:
        """(Panel, frame) pairs: a panel's weights stay in L1 for all frames of a clip."""
        return Items(self.expand.tile.panels * self.frames)

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.depthwise.target.frames

    @property
    def _expand_weights(self) -> int:
        """Of the whole expansion: ``expand`` is one panel of it."""
        return self.depthwise.target.channels * self.expand.reduction

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The layers, in the order in which they are reported."""
        panel = self.expand.target
        return (
            Stage("expand", 2 * self.frames * panel.height * panel.width * self._expand_weights),
            Stage("depthwise", self.depthwise.flops),
        )

    @property
    def bytes(self) -> int:
        """The block's input, all weights, and the depthwise result."""
        weights = self._expand_weights + self.depthwise.weights
        source, target = self.expand.source, self.depthwise.target
        return source.value_bytes + weights * item_bytes(source.dtype) + target.value_bytes

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order."""
        return fused_arguments(self.expand.dtype, ("expand", "depthwise"), ("cache", "cache", self.expand.cache))

    def describe(self) -> str:
        """The tile of every stage."""
        return describe_layers(expand=self.expand, depthwise=self.depthwise)

    def write(self, name: str) -> Any:
        """See :func:`expand_depthwise`."""
        return expand_depthwise(name, self)

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread: the panel."""
        return self.expand.target.bytes


@dataclass(frozen=True)
class ExpandDepthwiseSettings:
    """What is chosen for the two layers; ``expand``'s tile is of a panel over the whole image."""

    expand: ConvolutionSettings
    depthwise: DepthwiseSettings


def _lower(at: Lowering, unit: ExpandDepthwise) -> None:
    """Two layers as one kernel, a panel of the tensor between them in a thread's scratch memory."""
    expand, depthwise = unit.layers
    inputs = convolution_inputs(at, expand)
    images = {name: tensor.image for name, tensor in inputs.items()}
    _, channels, height, width = at.graph.shapes[expand.output]
    target = at.tensors.output(depthwise.output)
    whole = at.nhwc(height, width, channels)
    settings = at.given(unit.layers, ExpandDepthwiseSettings)
    if settings is None:
        chosen = convolution_settings(at, expand, images | {"target": whole})
        tiles = ceil_div(width, chosen.tile.rows) * height
        settings = ExpandDepthwiseSettings(
            ConvolutionSettings(
                replace(chosen.tile, panels_outside=True, block=tiles),
                tuple(name for name in chosen.prefetch if name != "target"),
            ),
            depthwise_settings(at, depthwise, target.image),
        )
    at.chose(RULE.name, unit.layers, settings, _others(at, unit, settings, images | {"target": whole}, target.image))
    panel = at.nhwc(height, width, settings.expand.tile.vectors * at.lanes, at.border_of(depthwise))
    spec = ExpandDepthwiseSpec(
        expand=convolution_spec(at, expand, images | {"target": panel}, settings.expand),
        depthwise=depthwise_spec(at, depthwise, panel, target.image, settings.depthwise),
    )
    buffers = {name: tensor.buffer for name, tensor in inputs.items()} | {
        "expand_weights": at.add_packed(pack_weights, spec.expand, expand.weight, expand.bias, 1),
        "depthwise_weights": at.add_packed(pack_depthwise, spec.depthwise, depthwise.weight, depthwise.bias),
        "scratch": BufferRef("scratch"),
        "target": target.buffer,
    }
    at.call(spec, buffers, at.label(unit.layers))


def _others(
    at: Lowering,
    unit: ExpandDepthwise,
    settings: ExpandDepthwiseSettings,
    images: Mapping[str, Image],
    target: Image,
) -> Iterator[ExpandDepthwiseSettings]:
    """What may be faster, the likeliest first: one of the two layers otherwise, the panels still outside."""
    whole = images["target"]
    for part in other_convolution_settings(at, unit.expand, images, settings.expand):
        tiles = ceil_div(whole.width, part.tile.rows) * whole.height
        tile = replace(part.tile, panels_outside=True, block=tiles)
        names = tuple(name for name in part.prefetch if name != "target")
        yield replace(settings, expand=replace(part, tile=tile, prefetch=names))
    for depthwise in other_depthwise_settings(at, unit.depthwise, target, settings.depthwise):
        yield replace(settings, depthwise=depthwise)


RULE = Rule("expand_depthwise", lambda unit: isinstance(unit, ExpandDepthwise), _lower, ExpandDepthwiseSettings)


def expand_depthwise(name: str, spec: ExpandDepthwiseSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    panel_image, lanes = spec.expand.target, spec.expand.lanes
    with emit.kernel(name, spec) as kernel:
        buffers = kernel.buffers
        zero_whole_border(buffers["scratch"], panel_image, (0, panel_image.pixel), lanes)
        with emit.loop(kernel.end, kernel.begin) as item:
            panel, frame = emit.div(item, spec.frames), emit.mod(item, spec.frames)
            for_panel(spec.expand, panel, lambda at, vectors: _panel(spec, kernel, buffers, at, vectors, frame))
    return kernel.function


def _panel(spec: ExpandDepthwiseSpec, kernel: Kernel, buffers: Buffers, panel: Expr, vectors: int, frame: Expr) -> None:
    first = panel * spec.expand.tile.vectors
    _expand(spec.expand, buffers, panel, vectors, frame)
    kernel.stage_done("expand")
    _convolve(spec.depthwise, buffers, first, vectors, frame)
    kernel.stage_done("depthwise")


def _expand(spec: ConvolutionSpec, buffers: Buffers, panel: Expr, vectors: int, frame: Expr) -> None:
    """Make the panel: its weights stay in L1 while the image goes by."""
    named = expand_buffers(spec, buffers)
    channel = spec.first_channel(panel)
    with emit.loop(spec.target.height * spec.row_tiles) as index:
        whole = row_of(spec, emit.div(index, spec.row_tiles), frame)
        row = Row(whole.source, whole.kernel_rows, whole.target - channel, cache=whole.cache, frame=frame)
        x = tile_start(spec, emit.mod(index, spec.row_tiles)) if spec.row_tiles > 1 else 0
        register_tile(spec, named, RegisterTile(row, x, panel, vectors, index))


def _convolve(spec: DepthwiseSpec, buffers: Buffers, first: Expr, vectors: int, frame: Expr) -> None:
    """Depthwise convolution of the panel, whose first channels are vector ``first`` of the result."""
    image, target, tile = spec.source, spec.target, spec.tile
    with emit.loop(ceil_div(target.height, tile.rows)) as run:
        y = emit.smaller(run * tile.rows, target.height - tile.rows)
        top = image.origin + (y * spec.strides[0] - spec.pad_top) * image.row - first * spec.lanes
        row = DepthwiseRow(lambda ky: top + ky * image.row, emit.start_of(target, frame) + y * target.row, frame)
        row_run(spec, depthwise_buffers(buffers, "target"), row, y, first, vectors)
