"""Many spellings of one thing are read as that thing, and compute what they computed before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_graphs import GraphBuilder, Reference, assert_close, model_of

from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layers import (
    CacheTap,
    Clamp,
    Convolution,
    Elementwise,
    Generic,
    GlobalAveragePool,
    Layer,
    View,
)
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.errors import CompileError, ModelFileError

CASES = Path(__file__).resolve().parents[1] / "cases"
HEIGHT, WIDTH, CHANNELS, SHIFTED = 6, 5, 8, 2
CACHE = (1, SHIFTED, HEIGHT, WIDTH)
WHOLE = (1, CHANNELS, HEIGHT, WIDTH)
# Shifts x, whose first channels become the next cache, which is fed back; returns the shifted tensor.
Spelling = Callable[[GraphBuilder, str, str], str]


def integers(graph: GraphBuilder, *values: int) -> str:
    return graph.constant(list(values), np.int64)


def several(graph: GraphBuilder, op: str, inputs: list[str], shapes: dict[str, tuple[int, ...]], **values: int) -> None:
    """A node with several outputs."""
    graph._nodes.append(helper.make_node(op, inputs, list(shapes), name=op.lower(), **values))
    graph.shapes |= shapes


def read(graph: GraphBuilder, logits: str, folder: Path) -> tuple[OnlineGraph, onnx.ModelProto]:
    model = graph.model(logits)
    onnx.save(model, str(folder / "model.onnx"))
    return load_onnx(folder / "model.onnx"), model


def assert_computes_the_same(graph: OnlineGraph, model: onnx.ModelProto, tolerance: float = 1e-6) -> None:
    """Three frames with cache feedback in ONNX Runtime, every output."""
    ours, theirs = Reference(model_of(graph)), Reference(model)
    our_caches, their_caches = ours.zeros(), theirs.zeros()
    for frame in theirs.frames(3):
        our_logits, our_caches = ours.step(frame, our_caches)
        their_logits, their_caches = theirs.step(frame, their_caches)
        assert_close(our_logits, their_logits, tolerance)
        for mine, other in zip(our_caches, their_caches, strict=True):
            np.testing.assert_array_equal(mine, other)


def kinds(layers: list[Layer]) -> list[str]:
    return sorted(layer.node.op if isinstance(layer, Generic) else type(layer).__name__ for layer in layers)


# The shift -------------------------------------------------------------------------------------------------------


def split(g: GraphBuilder, x: str, cache: str) -> str:
    several(g, "Split", [x, integers(g, 2, 6)], {"first": CACHE, "rest": (1, 6, HEIGHT, WIDTH)}, axis=1)
    g.feed_back(cache, "first")
    return g.concat(cache, "rest")


def chunk(g: GraphBuilder, x: str, cache: str) -> str:
    several(g, "Split", [x], {f"part {index}": CACHE for index in range(4)}, axis=-3, num_outputs=4)
    g.feed_back(cache, "part 0")
    return g.node("Concat", [cache, "part 1", "part 2", "part 3"], WHOLE, axis=1)


def in_place_with_an_index_for_every_element(g: GraphBuilder, x: str, cache: str) -> str:
    """As PyTorch's older exporter writes ``y[:, :2] = cache``."""
    index = np.stack(np.meshgrid(*map(np.arange, CACHE), indexing="ij"), axis=-1)
    g.feed_back(cache, g.channels(x, 0, SHIFTED))
    return g.node("ScatterND", [x, g.constant(index, np.int64), cache], WHOLE)


def in_place_between_transposes(g: GraphBuilder, x: str, cache: str) -> str:
    """As PyTorch's newer exporter writes it."""
    turned = g.node("Transpose", [cache], (SHIFTED, 1, HEIGHT, WIDTH), perm=[1, 0, 2, 3])
    whole = g.node("Transpose", [x], (CHANNELS, 1, HEIGHT, WIDTH), perm=[1, 0, 2, 3])
    whole = g.node("ScatterND", [whole, g.constant([[0], [1]], np.int64), turned], g.shapes[whole])
    g.feed_back(cache, g.channels(x, 0, SHIFTED))
    return g.node("Transpose", [whole], WHOLE, perm=[1, 0, 2, 3])


def in_place_on_zeros(g: GraphBuilder, x: str, cache: str) -> str:
    """``y = zeros; y[:, :2] = cache; y[:, 2:] = x[:, 2:]``."""
    whole = g.constant(np.zeros((CHANNELS, 1, HEIGHT, WIDTH)))
    for start, stop, source in ((0, SHIFTED, cache), (SHIFTED, CHANNELS, g.channels(x, SHIFTED, CHANNELS))):
        turned = g.node("Transpose", [source], (stop - start, 1, HEIGHT, WIDTH), perm=[1, 0, 2, 3])
        rows = g.constant(np.arange(start, stop)[:, None], np.int64)
        whole = g.node("ScatterND", [whole, rows, turned], (CHANNELS, 1, HEIGHT, WIDTH))
    g.feed_back(cache, g.channels(x, 0, SHIFTED))
    return g.node("Transpose", [whole], WHOLE, perm=[1, 0, 2, 3])


def scattered_channels(g: GraphBuilder, x: str, cache: str) -> str:
    index = np.broadcast_to(np.arange(SHIFTED)[None, :, None, None], CACHE)
    g.feed_back(cache, g.channels(x, 0, SHIFTED))
    return g.node("ScatterElements", [x, g.constant(index, np.int64), cache], WHOLE, axis=1)


def gathered_channels(g: GraphBuilder, x: str, cache: str) -> str:
    rest = g.node("Gather", [x, integers(g, 2, 3, 4, 5, 6, 7)], (1, 6, HEIGHT, WIDTH), axis=1)
    g.feed_back(cache, g.node("Gather", [x, integers(g, 0, 1)], CACHE, axis=1))
    return g.concat(cache, rest)


def through_five_dimensions(g: GraphBuilder, x: str, cache: str) -> str:
    """``x.view(n, t, c, h, w)`` with one frame, as upstream's offline code goes about it."""
    x5 = g.node("Reshape", [x, integers(g, 1, 1, *WHOLE[1:])], (1, *WHOLE))
    c5 = g.node("Unsqueeze", [cache, integers(g, 0)], (1, *CACHE))
    ends = [integers(g, value) for value in (SHIFTED, CHANNELS, 2)]
    x5 = g.node("Slice", [x5, *ends], (1, 1, 6, HEIGHT, WIDTH))
    both = g.node("Concat", [c5, x5], (1, *WHOLE), axis=2)
    g.feed_back(cache, g.channels(x, 0, SHIFTED))
    return g.node("Squeeze", [both, integers(g, 0)], WHOLE)


SPELLINGS = [
    split,
    chunk,
    in_place_with_an_index_for_every_element,
    in_place_between_transposes,
    in_place_on_zeros,
    scattered_channels,
    gathered_channels,
    through_five_dimensions,
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: str(spelling.__name__))
def test_a_shift_is_a_shift_however_it_is_written(spelling: Spelling, tmp_path: Path) -> None:
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.relu(graph.conv(graph.frame, CHANNELS))
    shifted = spelling(graph, x, graph.cache(CACHE))
    found, model = read(graph, graph.head(graph.relu(graph.conv(shifted, 12)), 3), tmp_path)
    layers = fuse(found)
    assert kinds(layers) == ["CacheTap", "Convolution", "Convolution", "Convolution", "GlobalAveragePool", "View"]
    tap = next(layer for layer in layers if isinstance(layer, CacheTap))
    assert (tap.source, tap.channels) == (x, SHIFTED)
    (shift,) = (layer.shift for layer in layers if isinstance(layer, Convolution) and layer.shift)
    assert (shift.cache, shift.channels) == ("shift_0", SHIFTED)
    assert_computes_the_same(found, model)


@pytest.mark.parametrize("exporter", ["dynamo", "script"])
@pytest.mark.parametrize("spelling", ["shift_in_place", "shift_in_place_on_a_copy", "shift_by_chunk"])
def test_a_shift_as_pytorch_exports_it(spelling: str, exporter: str) -> None:
    """Files written by PyTorch 2.13's two exporters, of

    ``x[:, :2] = cache``; ``y = x.clone(); y[:, :2] = cache``; and ``torch.cat([cache, *torch.chunk(x, 8, 1)[1:]], 1)``,

    each followed by a 1×1 convolution, a mean over height and width (the last two: ``x.mean(3).mean(2)``) and a
    classifier.
    """
    path = CASES / f"{spelling}_{exporter}.onnx"
    found = load_onnx(path)
    layers = fuse(found)
    assert [kind for kind in kinds(layers) if kind != "View"] == [
        *("CacheTap", "Convolution", "Convolution", "Convolution", "GlobalAveragePool"),
    ]
    (shift,) = (layer.shift for layer in layers if isinstance(layer, Convolution) and layer.shift)
    assert (shift.cache, shift.channels) == ("shift_0", 2)
    assert_computes_the_same(found, onnx.load(str(path)), 1e-5)


def test_our_own_spelling_keeps_its_names(tmp_path: Path) -> None:
    graph = GraphBuilder(HEIGHT, WIDTH)
    shifted = graph.shift(graph.relu(graph.conv(graph.frame, CHANNELS)), SHIFTED)
    found, model = read(graph, graph.head(graph.conv(shifted, 12), 3), tmp_path)
    assert {node.outputs for node in found.nodes} == {tuple(node.output) for node in model.graph.node}


def test_what_is_moved_but_not_by_channels_stays(tmp_path: Path) -> None:
    """A channel shuffle, and a shift along the rows."""
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.conv(graph.frame, CHANNELS)
    x = graph.node("Reshape", [x, integers(graph, 1, 2, 4, HEIGHT, WIDTH)], (1, 2, 4, HEIGHT, WIDTH))
    x = graph.node("Transpose", [x], (1, 4, 2, HEIGHT, WIDTH), perm=[0, 2, 1, 3, 4])
    x = graph.node("Reshape", [x, integers(graph, *WHOLE)], WHOLE)
    several(graph, "Split", [x, integers(graph, 2, 4)], {"top": (1, 8, 2, 5), "below": (1, 8, 4, 5)}, axis=2)
    x = graph.node("Concat", ["below", "top"], WHOLE, axis=2)
    found, model = read(graph, graph.head(graph.conv(x, 4), 3), tmp_path)
    assert_computes_the_same(found, model)


def test_a_scatter_of_known_values_is_a_gather_too(tmp_path: Path) -> None:
    """``y[:, [2, 0]] = values``, with the values in the file."""
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.conv(graph.frame, CHANNELS)
    values = graph.random(2, *WHOLE[2:])
    x = graph.node("ScatterND", [x, graph.constant([[0, 2], [0, 0]], np.int64), values], WHOLE)
    found, model = read(graph, graph.head(x, 3), tmp_path)
    assert "ScatterND" not in {node.op for node in found.nodes}
    assert_computes_the_same(found, model)
    made = {name for node in found.nodes for name in node.outputs} | {found.frame}
    reshaped = [node.inputs[0] for node in found.nodes if node.op == "Reshape"]
    assert set(reshaped) <= made, "a constant is reshaped now, not in the model"


def test_a_scatter_that_is_no_shift_is_a_gather(tmp_path: Path) -> None:
    """TVM has no plain kernel of a scatter."""
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.conv(graph.frame, CHANNELS)
    corner = graph.node("ReduceMax", [x, integers(graph, 1, 2, 3)], (1, 1, 1, 1))
    corner = graph.node("Reshape", [corner, integers(graph, 1)], (1,))
    x = graph.node("ScatterND", [x, graph.constant([[0, 3, 2, 1]], np.int64), corner], WHOLE)
    found, model = read(graph, graph.head(x, 3), tmp_path)
    operators = {node.op for node in found.nodes}
    assert "Gather" in operators
    assert "ScatterND" not in operators
    assert_computes_the_same(found, model)


def test_an_index_out_of_range_is_refused(tmp_path: Path) -> None:
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.conv(graph.frame, CHANNELS)
    cache = graph.cache((1, HEIGHT, WIDTH))
    graph.feed_back(cache, graph.node("Gather", [x, graph.constant(0, np.int64)], (1, HEIGHT, WIDTH), axis=1))
    x = graph.node("ScatterND", [x, graph.constant([[0, 99]], np.int64), cache], WHOLE)
    with pytest.raises(ModelFileError, match=r"slices and concatenations cannot be run \(.*; export the model again"):
        read(graph, graph.head(x, 3), tmp_path)


# Other spellings ---------------------------------------------------------------------------------------------------


def test_bounds_with_one_element_are_scalars(tmp_path: Path) -> None:
    """As the ONNX model zoo's MobileNet-V2 has them."""
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.conv(graph.frame, CHANNELS)
    x = graph.node("Clip", [x, graph.constant([0.0]), graph.constant([[6.0]])], WHOLE)
    found, model = read(graph, graph.head(x, 3), tmp_path)
    first = fuse(found)[0]
    assert isinstance(first, Convolution)
    assert first.clamp == Clamp(0.0, 6.0)
    assert_computes_the_same(found, model)


def test_a_bound_that_is_computed_is_no_constant(tmp_path: Path) -> None:
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.conv(graph.frame, CHANNELS)
    low = graph.node("ReduceMin", [x], (), keepdims=0)
    found, model = read(graph, graph.head(graph.node("Clip", [x, low], WHOLE), 3), tmp_path)
    assert "Clip" in kinds(fuse(found))
    assert_computes_the_same(found, model)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(3, 2), (-1, 2), (2, -1)])
def test_a_mean_of_means_is_a_global_average(opset: int, keepdims: int, axes: tuple[int, int], tmp_path: Path) -> None:
    """``x.mean(3).mean(2)``, as upstream's demo ends."""
    graph = GraphBuilder(HEIGHT, WIDTH, opset=opset)
    x = graph.conv(graph.frame, CHANNELS)
    shape = list(WHOLE)
    for axis in axes:
        shape[axis] = 1
        if not keepdims:
            del shape[axis]
        if opset < 18:
            x = graph.node("ReduceMean", [x], tuple(shape), axes=[axis], keepdims=keepdims)
        else:
            x = graph.node("ReduceMean", [x, integers(graph, axis)], tuple(shape), keepdims=keepdims)
    found, model = read(graph, graph.dense(graph.flatten(x) if keepdims else x, 3), tmp_path)
    layers = fuse(found)
    assert [type(layer) for layer in layers if not isinstance(layer, View)] == [
        Convolution,
        GlobalAveragePool,
        Convolution,
    ]
    assert_computes_the_same(found, model, 1e-5)


def test_a_mean_that_others_read_stays(tmp_path: Path) -> None:
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.conv(graph.frame, CHANNELS)
    rows = graph.node("ReduceMean", [x, integers(graph, 3)], (1, CHANNELS, HEIGHT, 1))
    both = graph.node("ReduceMean", [rows, integers(graph, 2)], (1, CHANNELS, 1, 1))
    found, model = read(graph, graph.head(graph.node("Mul", [rows, both], graph.shapes[rows]), 3), tmp_path)
    assert_computes_the_same(found, model, 1e-5)


def test_of_several_outputs_those_that_are_read_are_made(tmp_path: Path) -> None:
    graph = GraphBuilder(HEIGHT, WIDTH)
    x = graph.conv(graph.frame, CHANNELS)
    inputs = [x, graph.random(WIDTH), graph.random(WIDTH)]
    mean = (1, CHANNELS, HEIGHT, 1)
    several(graph, "LayerNormalization", inputs, {"normal": WHOLE, "mean": mean, "deviation": mean}, axis=-1)
    pool = {"pooled": WHOLE, "places": WHOLE}
    graph._nodes.append(helper.make_node("MaxPool", ["normal"], list(pool), kernel_shape=[1, 1], name="pool"))
    graph.shapes |= pool
    found, model = read(graph, graph.head(graph.node("Add", ["pooled", "mean"], WHOLE), 3), tmp_path)
    made = {(node.op, node.result) for node in found.nodes}
    assert {("LayerNormalization", 0), ("LayerNormalization", 1), ("MaxPool", 0)} <= made
    assert not made & {("LayerNormalization", 2), ("MaxPool", 1)}
    assert_computes_the_same(found, model, 1e-5)
    # TVM would make zeros of it.
    with pytest.raises(CompileError, match=r"LayerNormalization has a further output 'mean', .*operator of its own"):
        fuse(found)


def test_a_function_of_onnx_is_written_out(tmp_path: Path) -> None:
    """Group normalization is one."""
    graph = GraphBuilder(HEIGHT, WIDTH, opset=21)
    x = graph.conv(graph.frame, CHANNELS)
    x = graph.node("GroupNormalization", [x, graph.random(CHANNELS), graph.random(CHANNELS)], WHOLE, num_groups=2)
    found, model = read(graph, graph.head(x, 3), tmp_path)
    assert "GroupNormalization" not in {node.op for node in found.nodes}
    assert any(isinstance(layer, Elementwise | Generic) for layer in fuse(found))
    assert_computes_the_same(found, model, 1e-5)
