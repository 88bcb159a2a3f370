"""What a rule is given to turn a layer into calls: tensors, shift caches, the GPU, and a place for weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tsm_edge.cards import GpuSpec
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.cuda.kernels.copying import CopySpec
from tsm_edge.compile.backends.cuda.tensors import Tensor, Tensors
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choice, Choices
from tsm_edge.compile.ir.graph import CachePair, OnlineGraph, Shape
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.ir.layout import Image, planes
from tsm_edge.compile.ir.program import BufferRef, KernelCall
from tsm_edge.errors import CompileError

# Products that are summed in halfs before the sum goes to fp32.
FLUSH = 64
# What saturation ([0, 1]) stands for: ReLU6.
SATURATED = ir.Clamp(0.0, 6.0)


class Lowering:
    """A step while it is written down.

    Attributes
    ----------
    graph : OnlineGraph
    gpu : GpuSpec
    precision : Precision
    tensors : Tensors
    caches : tuple of Image
        Layout of each shift cache, in the graph's order.
    flush : int
        Products of halfs that are summed before the sum goes to fp32; 0: a slice's whole reduction.
    calls, weights, choices
        What came out of it so far.
    """

    def __init__(
        self,
        graph: OnlineGraph,
        layers: Sequence[ir.Layer],
        gpu: GpuSpec,
        precision: Precision,
        choices: Choices,
    ) -> None:
        self.graph, self.gpu, self.precision, self.given = graph, gpu, precision, choices
        self.tensors = Tensors(graph, precision.storage)
        self.calls: list[KernelCall] = []
        self.weights: list[np.ndarray] = []
        self.choices: list[Choice] = []
        half = precision.storage == "float16"
        self.flush = FLUSH if half and precision.accumulator == "float32" else 0
        self._layers = layers
        self._node_names = {name: node.name for node in graph.nodes for name in node.outputs}
        self._kernel_names: dict[KernelSpec, str] = {}
        self.caches = tuple(map(self._cache_image, graph.caches))
        for index, cache in enumerate(graph.caches):
            self.tensors.put(cache.input, Tensor(self.caches[index], BufferRef("cache", index)))
        self._waiting = _waiting_caches(graph, layers)

    def _cache_image(self, cache: CachePair) -> Image:
        if len(cache.shape) != 4 or cache.shape[0] != 1:
            raise CompileError(
                f"cache {cache.input!r} is {list(cache.shape)}: expected [1, channels, height, width]",
                "export the caches as images, one a shifted block",
            )
        _, channels, height, width = cache.shape
        return planes(height, width, channels, "float32" if height * width == 1 else self.precision.storage)

    def call(self, spec: KernelSpec, buffers: Mapping[str, BufferRef], layer: str) -> None:
        """Add a call; ``buffers`` by the names of the kernel's arguments, more than it has are allowed."""
        self.calls.append(self.made_call(spec, buffers, layer))

    def made_call(self, spec: KernelSpec, buffers: Mapping[str, BufferRef], layer: str) -> KernelCall:
        """A call that is not added yet."""
        name = self._kernel_names.setdefault(spec, f"tsm_k{len(self._kernel_names)}_{spec.rule}")
        refs = tuple(buffers[argument.name] for argument in spec.arguments)
        return KernelCall(name, spec, refs, layer)

    def add_weights(self, packed: np.ndarray) -> BufferRef:
        """Keep packed weights in the model."""
        self.weights.append(np.ascontiguousarray(packed).ravel())
        return BufferRef("weights", len(self.weights) - 1)

    def chose(self, rule: str, layer: ir.Layer, settings: object = None) -> None:
        """Write down what was chosen."""
        self.choices.append(Choice(rule, (layer.output,), settings))

    def label(self, layer: ir.Layer) -> str:
        """The network's own name of a layer, for people."""
        named = layer.name if isinstance(layer, ir.Convolution) else self._node_names.get(layer.output, "")
        return named or layer.output

    def plain(self, tensor: str) -> Tensor:
        """A tensor whose stored values are its values.

        Raises
        ------
        CompileError
            They are not: :meth:`scale_of` should have known this reader.
        """
        found = self.tensors[tensor]
        if found.scale != 1.0:
            raise CompileError(f"tensor {tensor!r} is stored divided by {found.scale}", "please report it")
        return found

    def scale_of(self, layer: ir.Convolution) -> float:
        """6 where ReLU6 can be saturation: all readers take the factor into their weights."""
        return 6.0 if layer.clamp == SATURATED and self._readers_scale(layer.output) else 1.0

    def readers(self, tensor: str) -> set[type]:
        """Kinds of the layers that read a tensor."""
        return {type(layer) for layer in self._layers if tensor in ir.layer_sources(layer)}

    def _readers_scale(self, tensor: str) -> bool:
        if tensor == self.graph.logits or tensor in self._waiting:
            return False
        for reader in self._layers:
            if tensor not in ir.layer_sources(reader):
                continue
            if isinstance(reader, ir.View | ir.GlobalAveragePool):
                kept = not isinstance(reader, ir.View) or keeps_scale(self.graph.shapes, reader)
                if not kept or not self._readers_scale(reader.output):
                    return False
            elif not isinstance(reader, ir.Convolution) or reader.shift or reader.residual == tensor:
                return False
        return True

    def take_cache(self, tensor: str) -> int | None:
        """A cache that the kernel that makes ``tensor`` can write on the way; None: none is left."""
        waiting = self._waiting.get(tensor)
        return waiting.pop() if waiting else None

    def copy_caches(self, tensor: str) -> None:
        """Write the caches cut from ``tensor`` that its kernel did not write on the way."""
        if tensor not in self.tensors:
            return
        for index in self._waiting.pop(tensor, []):
            found = self.plain(tensor)
            spec = CopySpec(found.image, self.caches[index])
            buffers = {"source": found.buffer, "target": BufferRef("next_cache", index)}
            self.call(spec, buffers, self.graph.caches[index].output)


def keeps_scale(shapes: Mapping[str, Shape], layer: ir.View) -> bool:
    """Whether a view is of the same shape, or of a vector: then what is stored stays as it is."""
    new = shapes[layer.output]
    vector = len(new) in (2, 4) and new[0] == 1 and all(size == 1 for size in new[2:])
    return vector or shapes[layer.source] == new


def _waiting_caches(graph: OnlineGraph, layers: Sequence[ir.Layer]) -> dict[str, list[int]]:
    """Tensor → the caches whose next value is cut from it."""
    index = {cache.output: position for position, cache in enumerate(graph.caches)}
    waiting: dict[str, list[int]] = {}
    taps = {layer.output: layer.source for layer in layers if isinstance(layer, ir.CacheTap)}
    for name, position in index.items():
        waiting.setdefault(taps.get(name, name), []).append(position)
    return waiting
