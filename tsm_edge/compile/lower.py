"""Fused layers + target card → a program: layouts, borders, kernels and their buffers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tsm_edge.cards import CpuSpec
from tsm_edge.compile import layers as ir
from tsm_edge.compile.graph import OnlineGraph
from tsm_edge.compile.program import BufferRef, KernelCall, Program, WorkspaceBuffer
from tsm_edge.compile.schedules.convolution import ConvolutionSpec, pack_weights
from tsm_edge.compile.schedules.copying import CopySpec, ShiftCopySpec
from tsm_edge.compile.schedules.depthwise import DepthwiseSpec, pack_depthwise
from tsm_edge.compile.schedules.geometry import Border, Image, nhwc, planar
from tsm_edge.compile.schedules.pooling import AveragePoolSpec, MaxPoolSpec
from tsm_edge.compile.schedules.tiles import depthwise_tile, gemm_tile
from tsm_edge.errors import CompileError

CACHE_LANES = 4
NO_BORDER = Border()


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
        self.calls: list[KernelCall] = []
        self.images: list[tuple[str, Image]] = []
        self.weights: list[np.ndarray] = []
        self.kernel_names: dict[Any, str] = {}
        self.cache_images = [
            nhwc(cache.shape[2], cache.shape[3], cache.shape[1], CACHE_LANES) for cache in graph.caches
        ]
        self.cache_index = {cache.output: index for index, cache in enumerate(graph.caches)}
        self.borders = _borders(graph, layers)
        self.taps = self._plan_taps()

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

    def _output(self, tensor: str) -> _Tensor:
        shape = self.graph.shapes[tensor]
        batch, channels, height, width = shape if len(shape) == 4 else (*shape, 1, 1)[:4]
        if batch != 1:
            raise CompileError(f"tensor {tensor!r} has batch {batch}; an online model has batch 1")
        border = self.borders.get(tensor, NO_BORDER)
        return self._new(tensor, nhwc(height, width, channels, self.lanes, border))

    def _add_weights(self, packed: np.ndarray) -> BufferRef:
        self.weights.append(packed)
        return BufferRef("weights", len(self.weights) - 1)

    def _call(self, rule: str, spec: Any, buffers: dict[str, BufferRef], layer: str, flops: int, moved: int) -> None:
        name = self.kernel_names.setdefault(spec, f"tsm_k{len(self.kernel_names)}_{rule}")
        refs = tuple(buffers[key] for key in spec.buffers)
        self.calls.append(KernelCall(name, spec, refs, layer, rule, flops, moved))

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
        moved = 4 * (image.elements + padded.elements)
        self._call("pad", spec, {"source": found.buffer, "target": made.buffer}, key, 0, moved)
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
            moved = 4 * (plain.image.elements + made.image.elements)
            self._call("repack", spec, {"source": plain.buffer, "target": made.buffer}, key, 0, moved)
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
            spec = CopySpec(found.image, image, CACHE_LANES)
            buffers = {"source": found.buffer, "target": BufferRef("next_cache", index)}
            self._call("cache", spec, buffers, self.graph.caches[index].output, 0, 8 * image.elements)

    # Layers ----------------------------------------------------------------------------------------------------

    def convolution(self, layer: ir.Convolution) -> None:
        if layer.depthwise:
            self._depthwise(layer)
            return
        source = self._source(layer.source, _needed_border(self.graph, layer))
        residual = self._vectors(layer.residual) if layer.residual else None
        cache = self.tensors[layer.shift.cache] if layer.shift else None
        target = self._output(layer.output)
        tap = self._take_tap(layer.output)
        images = {
            "source": source.image,
            "target": target.image,
            "residual": residual.image if residual else None,
            "cache": cache.image if cache else None,
            "tap": self.cache_images[tap] if tap is not None else None,
        }
        kernel = (layer.weight.shape[2], layer.weight.shape[3])
        pointwise = kernel == (1, 1) and layer.strides == (1, 1) and layer.pads == (0, 0, 0, 0)
        if pointwise and all(image is None or image.dense_rows for image in images.values()):
            images = {name: image.flat() if image else None for name, image in images.items()}
        spec = self._convolution_spec(layer, kernel, images)
        buffers = {
            "source": source.buffer,
            "target": target.buffer,
            "weights": self._add_weights(pack_weights(spec, layer.weight, layer.bias, layer.groups)),
        }
        for name, tensor in (("residual", residual), ("cache", cache)):
            if tensor is not None:
                buffers[name] = tensor.buffer
        if tap is not None:
            buffers["tap"] = BufferRef("next_cache", tap)
        pixels = target.image.height * target.image.width
        flops = 2 * pixels * layer.weight.size
        moved = 4 * (layer.weight.size + pixels * layer.weight.shape[0] * (2 if residual else 1))
        moved += 4 * source.image.height * source.image.width * source.image.channels
        self._call(_rule_name(layer, kernel), spec, buffers, layer.output, flops, moved)

    def _convolution_spec(
        self, layer: ir.Convolution, kernel: tuple[int, int], images: dict[str, Image | None]
    ) -> ConvolutionSpec:
        target, source = images["target"], images["source"]
        if target is None or source is None:
            raise TypeError("a convolution has a source and a target")
        outputs, per_group = layer.weight.shape[0], layer.weight.shape[1]
        reduction_channels, group_vectors, tiled_channels = per_group, 0, outputs
        if layer.groups > 1:
            reduction_channels, group_vectors = self._group_split(layer, outputs // layer.groups, per_group)
            tiled_channels = group_vectors * self.lanes
        reduction = reduction_channels * kernel[0] * kernel[1]
        tile = gemm_tile(self.cpu, target.height, target.width, reduction, tiled_channels)
        if layer.groups > 1:
            while group_vectors % tile.vectors:
                tile = gemm_tile(self.cpu, target.height, target.width, reduction, (tile.vectors - 1) * self.lanes)
            tile = replace(tile, tail_vectors=0, panels=math.ceil(outputs / (tile.vectors * self.lanes)))
        return ConvolutionSpec(
            source=source,
            target=target,
            kernel=kernel,
            strides=layer.strides,
            pad_top=layer.pads[0],
            pad_left=layer.pads[1],
            reduction_channels=reduction_channels,
            tile=tile,
            lanes=self.lanes,
            low=layer.clamp.low,
            high=layer.clamp.high,
            group_vectors=group_vectors,
            residual=images["residual"],
            cache=images["cache"],
            tap=images["tap"],
        )

    def _group_split(self, layer: ir.Convolution, out_per_group: int, in_per_group: int) -> tuple[int, int]:
        """Reduction channels and vectors of a panel's group; several narrow groups share one vector."""
        if out_per_group % self.lanes == 0:
            return in_per_group, out_per_group // self.lanes
        if self.lanes % out_per_group == 0 and layer.weight.shape[0] % self.lanes == 0:
            return in_per_group * (self.lanes // out_per_group), 1
        raise CompileError(
            f"grouped convolution {layer.output!r} has {out_per_group} channels a group, "
            f"expected a multiple or a divisor of the {self.lanes} vector lanes"
        )

    def _depthwise(self, layer: ir.Convolution) -> None:
        source = self._vectors(layer.source, _needed_border(self.graph, layer))
        target = self._output(layer.output)
        channels, _, kernel_height, kernel_width = layer.weight.shape
        image = target.image
        spec = DepthwiseSpec(
            source=source.image,
            target=image,
            kernel=(kernel_height, kernel_width),
            strides=layer.strides,
            pad_top=layer.pads[0],
            pad_left=layer.pads[1],
            tile=depthwise_tile(self.cpu, image.height, image.width, channels, kernel_width),
            lanes=self.lanes,
            low=layer.clamp.low,
            high=layer.clamp.high,
        )
        if layer.residual is not None:
            raise CompileError(f"depthwise convolution {layer.output!r} has a residual, which no rule covers")
        buffers = {
            "source": source.buffer,
            "target": target.buffer,
            "weights": self._add_weights(pack_depthwise(spec, layer.weight, layer.bias)),
        }
        outputs = image.height * image.width * channels
        moved = 4 * (source.image.height * source.image.width * channels + outputs + layer.weight.size)
        self._call("depthwise", spec, buffers, layer.output, 2 * outputs * kernel_height * kernel_width, moved)

    def max_pool(self, layer: ir.MaxPool) -> None:
        source = self._vectors(layer.source)
        target = self._output(layer.output)
        spec = MaxPoolSpec(
            source.image, target.image, layer.kernel, layer.strides, layer.pads[0], layer.pads[1], self.lanes
        )
        buffers = {"source": source.buffer, "target": target.buffer}
        self._call("max_pool", spec, buffers, layer.output, 0, 4 * (source.image.elements + target.image.elements))

    def average_pool(self, layer: ir.GlobalAveragePool) -> None:
        source = self._vectors(layer.source)
        target = self._output(layer.output)
        spec = AveragePoolSpec(source.image, target.image, self.lanes)
        buffers = {"source": source.buffer, "target": target.buffer}
        flops = source.image.height * source.image.width * source.image.channels
        self._call("average_pool", spec, buffers, layer.output, flops, 4 * source.image.elements)

    def shift_concat(self, layer: ir.ShiftConcat) -> None:
        source = self._vectors(layer.source)
        cache = self.tensors[layer.cache]
        target = self._output(layer.output)
        spec = ShiftCopySpec(source.image, cache.image, target.image, self.lanes)
        buffers = {"source": source.buffer, "cache": cache.buffer, "target": target.buffer}
        self._call("shift", spec, buffers, layer.output, 0, 8 * target.image.elements)

    def view(self, layer: ir.View) -> None:
        self.tensors[layer.output] = self.tensors[layer.source]

    def cache_tap(self, layer: ir.CacheTap) -> None:
        """Written where its source is made; a tap on a graph input is copied here."""
        self._copy_taps(layer.source)

    def generic(self, layer: ir.Generic) -> None:
        raise CompileError(
            f"operator {layer.node.op} ({layer.output!r}) is not one tsm-edge can compile",
            "export the model with tsm-edge export, or open an issue naming the operator",
        )

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
    ir.Generic: _Lowering.generic,
}


def _rule_name(layer: ir.Convolution, kernel: tuple[int, int]) -> str:
    if layer.groups > 1:
        return "grouped"
    if kernel == (1, 1):
        return "pointwise"
    return f"conv{kernel[0]}x{kernel[1]}"


def _needed_border(graph: OnlineGraph, layer: ir.Convolution) -> Border:
    """Zeros the convolution reads around its source."""
    _, _, height, width = (*graph.shapes[layer.source], 1, 1)[:4]
    _, _, out_height, out_width = (*graph.shapes[layer.output], 1, 1)[:4]
    top, left, _, _ = layer.pads
    bottom = (out_height - 1) * layer.strides[0] + layer.weight.shape[2] - top - height
    right = (out_width - 1) * layer.strides[1] + layer.weight.shape[3] - left - width
    return Border(top, left, max(0, bottom), max(0, right))


def _borders(graph: OnlineGraph, layers: list[ir.Layer]) -> dict[str, Border]:
    """The border each tensor is to be made with: what its widest reader needs."""
    borders: dict[str, Border] = {}
    for layer in layers:
        if isinstance(layer, ir.Convolution):
            need, have = _needed_border(graph, layer), borders.get(layer.source, NO_BORDER)
            borders[layer.source] = Border(
                max(need.top, have.top),
                max(need.left, have.left),
                max(need.bottom, have.bottom),
                max(need.right, have.right),
            )
    return borders
