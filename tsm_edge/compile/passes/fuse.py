"""Operator graph to fused layers: which operators a layer takes with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from tsm_edge.compile.ir.graph import FRAME_SHIFT, Node, OnlineGraph
from tsm_edge.compile.ir.layers import (
    CacheTap,
    Clamp,
    Convolution,
    Elementwise,
    FrameMean,
    FrameRun,
    FrameShift,
    Generic,
    GlobalAveragePool,
    Layer,
    MaxPool,
    Shift,
    ShiftConcat,
    View,
    layer_sources,
)
from tsm_edge.compile.passes.attention import with_attention
from tsm_edge.compile.passes.hard_swish import with_hard_swish
from tsm_edge.compile.passes.on_levels import with_quantisable
from tsm_edge.errors import CompileError


def fuse(graph: OnlineGraph) -> list[Layer]:
    """Turn a graph into fused layers in execution order.

    Raises
    ------
    CompileError
        A second output of an operator is read.
    """
    layers = [_layer(graph, node) for node in graph.nodes]
    for rewrite in (with_attention, _fuse_residuals, _fuse_clamps, _fuse_shifts, _read_elementwise):
        layers = rewrite(graph, layers)
    return with_quantisable(graph, with_hard_swish(graph, layers))


def _layer(graph: OnlineGraph, node: Node) -> Layer:
    if node.result:
        # TVM's importer has no values, or zeros, for statistics and indices beside the result.
        raise CompileError(
            f"operator {node.op} has a further output {node.outputs[0]!r}, which is read and cannot be compiled",
            "compute that value by an operator of its own (ReduceMean, ReduceMax, …) and export again",
        )
    read = _READERS.get(node.op)
    layer = read(graph, node) if read else None
    if isinstance(layer, Convolution):
        return _as_the_file_has_it(graph, node, replace(layer, name=node.name))
    if isinstance(layer, GlobalAveragePool) and graph.scales is not None:
        return replace(layer, quantisable=all(name in graph.scales.tensors for name in (layer.source, layer.output)))
    if layer is not None:
        return layer
    sources = tuple(name for name in node.inputs if name and name not in graph.constants)
    return Generic(node, sources, node.outputs[0])


def _as_the_file_has_it(graph: OnlineGraph, node: Node, layer: Convolution) -> Convolution:
    """Of a file that was quantised before: in integers where both what it reads and its weights are."""
    if graph.scales is None:
        return layer
    step = graph.scales.weight_steps.get(node.inputs[1])
    return replace(layer, weight_step=step, quantisable=step is not None and layer.source in graph.scales.tensors)


def _read_conv(graph: OnlineGraph, node: Node) -> Layer | None:
    attributes = node.attributes
    weight = graph.constants.get(node.inputs[1])
    bias = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    plain = list(attributes.get("dilations", [1, 1])) == [1, 1] and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    if weight is None or weight.ndim != 4 or not plain or (len(node.inputs) > 2 and node.inputs[2] and bias is None):
        return None
    return Convolution(
        source=node.inputs[0],
        output=node.outputs[0],
        weight=weight,
        bias=np.zeros(weight.shape[0], np.float32) if bias is None else bias,
        strides=tuple(attributes.get("strides", (1, 1))),
        pads=tuple(attributes.get("pads", (0, 0, 0, 0))),
        groups=attributes.get("group", 1),
    )


def _read_gemm(graph: OnlineGraph, node: Node) -> Layer | None:
    attributes = node.attributes
    weight = graph.constants.get(node.inputs[1])
    bias = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    scaled = attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0)
    if weight is None or scaled or (len(node.inputs) > 2 and bias is None):
        return None
    if graph.shapes[node.inputs[0]][0] != graph.frames:
        return None
    matrix = weight if attributes.get("transB", 0) else weight.T
    vector = np.zeros(matrix.shape[0], np.float32) if bias is None else bias.reshape(-1)
    if vector.size != matrix.shape[0]:
        return None
    return Convolution(node.inputs[0], node.outputs[0], np.ascontiguousarray(matrix)[:, :, None, None], vector)


def _read_matmul(graph: OnlineGraph, node: Node) -> Layer | None:
    weight = graph.constants.get(node.inputs[1])
    if weight is None or weight.ndim != 2 or graph.shapes[node.inputs[0]] != (graph.frames, weight.shape[0]):
        return None
    return Convolution(
        node.inputs[0],
        node.outputs[0],
        np.ascontiguousarray(weight.T)[:, :, None, None],
        np.zeros(weight.shape[1], np.float32),
    )


def _read_max_pool(graph: OnlineGraph, node: Node) -> Layer | None:
    attributes = node.attributes
    kernel = tuple(attributes["kernel_shape"])
    plain = (
        len(kernel) == 2
        and not attributes.get("ceil_mode", 0)
        and list(attributes.get("dilations", [1, 1])) == [1, 1]
        and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    )
    if not plain:
        return None
    return MaxPool(
        node.inputs[0],
        node.outputs[0],
        kernel,
        tuple(attributes.get("strides", (1, 1))),
        tuple(attributes.get("pads", (0, 0, 0, 0))),
    )


def _read_global_average(graph: OnlineGraph, node: Node) -> Layer | None:
    if node.inputs[0] == graph.frame_logits and node.outputs[0] == graph.logits:
        return FrameMean(node.inputs[0], node.outputs[0])
    if len(graph.shapes[node.inputs[0]]) != 4:
        return None
    if node.op == "ReduceMean":
        axes = node.attributes.get("axes")
        if axes is None and len(node.inputs) > 1:
            axes = graph.constants.get(node.inputs[1], np.array([])).reshape(-1).tolist()
        if sorted(axis % 4 for axis in axes or ()) != [2, 3]:
            return None
    return GlobalAveragePool(node.inputs[0], node.outputs[0])


def _read_view(graph: OnlineGraph, node: Node) -> Layer | None:
    """A reshape that only adds or removes trailing 1×1 dimensions keeps the channels where they are."""
    before, after = graph.shapes[node.inputs[0]], graph.shapes[node.outputs[0]]
    pointwise = before[:2] == after[:2] and math.prod(before) == math.prod(before[:2]) == math.prod(after[:2])
    return View(node.inputs[0], node.outputs[0]) if pointwise or before == after else None


def _read_frame_shift(graph: OnlineGraph, node: Node) -> Layer:
    runs = tuple(FrameRun(channels, offset) for channels, offset in node.attributes["runs"])
    return FrameShift(node.inputs[0], node.outputs[0], runs)


def _read_slice(graph: OnlineGraph, node: Node) -> Layer | None:
    """A tap writes the cache alone: where others read the slice too, it is made as a tensor."""
    taken, output = _channel_slice(graph, node), node.outputs[0]
    is_tap = taken and taken[0] == 0 and any(cache.output == output for cache in graph.caches)
    read = any(output in other.inputs for other in graph.nodes)
    return CacheTap(node.inputs[0], output, taken[1]) if taken and is_tap and not read else None


_READERS: Mapping[str, Callable[[OnlineGraph, Node], Layer | None]] = {
    "Conv": _read_conv,
    "Gemm": _read_gemm,
    "MatMul": _read_matmul,
    "MaxPool": _read_max_pool,
    "GlobalAveragePool": _read_global_average,
    "ReduceMean": _read_global_average,
    "Reshape": _read_view,
    "Flatten": _read_view,
    "Squeeze": _read_view,
    "Unsqueeze": _read_view,
    "Identity": _read_view,
    "Slice": _read_slice,
    FRAME_SHIFT: _read_frame_shift,
}


def _channel_slice(graph: OnlineGraph, node: Node) -> tuple[int, int] | None:
    """``(start, stop)`` of a Slice along channels with step 1, else None."""
    shape = graph.shapes[node.inputs[0]]
    if any(name and name not in graph.constants for name in node.inputs[1:]):
        return None
    parts = [graph.constants[name] if name else None for name in node.inputs[1:]]
    parts += [None] * (4 - len(parts))
    starts, ends, axes, steps = parts
    if starts is None or ends is None or axes is None or len(shape) != 4:
        return None
    if any(part is not None and part.size != 1 for part in parts) or int(axes.item()) % 4 != 1:
        return None
    if steps is not None and int(steps.item()) != 1:
        return None
    start, stop, _ = slice(int(starts.item()), int(ends.item())).indices(shape[1])
    return start, stop


def _readers_of(layers: list[Layer], tensor: str) -> int:
    return sum(tensor in layer_sources(layer) for layer in layers)


def _fuse_residuals(graph: OnlineGraph, layers: list[Layer]) -> list[Layer]:
    """``Add(conv, x)`` → the convolution's epilogue, where the convolution has no other reader."""
    result = list(layers)
    for layer in layers:
        if not (isinstance(layer, Generic) and layer.node.op == "Add" and len(layer.sources) == 2):
            continue
        shapes = {graph.shapes[name] for name in (*layer.sources, layer.output)}
        if len(shapes) != 1 or layer.sources[0] == layer.sources[1]:
            continue
        producers = {
            item.output: item
            for item in result
            if isinstance(item, Convolution) and item.residual is None and not item.depthwise
        }
        # The later of two convolutions takes the addition: its other operand is then already there.
        candidates = sorted(
            (result.index(producers[name]), name)
            for name in layer.sources
            if name in producers and _readers_of(result, name) == 1 and not graph.is_output(name)
        )
        if not candidates:
            continue
        _, fused = candidates[-1]
        other = layer.sources[0] if layer.sources[1] == fused else layer.sources[1]
        convolution = producers[fused]
        other_made_at = next((index for index, item in enumerate(result) if item.output == other), -1)
        if convolution.clamp != Clamp() or other_made_at > result.index(convolution):
            continue
        result[result.index(convolution)] = replace(convolution, residual=other, output=layer.output)
        result.remove(layer)
    return result


def _fuse_clamps(graph: OnlineGraph, layers: list[Layer]) -> list[Layer]:
    """``Relu`` or constant ``Clip`` after a convolution → its epilogue."""
    result = list(layers)
    for layer in layers:
        clamp = _clamp(graph, layer) if isinstance(layer, Generic) else None
        if clamp is None:
            continue
        source = layer_sources(layer)[0]
        producer = next((item for item in result if item.output == source), None)
        alone = _readers_of(result, source) == 1 and not graph.is_output(source)
        if not isinstance(producer, Convolution) or producer.clamp != Clamp() or not alone:
            continue
        result[result.index(producer)] = replace(producer, clamp=clamp, output=layer.output)
        result.remove(layer)
    return result


def _clamp(graph: OnlineGraph, layer: Generic) -> Clamp | None:
    node = layer.node
    if node.op == "Relu":
        return Clamp(low=0.0)
    if node.op != "Clip" or len(layer.sources) != 1 or any(graph.shapes[name] for name in node.inputs[1:] if name):
        return None
    bounds = [float(graph.constants[name]) if name else None for name in node.inputs[1:]]
    low, high = [*bounds, None, None][:2]
    low = float(node.attributes.get("min", -math.inf)) if low is None else low
    high = float(node.attributes.get("max", math.inf)) if high is None else high
    return Clamp(low, high)


def _fuse_shifts(graph: OnlineGraph, layers: list[Layer]) -> list[Layer]:
    """Shifts into 1×1 convolutions, whose reduction then runs over several sources; other shifts become one copy."""
    shifts = {layer.output: _shift(graph, layer.node) for layer in layers if isinstance(layer, Generic)}
    of_frames = {layer.output: layer for layer in layers if isinstance(layer, FrameShift)}
    result: list[Layer] = []
    for layer in layers:
        shift = shifts.get(layer.output)
        if shift is not None:
            result.append(shift)
            continue
        shift = shifts.get(layer.source) if isinstance(layer, Convolution) else None
        frames = of_frames.get(layer.source) if isinstance(layer, Convolution) else None
        if isinstance(layer, Convolution) and shift is not None and _splits(layer):
            result.append(replace(layer, source=shift.source, shift=Shift(shift.cache, shift.channels)))
        elif isinstance(layer, Convolution) and frames is not None and _splits(layer):
            result.append(replace(layer, source=frames.source, frame_runs=frames.runs))
        else:
            result.append(layer)
    return _without_dead(graph, result)


def _splits(layer: Convolution) -> bool:
    """Whether the reduction can run over cache and frame: it has no spatial extent, no padding and no groups."""
    return layer.weight.shape[2:] == (1, 1) and not any(layer.pads) and layer.groups == 1


def _shift(graph: OnlineGraph, node: Node) -> ShiftConcat | None:
    """Recognise ``Concat(cache, Slice(x, c:))`` along channels."""
    if node.op != "Concat" or node.attributes.get("axis") not in (1, -3) or len(node.inputs) != 2:
        return None
    cache, rest = node.inputs
    part = next((item for item in graph.nodes if rest in item.outputs), None)
    if cache not in {pair.input for pair in graph.caches} or part is None or part.op != "Slice":
        return None
    channels = graph.shapes[cache][1]
    if _channel_slice(graph, part) != (channels, graph.shapes[part.inputs[0]][1]):
        return None
    return ShiftConcat(part.inputs[0], cache, node.outputs[0], channels)


def _without_dead(graph: OnlineGraph, layers: list[Layer]) -> list[Layer]:
    """Drop layers nobody reads any more (the slices and concatenations that a fused shift replaced)."""
    kept: list[Layer] = []
    needed = set(graph.outputs)
    for layer in reversed(layers):
        if layer.output in needed:
            kept.append(layer)
            needed.update(layer_sources(layer))
    return kept[::-1]


def _read_elementwise(graph: OnlineGraph, layers: list[Layer]) -> list[Layer]:
    """What is left of element-wise operators, each with the clamp that follows it."""
    result: list[Layer] = []
    for layer in layers:
        made = _elementwise(graph, layer) if isinstance(layer, Generic) else None
        if made is None:
            result.append(layer)
            continue
        before = next((item for item in result if item.output == made.source), None)
        alone = _readers_of(layers, made.source) == 1 and not graph.is_output(made.source)
        if made.operation == "Identity" and isinstance(before, Elementwise) and before.clamp == Clamp() and alone:
            result[result.index(before)] = replace(before, clamp=made.clamp, output=made.output)
        else:
            result.append(made)
    return result


def _elementwise(graph: OnlineGraph, layer: Generic) -> Elementwise | None:
    node, shape = layer.node, graph.shapes[layer.output]
    if len(shape) not in (2, 4) or shape[0] != graph.frames or graph.frame in layer.sources:
        return None
    if node.op == "BatchNormalization":
        return _batch_normalization(graph, node)
    clamp = _clamp(graph, layer)
    if clamp is not None:
        return Elementwise("Identity", layer.sources, layer.output, clamp=clamp)
    if node.op not in _ELEMENTWISE or len(node.inputs) != _ELEMENTWISE[node.op][0]:
        return None
    operands = tuple(operand for name in node.inputs if (operand := _operand(graph, name, shape)) is not None)
    whole = any(isinstance(operand, str) and graph.shapes[operand] == shape for operand in operands)
    if len(operands) != len(node.inputs) or not whole:
        return None
    parameters = tuple(float(node.attributes.get(name, value)) for name, value in _ELEMENTWISE[node.op][1])
    return Elementwise(node.op, operands, layer.output, parameters)


# Operator: number of operands, and its attributes with ONNX's defaults.
_ELEMENTWISE: Mapping[str, tuple[int, tuple[tuple[str, float], ...]]] = {
    "Add": (2, ()),
    "Sub": (2, ()),
    "Mul": (2, ()),
    "Div": (2, ()),
    "Max": (2, ()),
    "Min": (2, ()),
    "PRelu": (2, ()),
    "LeakyRelu": (1, (("alpha", 0.01),)),
    "HardSigmoid": (1, (("alpha", 0.2), ("beta", 0.5))),
    "HardSwish": (1, ()),
    "Sigmoid": (1, ()),
}


def _operand(graph: OnlineGraph, name: str, shape: tuple[int, ...]) -> str | np.ndarray | None:
    """An operand that broadcasts in a way the rule knows: not at all, one value a channel, or one value."""
    channels = (1, shape[1], *(1 for _ in shape[2:]))
    constant = graph.constants.get(name)
    if constant is None:
        return name if graph.shapes[name] in (shape, (shape[0], *channels[1:])) else None
    if constant.dtype != np.float32 or constant.ndim > len(shape):
        return None
    if constant.size == 1:
        return constant.reshape(1)
    aligned = (*(1 for _ in range(len(shape) - constant.ndim)), *constant.shape)
    return constant.reshape(-1) if aligned == channels else None


def _batch_normalization(graph: OnlineGraph, node: Node) -> Elementwise | None:
    statistics = [graph.constants.get(name) for name in node.inputs[1:]]
    found = [array.astype(np.float64) for array in statistics if array is not None]
    if len(found) != 4 or node.attributes.get("training_mode", 0):
        return None
    scale, offset, mean, variance = found
    factor = scale / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    shift = offset - mean * factor
    operands = (node.inputs[0], factor.astype(np.float32), shift.astype(np.float32))
    return Elementwise("MultiplyAdd", operands, node.outputs[0])
