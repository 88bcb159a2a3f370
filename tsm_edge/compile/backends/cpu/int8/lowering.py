"""What int8 rules are given to turn a layer into calls: where levels lie, and copies where a reader needs others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsm_edge.cards import TargetCard
from tsm_edge.compile.backends.common.workspace import Tensor
from tsm_edge.compile.backends.cpu.borders import NO_BORDER, fits, needed_border, widest
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.int8.conversion import DequantiseSpec, QuantiseSpec
from tsm_edge.compile.backends.cpu.int8.copying import CopyLevelsSpec
from tsm_edge.compile.backends.cpu.int8.images import ByteImage, byte_image
from tsm_edge.compile.backends.cpu.int8.instructions import instructions_of
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import CachePair, OnlineGraph, Shape
from tsm_edge.compile.ir.layout import Border, nhwc
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.compile.ir.quantisation import Quantisation, float_results
from tsm_edge.compile.ir.scale import Scale

# Bytes of a pixel of a frame or a cache are rounded up to a step of the k loop.
PIXEL_STEP = 4


@dataclass(frozen=True)
class Levels:
    """Where a tensor's levels are and how they lie there."""

    image: ByteImage
    buffer: BufferRef


class ByteLowering:
    """A step on levels while it is written down.

    Attributes
    ----------
    graph : OnlineGraph
    floats : Lowering
        Takes the calls; and the layers without an integer form, on float32 tensors of its own.
    instructions : Instructions
    quantisation : Quantisation
    caches : tuple of ByteImage
        Layout of each cache, in the graph's order.
    in_float : frozenset of str
        Tensors that convolutions make in float32.
    """

    def __init__(
        self,
        graph: OnlineGraph,
        layers: Sequence[ir.Layer],
        target: TargetCard,
        quantisation: Quantisation,
        choices: Choices,
    ) -> None:
        self.graph = graph
        self.instructions = instructions_of(target.cpu, target.name)
        self.floats = Lowering(graph, layers, tuple(layers), Core(target.cpu, "float32"), choices)
        self.core = self.floats.core
        self.quantisation = quantisation
        self.in_float = float_results(graph, layers)
        self.caches = tuple(self._cache_image(cache) for cache in graph.caches)
        self.weight_bytes = sum(layer.weight.size for layer in layers if isinstance(layer, ir.Convolution))
        convolutions = [layer for layer in layers if isinstance(layer, ir.Convolution) and not layer.depthwise]
        self._borders = widest((layer.source, needed_border(layer, graph.shapes)) for layer in convolutions)
        self._levels: dict[str, Levels] = {
            cache.input: Levels(self.caches[index], BufferRef("cache", index))
            for index, cache in enumerate(graph.caches)
        }
        # Kernels in float32 do not know how caches lie: none of them writes one.
        self._taps = {
            name: self.floats.caches.take_all(name)
            for name in (graph.frame, *(cache.input for cache in graph.caches), *(layer.output for layer in layers))
        }
        self._readers: dict[str, list[ir.Layer]] = {}
        for layer in layers:
            for source in ir.layer_sources(layer):
                self._readers.setdefault(source, []).append(layer)

    def scale(self, tensor: str) -> Scale:
        """Of a tensor."""
        return self.quantisation.tensors[tensor]

    def size_of(self, tensor: str) -> tuple[int, int, int]:
        """Channels, height and width of a tensor."""
        return _image_size(self.graph.shapes[tensor])

    def border(self, tensor: str) -> Border:
        """What its readers need around it."""
        return self._borders.get(tensor, NO_BORDER)

    def only_reader(self, tensor: str) -> ir.Layer | None:
        """The layer that alone reads a tensor; None: there are others, or the step returns it."""
        found = self._readers.get(tensor, [])
        return found[0] if len(found) == 1 and not self.graph.is_output(tensor) else None

    def image(self, tensor: str, border: Border = NO_BORDER, pad_to: int = 0) -> ByteImage:
        """NHWC with whole vectors of channels."""
        channels, height, width = self.size_of(tensor)
        return byte_image(height, width, channels, self.scale(tensor).zero, pad_to or self.instructions.lanes, border)

    def make(self, tensor: str, image: ByteImage) -> BufferRef:
        """Room for levels a rule is about to make."""
        buffer = self.floats.workspace.room(tensor, image)
        self._levels[tensor] = Levels(image, buffer)
        return buffer

    def alias(self, tensor: str, of: str) -> None:
        """A tensor that lies where another does, in levels or in float32."""
        if of in self._levels:
            found = self._levels[of]
            self._levels[tensor] = found
        else:
            self.floats.tensors.alias(tensor, of)

    def levels(self, tensor: str, border: Border = NO_BORDER, step: int = PIXEL_STEP) -> Levels:
        """A tensor's levels with at least this border and whole ``step`` bytes a pixel; made or copied where needed."""
        if tensor not in self._levels:
            self._quantise(tensor)
        found = self._levels[tensor]
        if fits(found.image.border, border) and found.image.pixel % step == 0:
            return found
        key = f"{tensor} padded {border} by {step}"
        if key not in self._levels:
            channels, height, width = found.image.channels, found.image.height, found.image.width
            image = byte_image(height, width, channels, found.image.zero, step, border)
            self.make(key, image)
            self._copy(found, self._levels[key], key)
        return self._levels[key]

    def in_float32(self, tensor: str) -> Tensor:
        """A tensor's values, for a layer without an integer form."""
        tensors = self.floats.tensors
        on_levels = tensor in self._levels and (tensor not in tensors or tensors[tensor].buffer.space == "cache")
        if not on_levels:
            return tensors[tensor]
        found = self.levels(tensor, step=self.instructions.lanes)
        image = nhwc(found.image.height, found.image.width, found.image.channels, self.core.lanes)
        made = tensors.new(tensor, image)
        spec = DequantiseSpec(self.instructions, found.image, image, self.scale(tensor).step)
        self.floats.call(spec, {"source": found.buffer, "target": made.buffer}, f"{tensor} in float32")
        return made

    def cache_of(self, tensor: str) -> int | None:
        """A cache that is cut from a tensor and that nobody writes yet."""
        waiting = self._taps.get(tensor)
        return waiting[-1] if waiting else None

    def take_cache(self, tensor: str) -> int:
        """That cache, which the caller writes."""
        return self._taps[tensor].pop()

    def copy_caches(self, tensor: str) -> None:
        """Write the caches cut from a tensor that is there now."""
        for index in self._taps.pop(tensor, []):
            found = self.levels(tensor)
            target = Levels(self.caches[index], BufferRef("next_cache", index))
            self._copy(found, target, self.graph.caches[index].output)

    def add_weights(self, packed: np.ndarray) -> BufferRef:
        """Keep packed weights in the model."""
        return self.floats.add_weights(packed)

    def _copy(self, found: Levels, target: Levels, made: str) -> None:
        spec = CopyLevelsSpec(self.instructions, found.image, target.image)
        self.floats.call(spec, {"source": found.buffer, "target": target.buffer}, made)

    def _quantise(self, tensor: str) -> None:
        plain = self.floats.tensors[tensor]
        planar = tensor == self.graph.frame
        placed = plain if planar else self.floats.tensors.vectors(tensor)
        image = self.image(tensor, self.border(tensor), PIXEL_STEP if planar else 0)
        buffer = self.make(tensor, image)
        spec = QuantiseSpec(self.instructions, placed.image, image, self.scale(tensor).step)
        self.floats.call(spec, {"source": placed.buffer, "target": buffer}, f"{tensor} in levels")

    def _cache_image(self, cache: CachePair) -> ByteImage:
        channels, height, width = _image_size(cache.shape)
        return byte_image(height, width, channels, self.scale(cache.input).zero, PIXEL_STEP)


def _image_size(shape: Shape) -> tuple[int, int, int]:
    """Channels, height and width."""
    _, channels, height, width = (*shape, 1, 1)[:4]
    return channels, height, width
