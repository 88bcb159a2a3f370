"""Fused layers + target card → a program: layouts, borders, kernels and their buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tsm_edge.cards import CpuSpec
from tsm_edge.compile import layers as ir
from tsm_edge.compile.algorithms import winograd_layers
from tsm_edge.compile.blocks import fused_blocks
from tsm_edge.compile.graph import CachePair, OnlineGraph
from tsm_edge.compile.ir.kernel import KernelSpec
from tsm_edge.compile.legalize import legalize
from tsm_edge.compile.program import BufferRef, KernelCall, Program, WorkspaceBuffer
from tsm_edge.compile.schedules.convolution_spec import ConvolutionSpec, pack_weights
from tsm_edge.compile.schedules.copying import CopySpec, ShiftCopySpec
from tsm_edge.compile.schedules.depthwise import DepthwiseSpec, pack_depthwise
from tsm_edge.compile.schedules.elementwise import ElementwiseSpec, operand_name
from tsm_edge.compile.schedules.expand_depthwise import ExpandDepthwiseSpec
from tsm_edge.compile.schedules.geometry import Border, Image, nhwc, planar
from tsm_edge.compile.schedules.inverted_residual import InvertedResidualSpec
from tsm_edge.compile.schedules.pooling import AveragePoolSpec, MaxPoolSpec
from tsm_edge.compile.schedules.tiles import (
    WinogradTile,
    depthwise_tile,
    gemm_tile,
    k_block,
    k_loop,
    run_of_tiles,
    worth_pairing,
)
from tsm_edge.compile.schedules.winograd import WinogradSpec, pack_winograd, transformed_images, winograd_border
from tsm_edge.errors import CompileError

# On a dense tensor these change the shape and nothing else.
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
NO_BORDER = Border()
# A wider kernel reads so many columns outside a planar frame that a padded copy of it costs less than guards.
WIDEST_GUARDED_KERNEL = 3


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor is and how it lies there."""

    image: Image
    buffer: BufferRef


def lower(graph: OnlineGraph, layers: list[ir.Layer], cpu: CpuSpec) -> Program:
    """Decide layouts and write down the calls of one step.

    Raises
    ------
    CompileError
        A layer no rule can compile.
    """
    return _Lowering(graph, layers, cpu).run()


class _Lowering:
    def __init__(self, graph: OnlineGraph, layers: list[ir.Layer], cpu: CpuSpec) -> None:
        self.graph = graph
        self.layers = layers
        self.cpu = cpu
        self.lanes = cpu.vector_lanes
        self.tensors: dict[str, _Tensor] = {}
        self.dense: dict[str, BufferRef] = {}  # tensors that also lie there without gaps, in ONNX's own layout
        self.calls: list[KernelCall] = []
        self.images: list[tuple[str, Image]] = []
        self.weights: list[np.ndarray] = []
        self.kernel_names: dict[KernelSpec, str] = {}
        self.cache_images = [_cache_image(cache) for cache in graph.caches]
        self.cache_index = {cache.output: index for index, cache in enumerate(graph.caches)}
        self.taps = self._plan_taps()
        self.weight_bytes = sum(4 * layer.weight.size for layer in layers if isinstance(layer, ir.Convolution))
        blocks = fused_blocks(graph, layers, cpu)
        self.fused = {block[-1].output: block for block in blocks}
        self.fused_away = {layer.output for block in blocks for layer in block[:-1]}
        apart = [layer for layer in layers if layer.output not in self.fused and layer.output not in self.fused_away]
        self.winograd_tiles = winograd_layers(graph, apart, cpu)
        self.borders = self._borders()
        self.position = {layer.output: index for index, layer in enumerate(layers)}
        for block in blocks:  # a fused block reads everything when it ends
            self.position |= {layer.output: self.position[block[-1].output] for layer in block}
        self.last_read = self._last_reads()

    def run(self) -> Program:
        _, _, height, width = self.graph.shapes[self.graph.frame]
        self.tensors[self.graph.frame] = _Tensor(planar(height, width, 3), BufferRef("frame"))
        for index, cache in enumerate(self.graph.caches):
            self.tensors[cache.input] = _Tensor(self.cache_images[index], BufferRef("cache", index))
        for layer in self.layers:
            _LOWER[type(layer)](self, layer)
            self._copy_taps(layer.output)
        logits = self.tensors[self.graph.logits]
        if logits.buffer.space != "workspace":
            raise CompileError("the logits are a graph input: there is nothing to compile")
        return Program(
            calls=tuple(self.calls),
            workspace=self._liveness(logits.buffer.index),
            weights=tuple(self.weights),
            caches=tuple(self.cache_images),
            logits=logits.buffer.index,
        )

    # Buffers ---------------------------------------------------------------------------------------------------

    def _new(self, tensor: str, image: Image) -> _Tensor:
        self.images.append((tensor, image))
        made = _Tensor(image, BufferRef("workspace", len(self.images) - 1))
        self.tensors[tensor] = made
        return made

    def _borders(self) -> dict[str, Border]:
        """The border each tensor is to be made with: what its widest reader needs."""
        borders: dict[str, Border] = {}
        for layer in self.layers:
            if isinstance(layer, ir.Convolution):
                need, have = self._needed_border(layer), borders.get(layer.source, NO_BORDER)
                borders[layer.source] = Border(
                    max(need.top, have.top),
                    max(need.left, have.left),
                    max(need.bottom, have.bottom),
                    max(need.right, have.right),
                )
        return borders

    def _needed_border(self, layer: ir.Convolution) -> Border:
        """Zeros the convolution reads around its source."""
        _, _, height, width = (*self.graph.shapes[layer.source], 1, 1)[:4]
        _, _, out_height, out_width = (*self.graph.shapes[layer.output], 1, 1)[:4]
        top, left, _, _ = layer.pads
        tile = self.winograd_tiles.get(layer.output)
        if tile is not None:
            return winograd_border((height, width), (out_height, out_width), (top, left), tile.outputs)
        bottom = (out_height - 1) * layer.strides[0] + layer.weight.shape[2] - top - height
        right = (out_width - 1) * layer.strides[1] + layer.weight.shape[3] - left - width
        return Border(top, left, max(0, bottom), max(0, right))

    def _output(self, tensor: str) -> _Tensor:
        return self._new(tensor, self._output_image(tensor))

    def _output_image(self, tensor: str) -> Image:
        shape = self.graph.shapes[tensor]
        batch, channels, height, width = shape if len(shape) == 4 else (*shape, 1, 1)[:4]
        if batch != 1:
            raise CompileError(f"tensor {tensor!r} has batch {batch}; an online model has batch 1")
        border = self.borders.get(tensor, NO_BORDER)
        return nhwc(height, width, channels, self.lanes, border)

    def _add_weights(self, packed: np.ndarray) -> BufferRef:
        self.weights.append(packed)
        return BufferRef("weights", len(self.weights) - 1)

    def _call(self, spec: KernelSpec, buffers: Mapping[str, BufferRef], layer: str) -> None:
        name = self.kernel_names.setdefault(spec, f"tsm_k{len(self.kernel_names)}_{spec.rule}")
        refs = tuple(buffers[argument.name] for argument in spec.arguments)
        self.calls.append(KernelCall(name, spec, refs, layer))

    def _source(self, tensor: str, border: Border = NO_BORDER) -> _Tensor:
        """The tensor with at least this border, copied if it was not made with one."""
        found = self.tensors[tensor]
        have = found.image.border
        enough = have.top >= border.top and have.left >= border.left
        if enough and have.bottom >= border.bottom and have.right >= border.right:
            return found
        key = f"{tensor} padded {border}"
        if key in self.tensors:
            return self.tensors[key]
        image = found.image
        if image.channel > 1:
            padded = planar(image.height, image.width, image.channels, border)
        else:
            padded = nhwc(image.height, image.width, image.channels, self.lanes, border)
        made = self._new(key, padded)
        spec = CopySpec(image, padded, self.lanes)
        self._call(spec, {"source": found.buffer, "target": made.buffer}, key)
        return made

    def _vectors(self, tensor: str, border: Border = NO_BORDER) -> _Tensor:
        """The tensor as NHWC with whole vectors of channels, for rules that read vectors."""
        found = self._source(tensor, border)
        image = found.image
        if image.channel == 1 and image.pixel % self.lanes == 0:
            return found
        key = f"{tensor} as NHWC {border}"
        if key not in self.tensors:
            made = self._new(key, nhwc(image.height, image.width, image.channels, self.lanes, border))
            plain = self.tensors[tensor]
            spec = CopySpec(plain.image, made.image, self.lanes)
            self._call(spec, {"source": plain.buffer, "target": made.buffer}, key)
        return self.tensors[key]

    # Shift caches ----------------------------------------------------------------------------------------------

    def _plan_taps(self) -> dict[str, list[tuple[int, int]]]:
        """Tensor → the caches (index, channels) its first channels become."""
        taps: dict[str, list[tuple[int, int]]] = {}
        tapped = {layer.output for layer in self.layers if isinstance(layer, ir.CacheTap)}
        for layer in self.layers:
            if isinstance(layer, ir.CacheTap):
                taps.setdefault(layer.source, []).append((self.cache_index[layer.output], layer.channels))
        for output, index in self.cache_index.items():
            if output not in tapped:  # the whole tensor is the next cache
                taps.setdefault(output, []).append((index, self.graph.caches[index].shape[1]))
        return taps

    def _last_reads(self) -> dict[str, int]:
        """Tensor → position of its last reader; outputs are read after the end."""
        reads = {self.graph.logits: len(self.layers)}
        for layer in self.layers:
            for source in () if isinstance(layer, ir.CacheTap) else ir.layer_sources(layer):
                reads[source] = max(reads.get(source, 0), self.position[layer.output])
        return reads

    def _take_tap(self, tensor: str) -> int | None:
        """A cache the kernel that makes ``tensor`` can write itself."""
        waiting = self.taps.get(tensor)
        return waiting.pop()[0] if waiting else None

    def _copy_taps(self, tensor: str) -> None:
        """Caches nobody wrote on the way."""
        found = self.tensors.get(tensor)
        if found is None:
            return
        for index, _ in self.taps.pop(tensor, []):
            image = self.cache_images[index]
            spec = CopySpec(found.image, image, self.lanes)
            buffers = {"source": found.buffer, "target": BufferRef("next_cache", index)}
            self._call(spec, buffers, self.graph.caches[index].output)

    # Layers ----------------------------------------------------------------------------------------------------

    def convolution(self, layer: ir.Convolution) -> None:
        if layer.output in self.fused_away:
            return
        match self.fused.get(layer.output):
            case (expand, depthwise, project):
                self._inverted_residual(expand, depthwise, project)
            case (expand, depthwise):
                self._expand_depthwise(expand, depthwise)
            case None:
                self._single_convolution(layer)

    def _single_convolution(self, layer: ir.Convolution) -> None:
        if layer.depthwise:
            self._depthwise(layer)
        elif layer.output in self.winograd_tiles:
            self._winograd(layer, self.winograd_tiles[layer.output])
        else:
            self._convolution(layer)

    def _convolution(self, layer: ir.Convolution) -> None:
        inputs = self._inputs(layer)
        target_image = self._output_image(layer.output)
        tap = self._take_tap(layer.output)
        images = {name: tensor.image for name, tensor in inputs.items()} | {"target": target_image}
        if tap is not None:
            images["tap"] = self.cache_images[tap]
        pointwise = layer.weight.shape[2:] == (1, 1) and layer.strides == (1, 1) and layer.pads == (0, 0, 0, 0)
        if pointwise and all(image.dense_rows for image in images.values()):
            images = {name: image.flat() for name, image in images.items()}
        spec = self._in_k_blocks(self._convolution_spec(layer, images))
        if self._can_overwrite_residual(layer, spec, inputs, target_image):
            spec = replace(spec, in_place=True)
            target = self.tensors[layer.output] = inputs["residual"]
        else:
            target = self._new(layer.output, target_image)
        buffers = {name: tensor.buffer for name, tensor in inputs.items()} | {
            "target": target.buffer,
            "scratch": BufferRef("scratch"),
            "weights": self._add_weights(pack_weights(spec, layer.weight, layer.bias, layer.groups)),
        }
        if tap is not None:
            buffers["tap"] = BufferRef("next_cache", tap)
        self._call(spec, buffers, layer.output)

    def _in_k_blocks(self, spec: ConvolutionSpec) -> ConvolutionSpec:
        """With its k loop in blocks, where a panel's weights would not stay in L1 from one tile to the next.

        Only where weights are the larger part of what is read: a pixel is read once more for every panel.
        """
        if spec.group_vectors or spec.source.channel > 1 or spec.tiles < 2 or not spec.tile.panels_outside:
            return spec
        size = k_block(self.cpu, spec.tile, spec.kernel[0] * spec.kernel[1], spec.reduction_channels)
        # The first block has all of the shift cache's channels: where they reach into the last, it would be both.
        cached = 0 if spec.cache is None else spec.cache.channels
        if not size or -(-cached // size) >= -(-spec.reduction_channels // size):
            return spec
        return replace(spec, k_block=size, tile=replace(spec.tile, block=run_of_tiles(spec.tiles)))

    def _can_overwrite_residual(
        self, layer: ir.Convolution, spec: ConvolutionSpec, inputs: Mapping[str, _Tensor], target: Image
    ) -> bool:
        """Whether the sum may take the place of the residual, which then need not come from memory twice.

        Nobody may read the residual afterwards, and no register tile may be computed twice (the last tile of a row is
        moved back where the row is not a multiple of it).
        """
        residual = inputs.get("residual")
        if residual is None or residual.image != target or spec.target.width % spec.tile.rows:
            return False
        if residual.buffer.space != "workspace" or residual.buffer == inputs["source"].buffer:
            return False
        now = self.position[layer.output]
        names = [name for name, tensor in self.tensors.items() if tensor.buffer == residual.buffer]
        return not any(self.last_read.get(name, 0) > now or self.taps.get(name) for name in names)

    def _inputs(self, layer: ir.Convolution) -> dict[str, _Tensor]:
        """The tensors a convolution reads, by the names of its kernel's arguments."""
        plain = self.tensors[layer.source]
        # The camera frame is read as it is, with guards at its edges, where a padded copy would cost more than they do.
        guarded = plain.image.channel > 1 and layer.weight.shape[3] <= WIDEST_GUARDED_KERNEL
        needed = NO_BORDER if guarded else self._needed_border(layer)
        inputs = {"source": self._source(layer.source, needed)}
        if layer.residual is not None:
            inputs["residual"] = self._vectors(layer.residual)
        if layer.shift is not None:
            inputs["cache"] = self.tensors[layer.shift.cache]
        return inputs

    def _convolution_spec(self, layer: ir.Convolution, images: Mapping[str, Image]) -> ConvolutionSpec:
        source, target = images["source"], images["target"]
        outputs, per_group, *kernel = layer.weight.shape
        reduction_channels, group_vectors, tiled_channels = per_group, 0, outputs
        if layer.groups > 1:
            reduction_channels, group_vectors = self._group_split(layer, outputs // layer.groups, per_group)
            tiled_channels = group_vectors * self.lanes
        reduction = reduction_channels * kernel[0] * kernel[1]
        tile = gemm_tile(self.cpu, target.height, target.width, reduction, tiled_channels, paired=source.paired)
        if layer.groups > 1:
            while group_vectors % tile.vectors:
                tile = gemm_tile(self.cpu, target.height, target.width, reduction, (tile.vectors - 1) * self.lanes)
            tile = replace(tile, tail_vectors=0, panels=math.ceil(outputs / (tile.vectors * self.lanes)))
        return ConvolutionSpec(
            source=source,
            target=target,
            kernel=(kernel[0], kernel[1]),
            strides=layer.strides,
            pad_top=layer.pads[0],
            pad_left=layer.pads[1],
            reduction_channels=reduction_channels,
            tile=tile,
            lanes=self.lanes,
            low=layer.clamp.low,
            high=layer.clamp.high,
            groups=layer.groups,
            group_vectors=group_vectors,
            residual=images.get("residual"),
            cache=images.get("cache"),
            tap=images.get("tap"),
            prefetch=self._far(layer, images),
            k_loop=k_loop(self.cpu),
            guarded=source.channel > 1 and source.border == NO_BORDER != self._needed_border(layer),
        )

    def _far(self, layer: ir.Convolution, images: Mapping[str, Image]) -> tuple[str, ...]:
        """Operands too large to be found in the L2 cache, where asking for them ahead of their use is worth it.

        Arm's cores follow streams by themselves, and every instruction takes the place of another there: they run in
        order, or two or three a cycle.
        """
        if self.cpu.triple.startswith(("aarch64", "arm")):
            return ()
        sizes = {name: 4 * image.elements for name, image in images.items() if name in ("residual", "target")}
        # Weights are read once a frame: by the time they are needed again, all the others have gone by.
        sizes["weights"] = self.weight_bytes
        if layer.weight.shape[2:] == (1, 1) and images["source"].channel == 1:
            sizes["source"] = 4 * images["source"].elements
        # The shift caches are touched once a frame too, however small.
        return ("caches", *sorted(name for name, size in sizes.items() if size > self.cpu.l2_kib * 1024 // 4))

    def _winograd(self, layer: ir.Convolution, tile: WinogradTile) -> None:
        source = self._vectors(layer.source, self._needed_border(layer))
        residual = self._vectors(layer.residual) if layer.residual is not None else None
        target = self._output(layer.output)
        channels, vectors = layer.weight.shape[1], tile.product.vectors
        block, products = transformed_images(tile.outputs, tile.block, channels, vectors, self.lanes)
        product = ConvolutionSpec(
            source=block,
            target=products,
            kernel=(1, 1),
            strides=(1, 1),
            pad_top=0,
            pad_left=0,
            reduction_channels=channels,
            tile=tile.product,
            lanes=self.lanes,
            low=-math.inf,
            high=math.inf,
            prefetch=tuple(name for name in self._far(layer, {"source": block}) if name == "weights"),
            k_loop=k_loop(self.cpu),
        )
        spec = WinogradSpec(
            source=source.image,
            target=target.image,
            pad_top=layer.pads[0],
            pad_left=layer.pads[1],
            outputs=tile.outputs,
            block=tile.block,
            product=product,
            low=layer.clamp.low,
            high=layer.clamp.high,
            residual=None if residual is None else residual.image,
        )
        buffers = {
            "source": source.buffer,
            "weights": self._add_weights(pack_winograd(spec, layer.weight, layer.bias)),
            "scratch": BufferRef("scratch"),
            "target": target.buffer,
        }
        if residual is not None:
            buffers["residual"] = residual.buffer
        self._call(spec, buffers, layer.output)

    def _inverted_residual(self, expand: ir.Convolution, depthwise: ir.Convolution, project: ir.Convolution) -> None:
        """Three layers as one kernel, the tensors between them in a thread's scratch memory."""
        inputs = self._inputs(expand)
        residual = self._vectors(project.residual) if project.residual is not None else None
        _, channels, height, width = self.graph.shapes[expand.output]
        _, _, row_height, row_width = self.graph.shapes[depthwise.output]
        border = self._needed_border(depthwise)
        kernel_rows = depthwise.weight.shape[2]
        ring = nhwc(kernel_rows, width, channels, self.lanes, Border(left=border.left, right=border.right))
        outputs = int(project.weight.shape[0])
        paired = worth_pairing(self.cpu, row_height, row_width, channels, outputs)
        row = replace(nhwc(1, row_width, channels, self.lanes), paired=paired)
        target = self._output(project.output)
        tap = self._take_tap(project.output)
        outer = {"source": row, "target": target.image}
        if residual is not None:
            outer["residual"] = residual.image
        if tap is not None:
            outer["tap"] = self.cache_images[tap]
        images = {name: tensor.image for name, tensor in inputs.items()}
        spec = InvertedResidualSpec(
            expand=self._convolution_spec(expand, images | {"target": ring}),
            depthwise=self._depthwise_spec(depthwise, ring, row),
            project=self._convolution_spec(project, outer),
            expanded_height=height,
        )
        buffers = {name: tensor.buffer for name, tensor in inputs.items()} | {
            "expand_weights": self._add_weights(pack_weights(spec.expand, expand.weight, expand.bias, 1)),
            "depthwise_weights": self._add_weights(pack_depthwise(spec.depthwise, depthwise.weight, depthwise.bias)),
            "project_weights": self._add_weights(pack_weights(spec.project, project.weight, project.bias, 1)),
            "scratch": BufferRef("scratch"),
            "target": target.buffer,
        }
        if residual is not None:
            buffers["residual"] = residual.buffer
        if tap is not None:
            buffers["tap"] = BufferRef("next_cache", tap)
        self._call(spec, buffers, project.output)

    def _expand_depthwise(self, expand: ir.Convolution, depthwise: ir.Convolution) -> None:
        """Two layers as one kernel, a panel of the tensor between them in a thread's scratch memory."""
        inputs = self._inputs(expand)
        images = {name: tensor.image for name, tensor in inputs.items()}
        _, channels, height, width = self.graph.shapes[expand.output]
        target = self._output(depthwise.output)
        whole = nhwc(height, width, channels, self.lanes)
        inner = self._convolution_spec(expand, images | {"target": whole})
        tile = replace(inner.tile, panels_outside=True, block=height * inner.row_tiles)
        panel = nhwc(height, width, tile.vectors * self.lanes, self.lanes, self._needed_border(depthwise))
        prefetch = tuple(name for name in inner.prefetch if name != "target")
        spec = ExpandDepthwiseSpec(
            expand=replace(inner, tile=tile, target=panel, prefetch=prefetch),
            depthwise=self._depthwise_spec(depthwise, panel, target.image),
        )
        buffers = {name: tensor.buffer for name, tensor in inputs.items()} | {
            "expand_weights": self._add_weights(pack_weights(spec.expand, expand.weight, expand.bias, 1)),
            "depthwise_weights": self._add_weights(pack_depthwise(spec.depthwise, depthwise.weight, depthwise.bias)),
            "scratch": BufferRef("scratch"),
            "target": target.buffer,
        }
        self._call(spec, buffers, depthwise.output)

    def _group_split(self, layer: ir.Convolution, out_per_group: int, in_per_group: int) -> tuple[int, int]:
        """Reduction channels and vectors of a panel's group.

        Groups that do not fill vectors are taken together until they do, with zero weights between them; if the
        number of groups does not allow that, all of them.
        """
        together = self.lanes // math.gcd(out_per_group, self.lanes)
        if layer.groups % together:
            together = layer.groups
        return in_per_group * together, math.ceil(out_per_group * together / self.lanes)

    def _depthwise(self, layer: ir.Convolution) -> None:
        if layer.residual is not None:
            raise CompileError(f"depthwise convolution {layer.output!r} has a residual, which no rule covers")
        source = self._vectors(layer.source, self._needed_border(layer))
        target = self._output(layer.output)
        spec = self._depthwise_spec(layer, source.image, target.image)
        buffers = {
            "source": source.buffer,
            "target": target.buffer,
            "weights": self._add_weights(pack_depthwise(spec, layer.weight, layer.bias)),
        }
        self._call(spec, buffers, layer.output)

    def _depthwise_spec(self, layer: ir.Convolution, source: Image, target: Image) -> DepthwiseSpec:
        channels, _, *kernel = layer.weight.shape
        return DepthwiseSpec(
            source=source,
            target=target,
            kernel=(kernel[0], kernel[1]),
            strides=layer.strides,
            pad_top=layer.pads[0],
            pad_left=layer.pads[1],
            tile=depthwise_tile(
                self.cpu,
                target.height,
                target.width,
                channels,
                (kernel[0], kernel[1]),
                layer.strides,
                target.paired,
            ),
            lanes=self.lanes,
            low=layer.clamp.low,
            high=layer.clamp.high,
        )

    def max_pool(self, layer: ir.MaxPool) -> None:
        source = self._vectors(layer.source)
        target = self._output(layer.output)
        spec = MaxPoolSpec(
            source.image, target.image, layer.kernel, layer.strides, layer.pads[0], layer.pads[1], self.lanes
        )
        buffers = {"source": source.buffer, "target": target.buffer}
        self._call(spec, buffers, layer.output)

    def average_pool(self, layer: ir.GlobalAveragePool) -> None:
        source = self._vectors(layer.source)
        target = self._output(layer.output)
        spec = AveragePoolSpec(source.image, target.image, self.lanes)
        buffers = {"source": source.buffer, "target": target.buffer}
        self._call(spec, buffers, layer.output)

    def shift_concat(self, layer: ir.ShiftConcat) -> None:
        source = self._vectors(layer.source)
        cache = self.tensors[layer.cache]
        target = self._output(layer.output)
        spec = ShiftCopySpec(source.image, cache.image, target.image, self.lanes)
        buffers = {"source": source.buffer, "cache": cache.buffer, "target": target.buffer}
        self._call(spec, buffers, layer.output)

    def view(self, layer: ir.View) -> None:
        if layer.source not in self.tensors:
            self._set_dense(layer.output, self.dense[layer.source])
            return
        self.tensors[layer.output] = self.tensors[layer.source]
        if layer.source in self.dense:
            self.dense[layer.output] = self.dense[layer.source]

    def cache_tap(self, layer: ir.CacheTap) -> None:
        """Written where its source is made; a tap on a graph input is copied here."""
        self._copy_taps(layer.source)

    def elementwise(self, layer: ir.Elementwise) -> None:
        operands: list[Image | float] = []
        buffers: dict[str, BufferRef] = {}
        for index, operand in enumerate(layer.operands):
            if isinstance(operand, str):
                found = self._vectors(operand)
                operands.append(found.image)
                buffers[operand_name(index)] = found.buffer
            elif operand.size == 1:
                operands.append(float(operand[0]))
            else:
                image = nhwc(1, 1, operand.size, self.lanes)
                operands.append(image)
                buffers[operand_name(index)] = self._add_weights(np.pad(operand, (0, image.pixel - operand.size)))
        target = self._output(layer.output)
        buffers["target"] = target.buffer
        spec = ElementwiseSpec(
            operation=layer.operation,
            operands=tuple(operands),
            target=target.image,
            lanes=self.lanes,
            parameters=layer.parameters,
            low=layer.clamp.low,
            high=layer.clamp.high,
        )
        self._call(spec, buffers, layer.output)

    # Operators without a rule: dense tensors -------------------------------------------------------------------

    def generic(self, layer: ir.Generic) -> None:
        """Compiled by TVM's own definition of the operator, on dense tensors."""
        node = layer.node
        if node.op in RESHAPES:
            self._set_dense(layer.output, self._dense(node.inputs[0]))
            return
        made = legalize(node, self.graph.shapes, self.graph.constants, self.graph.opset)
        parts = {name: self._dense(name) for name in layer.sources}
        parts |= {name: self._add_weights(value) for name, value in made.constants.items()}
        parts |= {name: self._new(name, _flat(size)).buffer for name, size in made.temporaries.items()}
        for step in made.steps:
            named = zip(step.spec.arguments, step.arguments, strict=True)
            self._call(step.spec, {argument.name: parts[name] for argument, name in named}, layer.output)
        self._set_dense(layer.output, parts[made.result])

    def _dense(self, tensor: str) -> BufferRef:
        """The tensor without gaps, in ONNX's own layout; copied if it does not lie like that."""
        if tensor not in self.dense:
            found = self.tensors[tensor]
            image = found.image
            plain = planar(image.height, image.width, image.channels)
            if image == plain or ((image.height, image.width) == (1, 1) and image.border == NO_BORDER):
                self.dense[tensor] = found.buffer
            else:
                made = self._new(f"{tensor} as NCHW", plain)
                self._repack(f"{tensor} as NCHW", found, made)
                self.dense[tensor] = made.buffer
        return self.dense[tensor]

    def _set_dense(self, tensor: str, buffer: BufferRef) -> None:
        """Note where a dense tensor lies, and copy it to NHWC if a rule will read it."""
        self.dense[tensor] = buffer
        shape = self.graph.shapes[tensor]
        fits = len(shape) in (2, 4) and shape[0] == 1
        _, channels, height, width = (*shape, 1, 1)[:4] if fits else (1, math.prod(shape), 1, 1)
        plain = _Tensor(planar(height, width, channels), buffer)
        readers = {type(layer) for layer in self.layers if tensor in ir.layer_sources(layer)} - {ir.Generic}
        if fits and readers:
            self._repack(f"{tensor} as NHWC", plain, self._output(tensor))
        elif readers - {ir.View}:
            raise CompileError(f"tensor {tensor!r} is {list(shape)}: expected [1, channels, height, width]")
        elif fits or tensor == self.graph.logits:
            self.tensors[tensor] = plain

    def _repack(self, layer: str, source: _Tensor, target: _Tensor) -> None:
        spec = CopySpec(source.image, target.image, self.lanes)
        self._call(spec, {"source": source.buffer, "target": target.buffer}, layer)

    def _liveness(self, logits: int) -> tuple[WorkspaceBuffer, ...]:
        first: dict[int, int] = {}
        last: dict[int, int] = {logits: len(self.calls)}
        for position, call in enumerate(self.calls):
            for ref in call.buffers:
                if ref.space == "workspace":
                    first.setdefault(ref.index, position)
                    last[ref.index] = max(last.get(ref.index, 0), position)
        return tuple(
            WorkspaceBuffer(name, image, first[index], last[index]) for index, (name, image) in enumerate(self.images)
        )


_LOWER: dict[type, Callable[[_Lowering, Any], None]] = {
    ir.Convolution: _Lowering.convolution,
    ir.MaxPool: _Lowering.max_pool,
    ir.GlobalAveragePool: _Lowering.average_pool,
    ir.ShiftConcat: _Lowering.shift_concat,
    ir.CacheTap: _Lowering.cache_tap,
    ir.View: _Lowering.view,
    ir.Elementwise: _Lowering.elementwise,
    ir.Generic: _Lowering.generic,
}


def _cache_image(cache: CachePair) -> Image:
    """A cache without gaps between pixels: few channels rounded up to vectors would be mostly air."""
    if len(cache.shape) != 4 or cache.shape[0] != 1:
        raise CompileError(f"cache {cache.input!r} is {list(cache.shape)}: expected [1, channels, height, width]")
    _, channels, height, width = cache.shape
    return Image(height, width, channels, channels, width * channels)


def _flat(size: int) -> Image:
    """Room for ``size`` bytes."""
    return planar(1, -(-size // 4), 1)
