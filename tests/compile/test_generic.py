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
from foreign_operators import ELEMENTWISE, GENERIC, SHAPE, Operator, operators_model
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
