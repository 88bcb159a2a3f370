"""Expand and depthwise on levels as one kernel: a panel of channels at a time, over the whole image.

As in float32 (``kernels/expand_depthwise.py``) a work item makes a panel of the expanded tensor, into a thread's own
scratch memory where the L1 cache holds it, and convolves it at once. It is for small images; larger ones go by rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.choose.fusion import ExpandDepthwise
from tsm_edge.compile.backends.cpu.int8.convolution import for_panel, register_tile, tile_start
from tsm_edge.compile.backends.cpu.int8.convolution_lowering import (
    convolution_spec,
    inputs_of,
    panel_image,
    panel_tile,
    requantised,
    tiles_together,
)
from tsm_edge.compile.backends.cpu.int8.convolution_spec import (
    Int8ConvolutionSpec,
    RegisterTile,
    pack_convolution,
)
from tsm_edge.compile.backends.cpu.int8.depthwise import (
    TOGETHER,
    DepthwiseRow,
    Int8DepthwiseSpec,
    depthwise_row,
    for_block,
    pack_depthwise,
)
from tsm_edge.compile.backends.cpu.int8.lowering import ByteLowering
from tsm_edge.compile.backends.cpu.int8.plan import EXPAND_DEPTHWISE
from tsm_edge.compile.backends.cpu.kernels import emit
from tsm_edge.compile.backends.cpu.kernels.emit import Buffers, Expr
from tsm_edge.compile.backends.cpu.kernels.fused import describe_layers, fused_arguments
from tsm_edge.compile.ir.element import ceil_div
from tsm_edge.compile.ir.kernel import Argument, Items, KernelSpec, Stage
from tsm_edge.compile.ir.program import BufferRef


@dataclass(frozen=True)
class Int8ExpandDepthwiseSpec(KernelSpec):
    """Two layers in one kernel.

    Attributes
    ----------
    expand : Int8ConvolutionSpec
        The whole layer; its target is a panel of the result, the scratch memory.
    depthwise : Int8DepthwiseSpec
        The whole layer, but that its source is that panel.
    tiles : int
        Panels of the expansion's register tiles in a panel of this kernel: whole blocks of the depthwise convolution.
    """

    expand: Int8ConvolutionSpec
    depthwise: Int8DepthwiseSpec
    tiles: int

    @property
    def rule(self) -> str:
        """Of the rule."""
        return "expand_depthwise"

    @property
    def blocks(self) -> int:
        """Of the depthwise convolution, in a panel."""
        return self.tiles * self.expand.tile.vectors // TOGETHER

    @property
    def parallel(self) -> Items:
        """Panels."""
        return Items(ceil_div(self.depthwise.blocks, self.blocks))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The layers, in the order in which they are reported."""
        return (Stage("expand", self.expand.flops), Stage("depthwise", self.depthwise.flops))

    @property
    def bytes(self) -> int:
        """The block's input, all weights, and the depthwise result."""
        weights = self.expand.weights + self.depthwise.weights
        return self.expand.source.value_bytes + weights + self.depthwise.target.value_bytes

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pointer arguments, in order; bytes, whatever lies in them."""
        return fused_arguments("uint8", ("expand", "depthwise"), ("cache", "cache", self.expand.cache))

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a thread: the panel."""
        return self.expand.target.bytes

    def describe(self) -> str:
        """The tile of every stage."""
        return describe_layers(expand=self.expand, depthwise=self.depthwise)

    def write(self, name: str) -> Any:
        """See :func:`expand_depthwise`."""
        return expand_depthwise(name, self)


def lower_expand_depthwise(at: ByteLowering, unit: ExpandDepthwise) -> None:
    """Two layers as one kernel, a panel of the tensor between them in a thread's scratch memory."""
    expand, depthwise = unit.layers
    at.floats.chose(EXPAND_DEPTHWISE, unit.layers)
    instructions, integers = at.instructions, at.quantisation.convolutions
    found = inputs_of(at, expand)
    tile = panel_tile(at, expand)
    panel = panel_image(at, expand, depthwise, tile)
    images = {name: levels.image for name, levels in found.items()} | {"target": panel}
    target = at.image(depthwise.output)
    made = requantised(integers[depthwise.output])
    spec = Int8ExpandDepthwiseSpec(
        expand=convolution_spec(at, expand, images, tile),
        depthwise=Int8DepthwiseSpec(instructions, panel, target, depthwise.strides[0], made),
        tiles=tiles_together(tile.vectors),
    )
    buffers = {name: levels.buffer for name, levels in found.items()} | {
        "expand_weights": at.add_weights(pack_convolution(spec.expand, integers[expand.output])),
        "depthwise_weights": at.add_weights(pack_depthwise(spec.depthwise, integers[depthwise.output])),
        "scratch": BufferRef("scratch"),
        "target": at.make(depthwise.output, target),
    }
    at.floats.call(spec, buffers, at.floats.label(unit.layers))


def expand_depthwise(name: str, spec: Int8ExpandDepthwiseSpec) -> Any:
    """Write the kernel; returns its PrimFunc."""
    with emit.kernel(name, spec) as kernel, emit.loop(kernel.end, kernel.begin) as panel:
        _expand(spec, kernel.buffers, panel)
        kernel.stage_done("expand")
        _convolve(spec, kernel.buffers, panel)
        kernel.stage_done("depthwise")
    return kernel.function


def _expand(spec: Int8ExpandDepthwiseSpec, buffers: Buffers, panel: Expr) -> None:
    """Make the panel: its weights stay in L1 while the image goes by."""
    expand, tiles = spec.expand, spec.tiles
    named = {"source": buffers["source"], "weights": buffers["expand_weights"], "target": buffers["scratch"]}
    if expand.cache is not None:
        named["cache"] = buffers["cache"]
    with emit.loop(_count(panel, tiles, expand.panels)) as part:

        def image(at: Expr, vectors: int) -> None:
            with emit.loop(expand.target.height) as y, emit.loop(expand.row_tiles) as step:
                tile = RegisterTile(y, tile_start(expand, step), y, at, vectors, part * expand.tile.vectors)
                register_tile(expand, named, tile)

        for_panel(expand, panel * tiles + part, image)


def _convolve(spec: Int8ExpandDepthwiseSpec, buffers: Buffers, panel: Expr) -> None:
    depthwise, image = spec.depthwise, spec.depthwise.source
    size, lanes = depthwise.instructions.vector_bytes, depthwise.instructions.lanes
    named = {"source": buffers["scratch"], "weights": buffers["depthwise_weights"], "target": buffers["target"]}
    with emit.loop(_count(panel, spec.blocks, depthwise.blocks)) as part:

        def rows(block: Expr, vectors: int) -> None:
            with emit.loop(depthwise.target.height) as y:
                start = image.origin + (y * depthwise.stride - 1) * image.row + part * (TOGETHER * size)
                target = emit.pixel_at(depthwise.target, y, 0) + block * (TOGETHER * lanes)
                row = DepthwiseRow(lambda ky: start + ky * image.row, target, block * TOGETHER, vectors)
                depthwise_row(depthwise, named, row)

        for_block(depthwise.vectors, panel * spec.blocks + part, rows)


def _count(panel: Expr, together: int, whole: int) -> Expr:
    """How many of the ``whole`` parts are in a panel of ``together``."""
    return together if whole % together == 0 else emit.smaller(whole - panel * together, together)
