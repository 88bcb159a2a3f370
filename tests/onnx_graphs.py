"""Small online models written node by node with onnx.helper, and what ONNX Runtime computes with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tsm_edge.artifact.onnx_runtime import open_session, session_options
from tsm_edge.compile.ir.graph import OnlineGraph

Floats = npt.NDArray[np.float32]
Shape = tuple[int, ...]


class GraphBuilder:
    """Adds operators with seeded random weights; tensors are named by the strings its methods return.

    Parameters
    ----------
    height, width : int
        Of the frame, pixels.
    seed : int
        Of the weights.
    opset : int
        ONNX operator set.
    frames : int
        More than 1: of a clip, as a batch.
    channels : int
        Of a frame.
    """

    def __init__(
        self, height: int = 16, width: int = 20, seed: int = 0, opset: int = 20, frames: int = 1, channels: int = 3
    ) -> None:
        self.frame = "frame"
        self.opset = opset
        self.frames = frames
        self.shapes: dict[str, Shape] = {self.frame: (frames, channels, height, width)}
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.caches: list[tuple[str, Shape]] = []
        self._outputs: dict[str, str] = {}

    def node(self, op: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str:
        """Any operator with one output, whose shape the caller knows."""
        output = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        self.shapes[output] = shape
        return output

    def constant(self, values: npt.ArrayLike, dtype: Any = np.float32) -> str:
        """An initializer."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        """An initializer with normally distributed values."""
        return self.constant(self._random.normal(0, scale, shape))

    def conv(
        self,
        source: str,
        out: int,
        kernel: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        pads: Sequence[int] | None = None,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        """``pads`` (top, left, bottom, right) default to half the kernel on each side."""
        _, channels, height, width = self.shapes[source]
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        down, right = (stride, stride) if isinstance(stride, int) else stride
        pads = [rows // 2, columns // 2] * 2 if pads is None else list(pads)
        fan_in = channels // groups * rows * columns
        inputs = [source, self.random(out, channels // groups, rows, columns, scale=math.sqrt(1 / fan_in))]
        inputs += [self.random(out, scale=0.5)] if bias else []
        shape = (
            self.frames,
            out,
            (height + pads[0] + pads[2] - rows) // down + 1,
            (width + pads[1] + pads[3] - columns) // right + 1,
        )
        return self.node(
            "Conv", inputs, shape, kernel_shape=[rows, columns], strides=[down, right], pads=pads, group=groups
        )

    def depthwise(self, source: str, kernel: int = 3, stride: int = 1, pads: Sequence[int] | None = None) -> str:
        """A convolution of every channel by itself."""
        channels = self.shapes[source][1]
        return self.conv(source, channels, kernel, stride, pads, groups=channels)

    def relu(self, source: str) -> str:
        """``max(x, 0)``."""
        return self.node("Relu", [source], self.shapes[source])

    def clip(self, source: str, low: float | None, high: float | None) -> str:
        """``None``: no bound on that side."""
        bounds = ["" if bound is None else self.constant(bound) for bound in (low, high)]
        return self.node("Clip", [source, *bounds], self.shapes[source])

    def add(self, a: str, b: str) -> str:
        """``a + b``, equal shapes."""
        return self.node("Add", [a, b], self.shapes[a])

    def max_pool(self, source: str, kernel: int, stride: int, pads: Sequence[int] = (0, 0, 0, 0)) -> str:
        """Spatial maximum."""
        _, channels, height, width = self.shapes[source]
        shape = (
            self.frames,
            channels,
            (height + pads[0] + pads[2] - kernel) // stride + 1,
            (width + pads[1] + pads[3] - kernel) // stride + 1,
        )
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": list(pads)}
        return self.node("MaxPool", [source], shape, **attributes)

    def global_average(self, source: str) -> str:
        """Mean over height and width, kept as 1×1."""
        return self.node("GlobalAveragePool", [source], (*self.shapes[source][:2], 1, 1))

    def flatten(self, source: str) -> str:
        """[1, C, 1, 1] to [1, C]."""
        return self.node("Flatten", [source], (self.frames, math.prod(self.shapes[source][1:])), axis=1)

    def dense(self, source: str, out: int, bias: bool = True) -> str:
        """Gemm with a transposed weight, as PyTorch exports a linear layer."""
        channels = self.shapes[source][1]
        inputs = [source, self.random(out, channels, scale=math.sqrt(1 / channels))]
        return self.node("Gemm", inputs + ([self.random(out)] if bias else []), (self.frames, out), transB=1)

    def matmul(self, source: str, out: int) -> str:
        """A dense layer without bias, weight [in, out]."""
        channels = self.shapes[source][1]
        return self.node(
            "MatMul", [source, self.random(channels, out, scale=math.sqrt(1 / channels))], (self.frames, out)
        )

    def channels(self, source: str, start: int, stop: int) -> str:
        """``source[:, start:stop]``."""
        _, _, height, width = self.shapes[source]
        numbers = [self.constant([value], np.int64) for value in (start, stop, 1)]
        return self.node("Slice", [source, *numbers], (self.frames, stop - start, height, width))

    def concat(self, first: str, second: str) -> str:
        """Along channels."""
        _, channels, height, width = self.shapes[first]
        shape = (self.frames, channels + self.shapes[second][1], height, width)
        return self.node("Concat", [first, second], shape, axis=1)

    def cache(self, shape: Shape) -> str:
        """A cache input; :meth:`feed_back` gives it its output."""
        name = f"shift_{len(self.caches)}"
        self.caches.append((name, shape))
        self.shapes[name] = shape
        return name

    def feed_back(self, cache: str, tensor: str) -> None:
        """``tensor`` becomes the next value of ``cache``; it must not be an output already."""
        self._outputs[f"{cache}_next"] = tensor

    def next_cache(self, tensor: str) -> str:
        """``tensor`` becomes the next value of a cache of its own, which nothing reads; returns it."""
        self.feed_back(self.cache(self.shapes[tensor]), tensor)
        return tensor

    def shift(self, source: str, channels: int) -> str:
        """``concat(cache, source[:, channels:])`` with ``source[:, :channels]`` as the next cache."""
        _, total, height, width = self.shapes[source]
        cache = self.cache((1, channels, height, width))
        self.feed_back(cache, self.channels(source, 0, channels))
        return self.concat(cache, self.channels(source, channels, total))

    def frame_shift(self, source: str, channels: int) -> str:
        """The bi-directional shift of a clip: the first ``channels`` of the next frame, as many of the previous one."""
        frames, total, height, width = self.shapes[source]

        def part(start: int, stop: int, first: int, last: int) -> str:
            numbers = [self.constant(values, np.int64) for values in ([first, start], [last, stop], [0, 1])]
            return self.node("Slice", [source, *numbers], (last - first, stop - start, height, width))

        def joined(parts: Sequence[str], axis: int) -> str:
            shape = list(self.shapes[parts[0]])
            shape[axis] = sum(self.shapes[name][axis] for name in parts)
            return self.node("Concat", parts, tuple(shape), axis=axis)

        nothing = self.constant(np.zeros((1, channels, height, width), np.float32))
        self.shapes[nothing] = (1, channels, height, width)
        from_next = joined([part(0, channels, 1, frames), nothing], 0)
        from_previous = joined([nothing, part(channels, 2 * channels, 0, frames - 1)], 0)
        return joined([from_next, from_previous, part(2 * channels, total, 0, frames)], 1)

    def non_local(self, source: str, inner: int) -> str:
        """Attention over all positions of a clip, with keys and values of a quarter of them; added to ``source``."""
        frames, channels, height, width = self.shapes[source]

        def positions(tensor: str) -> str:
            _, depth, rows, columns = self.shapes[tensor]
            last = self.node("Transpose", [tensor], (frames, rows, columns, depth), perm=[0, 2, 3, 1])
            shape = (1, frames * rows * columns, depth)
            return self.node("Reshape", [last, self.constant(shape, np.int64)], shape)

        query, key, value = (self.conv(source, inner) for _ in range(3))
        query, key, value = map(positions, (query, self.max_pool(key, 2, 2), self.max_pool(value, 2, 2)))
        count, keys = self.shapes[query][1], self.shapes[key][1]
        turned = self.node("Transpose", [key], (1, inner, keys), perm=[0, 2, 1])
        scores = self.node("MatMul", [query, turned], (1, count, keys))
        shares = self.node("Softmax", [scores], (1, count, keys), axis=-1)
        attended = self.node("MatMul", [shares, value], (1, count, inner))
        shape = (frames, height, width, inner)
        images = self.node("Reshape", [attended, self.constant(shape, np.int64)], shape)
        images = self.node("Transpose", [images], (frames, inner, height, width), perm=[0, 3, 1, 2])
        return self.add(self.conv(images, channels), source)

    def head(self, source: str, classes: int) -> str:
        """Global average, then the classifier."""
        return self.dense(self.flatten(self.global_average(source)), classes)

    def model(self, logits: str, names: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """The model, checked; ``names`` renames inputs and outputs (to make a foreign file)."""
        outputs = {"logits": logits, **{f"{name}_next": self._outputs[f"{name}_next"] for name, _ in self.caches}}
        inputs = [(self.frame, self.shapes[self.frame]), *self.caches]
        rename = {tensor: name for name, tensor in outputs.items()}
        rename = {tensor: (names or {}).get(name, name) for tensor, name in rename.items()}
        rename |= {name: names[name] for name, _ in inputs if names and name in names}
        graph = helper.make_graph(
            [_renamed(node, rename) for node in self._nodes],
            "small",
            [helper.make_tensor_value_info(rename.get(name, name), TensorProto.FLOAT, shape) for name, shape in inputs],
            [
                helper.make_tensor_value_info(rename[tensor], TensorProto.FLOAT, self.shapes[tensor])
                for tensor in outputs.values()
            ],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def model_of(graph: OnlineGraph) -> onnx.ModelProto:
    """A graph as it was read and rewritten, as a model again."""
    nodes = []
    for node in graph.nodes:
        unread = [f"{node.outputs[0]} {index}" for index in range(node.result)]
        nodes.append(helper.make_node(node.op, node.inputs, [*unread, *node.outputs], **node.attributes))
    names = [graph.frame, *(cache.input for cache in graph.caches)]
    results = [graph.logits, *(cache.output for cache in graph.caches)]
    made = helper.make_graph(
        nodes,
        "rewritten",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.shapes[name]) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.shapes[name]) for name in results],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=9)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for field in (copy.input, copy.output):
        field[:] = [names.get(name, name) for name in field]
    return copy


def small_network(
    seed: int = 0,
    height: int = 24,
    width: int = 20,
    classes: int = 7,
    names: Mapping[str, str] | None = None,
    *,
    softmax: bool = False,
) -> onnx.ModelProto:
    """MobileNet- and ResNet-like blocks, three caches: every rule of the compiler in about a dozen kernels."""
    graph = GraphBuilder(height, width, seed)
    x = graph.clip(graph.conv(graph.frame, 10, 3, 2), 0, 6)
    y = graph.clip(graph.conv(graph.shift(x, 2), 24), 0, 6)
    y = graph.clip(graph.depthwise(y), 0, 6)
    x = graph.add(graph.conv(y, 10), x)
    x = graph.relu(graph.conv(x, 18, 3, 2))
    y = graph.relu(graph.conv(graph.shift(x, 3), 18, 3))
    x = graph.relu(graph.add(graph.conv(y, 18, 3), x))
    x = graph.max_pool(x, 3, 1, (1, 1, 1, 1))
    y = graph.relu(graph.conv(graph.shift(x, 2), 12))
    x = graph.add(graph.conv(y, 18), x)
    logits = graph.head(x, classes)
    return graph.model(graph.node("Softmax", [logits], (1, classes), axis=1) if softmax else logits, names)


def bottlenecks(g: GraphBuilder) -> str:
    """A stem with a wide kernel, a pool, shifts into pointwise convolutions, 3×3 ones plain, strided and grouped."""
    x = g.max_pool(g.relu(g.conv(g.frame, 24, 7, 2)), 3, 2, (1, 1, 1, 1))
    for stride, groups in ((1, 1), (2, 1), (1, 4)):
        channels = g.shapes[x][1]
        y = g.relu(g.conv(g.frame_shift(x, 3), 32))
        y = g.relu(g.conv(y, 32, 3, stride, groups=groups))
        y = g.conv(y, 24)
        x = g.relu(g.add(y, x if stride == 1 else g.conv(x, channels, 1, 2)))
    return x


def small_clip_network(frames: int = 2, height: int = 22, width: int = 34, classes: int = 11) -> onnx.ModelProto:
    """:func:`bottlenecks` over clips."""
    graph = GraphBuilder(height, width, frames=frames)
    return graph.model(graph.head(bottlenecks(graph), classes))


def elementwise(g: GraphBuilder) -> str:
    """A gate a channel, of every frame."""
    x = g.relu(g.conv(g.frame, 18, 3, 2))
    gate = g.node("Sigmoid", [g.conv(g.global_average(x), 18)], (g.frames, 18, 1, 1))
    return g.node("Mul", [x, gate], g.shapes[x])


class Reference:
    """An ONNX model in ONNX Runtime, on one thread.

    Attributes
    ----------
    inputs, outputs : list of str
    frame_shape : tuple of int
    cache_shapes : list of tuple of int
    """

    def __init__(self, model: Path | onnx.ModelProto) -> None:
        options = session_options()
        options.intra_op_num_threads = 1
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        self._session = open_session(source, options)
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]
        self.frame_shape, *self.cache_shapes = [tuple(value.shape) for value in self._session.get_inputs()]

    def zeros(self) -> list[Floats]:
        """The caches before the first frame."""
        return [np.zeros(shape, np.float32) for shape in self.cache_shapes]

    def step(self, frame: Floats, caches: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
        """Logits and next caches of one frame."""
        logits, *following = self._session.run(None, dict(zip(self.inputs, [frame, *caches], strict=True)))
        return logits, following

    def stream(self, frames: Sequence[Floats]) -> list[Floats]:
        """Logits of each frame, caches fed back."""
        caches, result = self.zeros(), []
        for frame in frames:
            logits, caches = self.step(frame, caches)
            result.append(logits)
        return result

    def frames(self, count: int, seed: int = 1) -> list[Floats]:
        """Seeded random frames."""
        generator = np.random.default_rng(seed)
        return [generator.normal(0, 1, self.frame_shape).astype(np.float32) for _ in range(count)]


def assert_close(found: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float = 1e-5) -> None:
    """Equal within ``tolerance`` of the largest expected magnitude."""
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(scale, 1e-3))


def assert_nan_goes_through(found: Floats, expected: Floats, tolerance: float = 1e-5) -> None:
    """NaN wherever the reference has it; equal wherever neither has it.

    Ours may have more: a tile of Winograd's algorithm, groups that share a vector, and pools, where ONNX Runtime drops
    it or not by its place.
    """
    lost = np.isnan(expected) & ~np.isnan(found)
    assert not lost.any(), f"{lost.sum()} of {np.isnan(expected).sum()} NaN became numbers"
    numbers = ~np.isnan(found)
    if numbers.any():
        assert_close(found[numbers], expected[numbers], tolerance)
