"""What a rule is given to turn a unit into calls: tensors, shift caches, the target, and a place for weights."""

from __future__ import annotations

from collections.abc import Sequence

from tsm_edge.compile.backends.common.shift_caches import ShiftCaches
from tsm_edge.compile.backends.common.step import Step
from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.backends.cpu.borders import NO_BORDER, needed_border, widest
from tsm_edge.compile.backends.cpu.choose.winograd import WinogradConvolution
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.kernels.copying import CopySpec
from tsm_edge.compile.backends.cpu.placement import Placement
from tsm_edge.compile.backends.cpu.plan import Unit, layers_of
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layout import Border, Image, nhwc, planar
from tsm_edge.compile.ir.program import NOTHING_PACKED, BufferRef, Packed


class Lowering(Step):
    """A step while it is written down.

    Attributes
    ----------
    core : Core
        Of the target, in the element type that is stored.
    caches : ShiftCaches
    tensors : Placement
    weight_bytes : int
        Of all convolutions of the network.
    """

    def __init__(
        self,
        graph: OnlineGraph,
        layers: Sequence[ir.Layer],
        units: Sequence[Unit],
        core: Core,
        choices: Choices,
        known: Packed = NOTHING_PACKED,
    ) -> None:
        super().__init__(graph, layers, choices, known)
        self.core = core
        self.lanes = core.lanes
        self.weight_bytes = core.bytes(sum(layer.weight.size for layer in layers if isinstance(layer, ir.Convolution)))
        self.caches = ShiftCaches(graph, layers, self._cache_image)
        self._winograd = {
            unit.convolution.output: unit.tile.outputs for unit in units if isinstance(unit, WinogradConvolution)
        }
        convolutions = [layer for layer in layers if isinstance(layer, ir.Convolution)]
        borders = widest((layer.source, self.border_of(layer)) for layer in convolutions)
        self.tensors = Placement(graph, core, borders, self.workspace, self.call)
        # A unit reads everything when it ends.
        self._position = {layer.output: index for index, unit in enumerate(units) for layer in layers_of(unit)}
        self._last_read = self._last_reads(len(units))
        frames, channels, height, width = graph.shapes[graph.frame]
        self.tensors.put(graph.frame, Tensor(planar(height, width, channels, frames=frames), BufferRef("frame")))
        for index, cache in enumerate(graph.caches):
            self.tensors.put(cache.input, Tensor(self.caches.images[index], BufferRef("cache", index)))

    def nhwc(self, height: int, width: int, channels: int, border: Border = NO_BORDER) -> Image:
        """Layout of an image that a kernel keeps to itself, in the element type that is stored."""
        return nhwc(height, width, channels, self.lanes, border, self.core.dtype)

    def _cache_image(self, height: int, width: int, channels: int) -> Image:
        """A cache without gaps between pixels: few channels rounded up to vectors would be mostly air."""
        return Image(height, width, channels, channels, width * channels, dtype=self.core.dtype)

    def border_of(self, layer: ir.Convolution) -> Border:
        """Zeros a convolution reads around its source."""
        return needed_border(layer, self.graph.shapes, self._winograd.get(layer.output, 0))

    def read_later(self, tensor: str, output: str) -> bool:
        """Whether anybody reads ``tensor`` after ``output`` is made, a shift cache included."""
        return self._last_read.get(tensor, 0) > self._position[output] or self.caches.wait_for(tensor)

    def copy_caches(self, tensor: str) -> None:
        """Write the caches cut from ``tensor`` that its kernel did not write on the way."""
        if tensor not in self.tensors:
            return
        found = self.tensors[tensor]
        for index in self.caches.take_all(tensor):
            spec = CopySpec(found.image, self.caches.images[index], self.lanes)
            buffers = {"source": found.buffer, "target": BufferRef("next_cache", index)}
            self.call(spec, buffers, self.caches.name(index))

    def _last_reads(self, end: int) -> dict[str, int]:
        """Tensor → position of its last reader; results are read after the end."""
        reads = dict.fromkeys(self.graph.results, end)
        for layer in self._layers:
            for source in () if isinstance(layer, ir.CacheTap) else ir.layer_sources(layer):
                reads[source] = max(reads.get(source, 0), self._position[layer.output])
        return reads
