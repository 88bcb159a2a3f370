"""What a rule is given to turn a unit into calls: tensors, shift caches, the target, and a place for weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from tsm_edge.compile.backends.cpu.borders import NO_BORDER, needed_border, widest
from tsm_edge.compile.backends.cpu.choose.winograd import WinogradConvolution
from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.kernels.copying import CopySpec
from tsm_edge.compile.backends.cpu.placement import Placement, Tensor
from tsm_edge.compile.backends.cpu.plan import Unit, layers_of
from tsm_edge.compile.backends.cpu.shift_caches import ShiftCaches
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.layout import Border, Image, nhwc, planar
from tsm_edge.compile.ir.program import BufferRef, KernelCall

_Settings = TypeVar("_Settings")


class Lowering:
    """A step while it is written down.

    Attributes
    ----------
    graph : OnlineGraph
    core : Core
        Of the target, in the element type that is stored.
    caches : ShiftCaches
    tensors : Placement
    weight_bytes : int
        Of all convolutions of the network.
    calls, weights, choices
        What came out of it so far.
    """

    def __init__(
        self,
        graph: OnlineGraph,
        layers: Sequence[ir.Layer],
        units: Sequence[Unit],
        core: Core,
        choices: Choices,
    ) -> None:
        self.graph = graph
        self.core = core
        self.lanes = core.lanes
        self.calls: list[KernelCall] = []
        self.weights: list[np.ndarray] = []
        self.choices: list[Choice] = []
        self.weight_bytes = core.bytes(sum(layer.weight.size for layer in layers if isinstance(layer, ir.Convolution)))
        self.caches = ShiftCaches(graph, layers, core.dtype)
        self._layers = layers
        self._given = choices
        self._names = ir.layer_names(graph, layers)
        self._kernel_names: dict[KernelSpec, str] = {}
        self._winograd = {
            unit.convolution.output: unit.tile.outputs for unit in units if isinstance(unit, WinogradConvolution)
        }
        convolutions = [layer for layer in layers if isinstance(layer, ir.Convolution)]
        borders = widest((layer.source, self.border_of(layer)) for layer in convolutions)
        self.tensors = Placement(graph, core, borders, self.call)
        # A unit reads everything when it ends.
        self._position = {layer.output: index for index, unit in enumerate(units) for layer in layers_of(unit)}
        self._last_read = self._last_reads(len(units))
        _, _, height, width = graph.shapes[graph.frame]
        self.tensors.put(graph.frame, Tensor(planar(height, width, 3), BufferRef("frame")))
        for index, cache in enumerate(graph.caches):
            self.tensors.put(cache.input, Tensor(self.caches.images[index], BufferRef("cache", index)))

    def call(self, spec: KernelSpec, buffers: Mapping[str, BufferRef], layer: str) -> None:
        """Add a call; ``buffers`` by the names of the kernel's arguments, more than it has are allowed.

        ``layer`` is for people: a :meth:`label`, or the tensor that a copy makes.
        """
        name = self._kernel_names.setdefault(spec, f"tsm_k{len(self._kernel_names)}_{spec.rule}")
        refs = tuple(buffers[argument.name] for argument in spec.arguments)
        self.calls.append(KernelCall(name, spec, refs, layer))

    def nhwc(self, height: int, width: int, channels: int, border: Border = NO_BORDER) -> Image:
        """Layout of an image that a kernel keeps to itself, in the element type that is stored."""
        return nhwc(height, width, channels, self.lanes, border, self.core.dtype)

    def add_weights(self, packed: np.ndarray) -> BufferRef:
        """Keep packed weights in the model."""
        self.weights.append(packed)
        return BufferRef("weights", len(self.weights) - 1)

    def given(self, layers: Sequence[ir.Layer], kind: type[_Settings]) -> _Settings | None:
        """The settings a rule was told to use for these layers; None: it chooses."""
        return self._given.settings(self._names[layers[-1].output], kind)

    def chose(self, rule: str, layers: Sequence[ir.Layer], settings: object = None) -> None:
        """Write down what was chosen."""
        self.choices.append(Choice(rule, tuple(self._names[layer.output] for layer in layers), settings))

    def label(self, layers: Sequence[ir.Layer]) -> str:
        """The network's own names of the layers, for people: ``features.3`` where they are parts of one block."""
        names = [self._names[layer.output] for layer in layers]
        blocks = list(dict.fromkeys(name.split(" ")[0] for name in names))
        return names[0] if len(names) == 1 else " + ".join(blocks)

    def border_of(self, layer: ir.Convolution) -> Border:
        """Zeros a convolution reads around its source."""
        return needed_border(layer, self.graph.shapes, self._winograd.get(layer.output, 0))

    def read_later(self, tensor: str, output: str) -> bool:
        """Whether anybody reads ``tensor`` after ``output`` is made, a shift cache included."""
        return self._last_read.get(tensor, 0) > self._position[output] or self.caches.wait_for(tensor)

    def readers(self, tensor: str) -> set[type]:
        """Kinds of the layers that read a tensor."""
        return {type(layer) for layer in self._layers if tensor in ir.layer_sources(layer)}

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
        """Tensor → position of its last reader; outputs are read after the end."""
        reads = {self.graph.logits: end}
        for layer in self._layers:
            for source in () if isinstance(layer, ir.CacheTap) else ir.layer_sources(layer):
                reads[source] = max(reads.get(source, 0), self._position[layer.output])
        return reads
