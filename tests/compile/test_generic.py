"""Operators without a rule of their own, and element-wise ones, against ONNX Runtime."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import sse_target
from onnx_graphs import Floats, GraphBuilder, Reference, assert_close, assert_nan_goes_through
from tvm import tirx

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.backends.cpu.llvm import build_kernels, generate
from tsm_edge.compile.backends.operators.generic import generic
from tsm_edge.compile.backends.operators.legalize import legalize
from tsm_edge.compile.backends.operators.quiet import without_tvm_warnings
from tsm_edge.compile.ir.choices import Choices
from tsm_edge.compile.ir.graph import Node
from tsm_edge.compile.ir.program import KernelCall, Program
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import CompileError
from tsm_edge.runtime import most_buffers
from tsm_edge.session.local import OnlineSession

SHAPE = (1, 6, 8, 10)
# Makes a tensor of SHAPE from two of SHAPE: x from a ReLU, y of both signs.
Operator = Callable[[GraphBuilder, str, str], str]


def compiled(model: onnx.ModelProto, folder: Path, target: TargetCard) -> Artifact:
    """Compile for a target, without the runner."""
    folder.mkdir(exist_ok=True)
    onnx.save(model, str(folder / "model.onnx"))
    return compile_model(CompileRequest(target, folder / "out", onnx=folder / "model.onnx", runner=False))


def rules(artifact: Artifact) -> set[str]:
    return {kernel.rule for kernel in artifact.manifest.kernels}


def assert_streams_agree(artifact: Artifact, model: onnx.ModelProto, threads: int) -> None:
    """Five frames with cache feedback."""
    reference = Reference(model)
    frames = reference.frames(5)
    with OnlineSession(artifact, threads) as session:
        for frame, expected in zip(frames, reference.stream(frames), strict=True):
            assert_close(session.step(frame), expected)


def integers(graph: GraphBuilder, *values: int) -> str:
    return graph.constant(list(values), np.int64)


def layer_normalization(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Transpose", [y], (1, 8, 10, 6), perm=[0, 2, 3, 1])
    t = g.node("LayerNormalization", [t, g.random(6), g.random(6)], (1, 8, 10, 6), axis=-1)
    return g.node("Transpose", [t], SHAPE, perm=[0, 3, 1, 2])


def channel_shuffle(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Reshape", [y, integers(g, 1, 2, 3, 8, 10)], (1, 2, 3, 8, 10))
    t = g.node("Transpose", [t], (1, 3, 2, 8, 10), perm=[0, 2, 1, 3, 4])
    return g.node("Reshape", [t, integers(g, *SHAPE)], SHAPE)


def attention(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Transpose", [x], (1, 6, 10, 8), perm=[0, 1, 3, 2])
    t = g.node("Softmax", [g.node("MatMul", [y, t], (1, 6, 8, 8))], (1, 6, 8, 8), axis=-1)
    return g.node("MatMul", [t, x], SHAPE)


def matmul_of_a_matrix(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Flatten", [g.node("Squeeze", [y, integers(g, 0)], SHAPE[1:])], (6, 80), axis=1)
    t = g.node("MatMul", [t, g.random(80, 80, scale=0.1)], (6, 80))
    return g.node("Reshape", [t, integers(g, *SHAPE)], SHAPE)


def relu_of_a_matrix(g: GraphBuilder, y: str) -> str:
    t = g.node("Relu", [g.node("Reshape", [y, integers(g, 6, 80)], (6, 80))], (6, 80))
    t = g.node("Min", [g.node("Max", [t, g.random(6, 80)], (6, 80)), g.random(6, 80)], (6, 80))
    return g.node("Reshape", [t, integers(g, *SHAPE)], SHAPE)


def up_and_down(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Resize", [y, "", g.constant([1, 1, 2, 2])], (1, 6, 16, 20), mode="linear")
    return g.node("AveragePool", [t], SHAPE, kernel_shape=[2, 2], strides=[2, 2])


def pad_and_slice(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Pad", [y, integers(g, 0, 0, 1, 2, 0, 0, 0, 1)], (1, 6, 9, 13))
    return g.node("Slice", [t, integers(g, 0, 1), integers(g, 8, 11), integers(g, 2, 3)], SHAPE)


def concat_of_thirteen(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("Concat", [x, *[g.conv(y, 1)] * 11, g.conv(x, 1)], (1, 18, 8, 10), axis=1)
    return g.channels(t, 12, 18)


def transposed_convolution(g: GraphBuilder, x: str, y: str) -> str:
    t = g.node("ConvTranspose", [y, g.random(6, 4, 2, 2)], (1, 4, 16, 20), strides=[2, 2])
    return g.conv(t, 6, 3, 2)


def spatial_attention(g: GraphBuilder, x: str, y: str) -> str:
    return g.node("Mul", [y, g.node("ReduceMax", [x, integers(g, 1)], (1, 1, 8, 10))], SHAPE)


def dilated_convolution(g: GraphBuilder, x: str, y: str) -> str:
    return g.node("Conv", [x, g.random(6, 6, 3, 3)], SHAPE, kernel_shape=[3, 3], pads=[2] * 4, dilations=[2, 2])


GENERIC: dict[str, Operator] = {
    "average pool": lambda g, x, y: g.node("AveragePool", [y], SHAPE, kernel_shape=[3, 3], pads=[1] * 4),
    "dilated convolution": dilated_convolution,
    "layer normalization between transposes": layer_normalization,
    "instance normalization": lambda g, x, y: g.node("InstanceNormalization", [y, g.random(6), g.random(6)], SHAPE),
    "softmax over channels": lambda g, x, y: g.node("Softmax", [y], SHAPE, axis=1),
    "resize up, pool down": up_and_down,
    "pad and slice": pad_and_slice,
    "gather with negative indices": lambda g, x, y: g.node(
        "Gather", [y, integers(g, 5, -2, 0, 1, -6, 2)], SHAPE, axis=1
    ),
    "channel shuffle": channel_shuffle,
    "attention": attention,
    "matmul of a matrix": matmul_of_a_matrix,
    "concat of 13 tensors": concat_of_thirteen,
    "transposed convolution": transposed_convolution,
    "spatial attention": spatial_attention,
    "dilated max pool": lambda g, x, y: g.node(
        "MaxPool", [y], SHAPE, kernel_shape=[3, 3], dilations=[2, 2], pads=[2] * 4
    ),
    "gelu": lambda g, x, y: g.node("Gelu", [y], SHAPE),
    "sum of 11 tensors": lambda g, x, y: g.node("Sum", [x, *(g.conv(y, 6) for _ in range(10))], SHAPE),
    "global max pool, added": lambda g, x, y: g.add(y, g.node("GlobalMaxPool", [y], (1, 6, 1, 1))),
    "relu of a matrix": lambda g, x, y: relu_of_a_matrix(g, y),
    "tanh": lambda g, x, y: g.node("Tanh", [y], SHAPE),
    "exp": lambda g, x, y: g.node("Exp", [y], SHAPE),
    "add a whole constant": lambda g, x, y: g.node("Add", [y, g.random(*SHAPE)], SHAPE),
}

ELEMENTWISE: dict[str, Operator] = {
    "add": lambda g, x, y: g.add(x, y),
    "add and relu": lambda g, x, y: g.relu(g.add(g.node("Mul", [x, x], SHAPE), y)),
    "sub from a number": lambda g, x, y: g.node("Sub", [g.constant(1.0), y], SHAPE),
    "mul": lambda g, x, y: g.node("Mul", [x, y], SHAPE),
    "mul by a channel's constant": lambda g, x, y: g.node("Mul", [y, g.random(6, 1, 1)], SHAPE),
    "div": lambda g, x, y: g.node("Div", [y, g.node("Add", [x, g.constant(2.0)], SHAPE)], SHAPE),
    "max": lambda g, x, y: g.node("Max", [x, y], SHAPE),
    "min": lambda g, x, y: g.node("Min", [x, y], SHAPE),
    "relu": lambda g, x, y: g.relu(g.node("Mul", [y, x], SHAPE)),
    "clip": lambda g, x, y: g.clip(g.add(y, x), 0.25, 0.5),
    "leaky relu": lambda g, x, y: g.node("LeakyRelu", [y], SHAPE, alpha=0.3),
    "prelu": lambda g, x, y: g.node("PRelu", [y, g.random(6, 1, 1)], SHAPE),
    "hard sigmoid": lambda g, x, y: g.node("HardSigmoid", [y], SHAPE),
    "hard swish": lambda g, x, y: g.node("HardSwish", [y], SHAPE),
    "sigmoid": lambda g, x, y: g.node("Sigmoid", [y], SHAPE),
    "sigmoid of large values": lambda g, x, y: g.node("Sigmoid", [g.node("Mul", [y, g.constant(100.0)], SHAPE)], SHAPE),
    "batch normalization": lambda g, x, y: g.node(
        "BatchNormalization", [g.add(y, x), *(g.random(6) for _ in range(3)), g.constant(np.arange(1, 7))], SHAPE
    ),
    "then padded": lambda g, x, y: g.depthwise(g.node("Sigmoid", [y], SHAPE)),
}


def operators_model(operators: dict[str, Operator]) -> onnx.ModelProto:
    """All operators on one pair of tensors; each result is a next cache, so that it can be looked at."""
    graph = GraphBuilder(16, 20)
    x, y = graph.relu(graph.conv(graph.frame, 6, 3, 2)), graph.conv(graph.frame, 6, 3, 2)
    for operator in operators.values():
        graph.feed_back(graph.cache(SHAPE), operator(graph, x, y))
    return graph.model(graph.head(x, 5))


Pairs = dict[str, tuple[Floats, Floats]]


@dataclass(frozen=True)
class Compiled:
    """Operators in one artifact, and by operator (ours, ONNX Runtime's): for numbers of threads, and with NaN."""

    artifact: Artifact
    results: dict[int, Pairs]
    of_nan: Pairs


def run_operators(operators: dict[str, Operator], folder: Path, target: TargetCard) -> Compiled:
    """Compile all of them and run a frame, and another with a pixel of NaN."""
    model = operators_model(operators)
    artifact = compiled(model, folder, target)
    reference = Reference(model)
    frame = reference.frames(1)[0]

    def pairs(threads: int, frame: Floats) -> Pairs:
        _, expected = reference.step(frame, reference.zeros())
        with OnlineSession(artifact, threads) as session:
            _, caches = session.step_explicit(frame, reference.zeros())
        return dict(zip(operators, zip(caches, expected, strict=True), strict=True))

    poisoned = frame.copy()
    poisoned[0, :, 8, 9] = np.nan
    return Compiled(artifact, {threads: pairs(threads, frame) for threads in (1, 3)}, pairs(1, poisoned))


@pytest.fixture(scope="module")
def generic_operators(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return run_operators(GENERIC, tmp_path_factory.mktemp("generic"), native)


@pytest.fixture(scope="module", params=["native", "sse"])
def elementwise_operators(
    request: pytest.FixtureRequest, native: TargetCard, tmp_path_factory: pytest.TempPathFactory
) -> Compiled:
    target = native if request.param == "native" else sse_target()
    return run_operators(ELEMENTWISE, tmp_path_factory.mktemp("elementwise"), target)


@pytest.mark.parametrize("name", GENERIC)
def test_an_operator_without_a_rule(generic_operators: Compiled, name: str) -> None:
    for by_name in generic_operators.results.values():
        assert_close(*by_name[name])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_element_wise_operator(elementwise_operators: Compiled, name: str) -> None:
    for by_name in elementwise_operators.results.values():
        assert_close(*by_name[name])


@pytest.mark.parametrize("name", GENERIC)
def test_nan_goes_through_an_operator_without_a_rule(generic_operators: Compiled, name: str) -> None:
    assert_nan_goes_through(*generic_operators.of_nan[name])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_goes_through_an_element_wise_operator(elementwise_operators: Compiled, name: str) -> None:
    found, expected = elementwise_operators.of_nan[name]
    assert np.isnan(expected).any()
    assert_nan_goes_through(found, expected)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


def test_element_wise_operators_have_a_rule_and_need_no_other_layout(elementwise_operators: Compiled) -> None:
    found = rules(elementwise_operators.artifact)
    assert "elementwise" in found
    assert "generic" not in found
    layers = [kernel.layer for kernel in elementwise_operators.artifact.manifest.kernels]
    assert not [layer for layer in layers if " as NHWC" in layer or " as NCHW" in layer]


def test_generic_kernels_are_split_into_work_items(generic_operators: Compiled) -> None:
    items = [kernel.items for kernel in generic_operators.artifact.manifest.kernels if kernel.rule == "generic"]
    assert max(items) > 8


@pytest.mark.parametrize("threads", [1, 3])
def test_squeeze_and_excite_with_hard_swish(
    native: TargetCard, tmp_path_factory: pytest.TempPathFactory, threads: int
) -> None:
    graph = GraphBuilder()
    x = graph.conv(graph.frame, 10, 3, 2)
    x = graph.node("HardSwish", [x], graph.shapes[x])
    gate = graph.relu(graph.conv(graph.global_average(x), 4))
    gate = graph.node("HardSigmoid", [graph.conv(gate, 10)], (1, 10, 1, 1))
    x = graph.depthwise(graph.node("Mul", [x, gate], graph.shapes[x]))
    logits = graph.head(x, 7)
    model = graph.model(graph.node("Softmax", [logits], (1, 7), axis=1))
    artifact = compiled(model, tmp_path_factory.mktemp("se"), native)
    assert_streams_agree(artifact, model, threads)
    generic = [kernel.layer for kernel in artifact.manifest.kernels if kernel.rule == "generic"]
    assert [name.partition("_")[0] for name in generic] == ["softmax"]  # only it has no rule


@pytest.mark.parametrize("threads", [1, 3])
def test_a_whole_tensor_made_without_a_rule_becomes_the_next_cache(
    native: TargetCard, tmp_path_factory: pytest.TempPathFactory, threads: int
) -> None:
    graph = GraphBuilder()
    x = graph.relu(graph.conv(graph.frame, 6, 3, 2))
    pooled = graph.node("AveragePool", [x], SHAPE, kernel_shape=[3, 3], pads=[1] * 4)
    cache = graph.cache(SHAPE)
    graph.feed_back(cache, pooled)
    both = graph.concat(graph.conv(cache, 6), x)  # reads all of the last frame's, and some of this frame's
    model = graph.model(graph.head(graph.conv(both, 9, 3), 5))
    artifact = compiled(model, tmp_path_factory.mktemp("whole"), native)
    assert_streams_agree(artifact, model, threads)


@pytest.mark.parametrize(
    ("card", "vector"),
    [("x86-64-v3", r"vfmadd\w+ps\s.*%ymm"), ("raspberry-pi-4", r"fmla\s+v\d+\.4s"), ("raspberry-pi-3-32bit", "")],
)
def test_the_exponential_is_inline_and_in_vectors(card: str, vector: str) -> None:
    shapes = {"x": (1, 400), "y": (1, 400)}
    (step,) = legalize(Node("Softmax", ("x",), ("y",), {"axis": 1}), shapes, {}, opset=18).steps
    kernels = build_kernels({"softmax": generic("softmax", step.spec)}, load_target(card).cpu)
    assembly = kernels.inspect_source("asm")
    # Not a call of expf for every element. (LLVM makes no NEON vectors of float32 loops for 32-bit Arm.)
    assert not re.search(r"\b(callq?|blx?)\s", assembly)
    assert re.search(vector, assembly)


def test_an_operator_of_more_tensors_than_a_kernel_takes_is_named() -> None:
    """As many as the runtime's table of calls has room for: one more does not compile."""
    most = most_buffers()
    names = tuple(f"x{index}" for index in range(most))
    shapes = dict.fromkeys((*names, "y"), SHAPE)
    steps = legalize(Node("Sum", names[:-1], ("y",), {}), shapes, {}, opset=18).steps
    assert max(len(step.spec.arguments) for step in steps) == most
    with pytest.raises(CompileError, match=f"one of its kernels has {most + 1} buffers, and {most} is the most"):
        legalize(Node("Sum", names, ("y",), {}), shapes, {}, opset=18)


def cumulative_sum(g: GraphBuilder, x: str) -> str:
    return g.node("CumSum", [x, g.constant(1, np.int64)], SHAPE)


def accumulating_scatter(g: GraphBuilder, x: str) -> str:
    """TVM makes loops of it that no code can be generated for."""
    updates = [g.constant([[0, 1, 2, 3]], np.int64), g.constant([1.0])]
    return g.node("ScatterND", [x, *updates], SHAPE, reduction="add")


def unpooling(g: GraphBuilder, x: str) -> str:
    """TVM's own function of it cannot be scheduled."""
    places = g.constant(np.arange(math.prod(SHAPE)).reshape(SHAPE), np.int64)
    return g.node("MaxUnpool", [x, places], SHAPE, kernel_shape=[1, 1])


@pytest.mark.parametrize("operator", [cumulative_sum, accumulating_scatter, unpooling])
def test_an_operator_nothing_can_compile_is_named(
    operator: Callable[[GraphBuilder, str], str], native: TargetCard, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = GraphBuilder()
    made = operator(graph, graph.conv(graph.frame, 6, 3, 2))
    with pytest.raises(CompileError, match=rf"operator \w+ \('{made}'\) has no rule, .*; export the model") as caught:
        compiled(graph.model(graph.head(made, 5)), tmp_path / "bad", native)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bad" / "out").exists()
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_code_is_named(native: TargetCard) -> None:
    """Where TVM fails only at the very end."""
    (step,) = legalize(Node("Tanh", ("x",), ("y",)), {"x": (1, 400), "y": (1, 400)}, {}, opset=18).steps
    broken = tirx.PrimFunc(step.spec.function.params, tirx.Evaluate(tirx.Var("elsewhere", "int32")))
    good = KernelCall("a", step.spec, (), "fine")
    bad = replace(good, kernel="b", spec=replace(step.spec, code="broken", function=broken), layer="bad")
    with pytest.raises(CompileError, match=r"operator Tanh \('bad'\) has no rule, and TVM generates no code for it"):
        generate(Program((good, bad), (), (), (), 0, FP32, Choices()), native.cpu)


def test_the_fallback_says_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    """TVM warns of its gather, and prints what it cannot convert; what others say meanwhile is kept."""
    indices = {"i": np.array([2, 0], np.int64)}
    legalize(Node("Gather", ("x", "i"), ("y",), {"axis": 1}), {"x": (1, 4), "i": (2,), "y": (1, 2)}, indices, opset=18)
    node = Node("Gemm", ("x", "w", "b"), ("y",), {"transB": 1})
    shapes = {"x": (1, 4), "w": (3, 4), "b": (2,), "y": (1, 3)}
    constants = {name: np.zeros(shapes[name], np.float32) for name in ("w", "b")}
    with pytest.raises(CompileError, match=r"Gemm .* TVM cannot compile it either: .{1,200}; export the model without"):
        legalize(node, shapes, constants, opset=18)
    assert capfd.readouterr() == ("", "")
    with without_tvm_warnings():
        os.write(2, b"[11:12:13] /src/a.h:9: Warning: of no interest\nkept\n")
    assert capfd.readouterr() == ("", "kept\n")


def test_a_tensor_that_is_not_float32_is_refused(native: TargetCard, tmp_path: Path) -> None:
    graph = GraphBuilder()
    x = graph.conv(graph.frame, 6, 3, 2)
    best = graph.node("Cast", [graph.node("ArgMax", [x], (1, 1, 8, 10), axis=1)], (1, 1, 8, 10), to=1)
    with pytest.raises(CompileError, match=r"ArgMax .* its result is int64"):
        compiled(graph.model(graph.head(best, 5)), tmp_path / "bad", native)
