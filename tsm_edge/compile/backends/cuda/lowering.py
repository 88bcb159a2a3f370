"""What a rule is given to turn a layer into calls: tensors, shift caches, the GPU, and a place for weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tsm_edge.cards import GpuSpec
from tsm_edge.cards.precision import Precision
from tsm_edge.compile.backends.common.shift_caches import ShiftCaches
from tsm_edge.compile.backends.common.step import Step
from tsm_edge.compile.backends.cuda.kernels.copying import CopySpec
from tsm_edge.compile.backends.cuda.tensors import Planes, Tensors
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import OnlineGraph, Shape
from tsm_edge.compile.ir.layout import Image
from tsm_edge.compile.ir.program import BufferRef
from tsm_edge.errors import CompileError

# Where halfs are only stored: of a plane that is. Rounding larger ones costs more than all the others.
_MOST_STORED_PIXELS = 14 * 14
# What saturation ([0, 1]) stands for: ReLU6.
SATURATED = ir.Clamp(0.0, 6.0)


class Lowering(Step):
    """A step while it is written down.

    Attributes
    ----------
    gpu : GpuSpec
    precision : Precision
    tensors : Tensors
    caches : ShiftCaches
    waiting : dict of str to Convolution
        Tensor → the layer that makes it together with its reader.
    halfs_are_stored : bool
        Tensors of halfs are multiplied and summed in fp32, and large images are fp32.
    """

    def __init__(
        self,
        graph: OnlineGraph,
        layers: Sequence[ir.Layer],
        gpu: GpuSpec,
        precision: Precision,
        choices: Choices,
    ) -> None:
        super().__init__(graph, layers, choices)
        choices.check_layers(set(ir.layer_names(graph, layers).values()))
        self.gpu, self.precision = gpu, precision
        self.halfs_are_stored = precision.storage == "float16" and precision.accumulator == "float32"
        most_pixels = _MOST_STORED_PIXELS if self.halfs_are_stored else None
        self.tensors = Tensors(graph, precision.storage, self.workspace, most_pixels)
        self.waiting: dict[str, ir.Convolution] = {}
        self.caches = ShiftCaches(graph, layers, self.tensors.image)
        for index, cache in enumerate(graph.caches):
            self.tensors.put(cache.input, Planes(self.caches.images[index], BufferRef("cache", index)))

    def plain(self, tensor: str) -> Planes:
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

    def are_planes(self, source: Image, target: Image) -> bool:
        """Whether source and target are in the element types in which rules for planes compute."""
        if self.halfs_are_stored:
            return {source.dtype, target.dtype} <= {"float32", "float16"}
        return source.dtype == target.dtype == self.precision.storage

    def scale_of(self, layer: ir.Convolution) -> float:
        """6 where ReLU6 can be saturation: all readers take the factor into their weights."""
        return 6.0 if layer.clamp == SATURATED and self._readers_scale(layer.output) else 1.0

    def _readers_scale(self, tensor: str) -> bool:
        if tensor == self.graph.logits or self.caches.is_source(tensor):
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

    def only_reader(self, tensor: str) -> ir.Layer | None:
        """The one layer that reads a tensor; None: there are others, or the tensor is wanted outside."""
        if tensor == self.graph.logits or self.caches.is_source(tensor):
            return None
        readers = [layer for layer in self._layers if tensor in ir.layer_sources(layer)]
        return readers[0] if len(readers) == 1 else None

    def copy_caches(self, tensor: str) -> None:
        """Write the caches cut from ``tensor`` that its kernel did not write on the way."""
        if tensor not in self.tensors:
            return
        for index in self.caches.take_all(tensor):
            found = self.plain(tensor)
            spec = CopySpec(found.image, self.caches.images[index])
            buffers = {"source": found.buffer, "target": BufferRef("next_cache", index)}
            self.call(spec, buffers, self.caches.name(index))


def refused_settings(label: str, settings: object) -> CompileError:
    """Of settings that were given: no kernel can be written for them, or it would not fit the GPU."""
    return CompileError(
        f"choices: {label} cannot have {settings}", "compile without these choices: the rules then decide"
    )


def keeps_scale(shapes: Mapping[str, Shape], layer: ir.View) -> bool:
    """Whether a view is of the same shape, or of a vector: then what is stored stays as it is."""
    new = shapes[layer.output]
    vector = len(new) in (2, 4) and new[0] == 1 and all(size == 1 for size in new[2:])
    return vector or shapes[layer.source] == new
