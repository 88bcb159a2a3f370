"""Reading ONNX files: which inputs are caches, what is refused, and that simplification keeps standard operators."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_graphs import GraphBuilder, small_network

from tsm_edge.compile.graph import CachePair, load_onnx
from tsm_edge.errors import ModelFileError

FOREIGN = {
    "frame": "img:0",
    "logits": "классы",
    "shift_0": "mem.a",
    "shift_1": "mem.b",
    "shift_2": "mem.c",
    "shift_0_next": "new mem/c",
    "shift_1_next": "new mem/b",
    "shift_2_next": "new mem/a",
}


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return path


def two_equal_caches(names: dict[str, str] | None = None) -> onnx.ModelProto:
    """Two caches of one shape, their outputs listed in the opposite order when ``names`` says so."""
    graph = GraphBuilder(6, 8)
    x = graph.relu(graph.conv(graph.frame, 8))
    x = graph.relu(graph.conv(graph.shift(x, 2), 8))
    x = graph.relu(graph.conv(graph.shift(x, 2), 8))
    return graph.model(graph.head(x, 3), names)


def test_our_names(tmp_path: Path) -> None:
    path = saved(small_network(), tmp_path)
    graph = load_onnx(path)
    assert (graph.frame, graph.logits) == ("frame", "logits")
    assert graph.caches == (
        CachePair("shift_0", "shift_0_next", (1, 2, 12, 10)),
        CachePair("shift_1", "shift_1_next", (1, 3, 6, 5)),
        CachePair("shift_2", "shift_2_next", (1, 2, 6, 5)),
    )
    assert graph.shapes["frame"] == (1, 3, 24, 20)
    assert graph.shapes["logits"] == (1, 7)
    assert graph.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_our_names_win_over_the_order_of_outputs(tmp_path: Path) -> None:
    model = two_equal_caches()
    outputs = list(model.graph.output)
    model.graph.ClearField("output")
    model.graph.output.extend(reversed(outputs))
    graph = load_onnx(saved(model, tmp_path))
    assert [(cache.input, cache.output) for cache in graph.caches] == [
        ("shift_0", "shift_0_next"),
        ("shift_1", "shift_1_next"),
    ]


def test_foreign_names_by_shape(tmp_path: Path) -> None:
    graph = load_onnx(saved(small_network(names=FOREIGN), tmp_path))
    assert (graph.frame, graph.logits) == ("img:0", "классы")
    assert [(cache.input, cache.output) for cache in graph.caches] == [
        ("mem.a", "new mem/c"),
        ("mem.b", "new mem/b"),
        ("mem.c", "new mem/a"),
    ]


def test_equal_shapes_are_paired_in_order(tmp_path: Path) -> None:
    names = {"shift_0": "a", "shift_1": "b", "shift_0_next": "x", "shift_1_next": "y"}
    graph = load_onnx(saved(two_equal_caches(names), tmp_path))
    assert [(cache.input, cache.output) for cache in graph.caches] == [("a", "x"), ("b", "y")]


def test_named_caches(tmp_path: Path) -> None:
    names = {"shift_0": "a", "shift_1": "b", "shift_0_next": "y", "shift_1_next": "x"}
    graph = load_onnx(saved(two_equal_caches(names), tmp_path), {"b": "y", "a": "x"})
    assert [(cache.input, cache.output) for cache in graph.caches] == [("a", "x"), ("b", "y")]


def test_no_caches(tmp_path: Path) -> None:
    builder = GraphBuilder(8, 8)
    graph = load_onnx(saved(builder.model(builder.head(builder.conv(builder.frame, 4), 2)), tmp_path))
    assert graph.caches == ()


def test_initializers_listed_as_inputs_are_constants(tmp_path: Path) -> None:
    """As old exporters write them (IR version 3)."""
    model = small_network()
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph = load_onnx(saved(model, tmp_path))
    assert len(graph.caches) == 3
    assert graph.frame == "frame"


def test_batch_norm_and_identity_are_folded(tmp_path: Path) -> None:
    builder = GraphBuilder(8, 8)
    x = builder.conv(builder.frame, 5, 3)
    statistics = [builder.constant(np.linspace(0.5, 1.5, 5)) for _ in range(4)]
    x = builder.node("BatchNormalization", [x, *statistics], builder.shapes[x])
    x = builder.relu(builder.node("Identity", [x], builder.shapes[x]))
    graph = load_onnx(saved(builder.model(builder.head(x, 2)), tmp_path))
    assert [node.op for node in graph.nodes] == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_only_standard_operators(tmp_path: Path) -> None:
    """ONNX Runtime's own fused operators would be strangers to everything after this point."""
    operators = {node.op for node in load_onnx(saved(small_network(), tmp_path)).nodes}
    assert operators == {
        "Add", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Relu", "Slice"
    }  # fmt: skip


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def with_half_input(model: onnx.ModelProto) -> onnx.ModelProto:
    extra = helper.make_tensor_value_info("half", TensorProto.FLOAT16, (1, 2))
    model.graph.input.append(extra)
    return model


def with_second_frame(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.input.append(helper.make_tensor_value_info("flow", TensorProto.FLOAT, (1, 3, 24, 20)))
    return model


def with_second_result(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output.append(helper.make_tensor_value_info("max_pool", TensorProto.FLOAT, (1, 18, 6, 5)))
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    for node in model.graph.node:
        node.input[:] = ["max_pool" if name == pool.output[0] else name for name in node.input]
    pool.output[0] = "max_pool"
    return model


def grey_frame() -> onnx.ModelProto:
    graph = GraphBuilder(8, 8)
    graph.shapes[graph.frame] = (1, 1, 8, 8)
    return graph.model(graph.head(graph.conv(graph.frame, 4), 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_dynamic_batch(small_network()), r"'frame' has a dynamic shape; .*export again"),
        (lambda: with_half_input(small_network()), r"'half' is not float32"),
        (lambda: with_second_frame(small_network()), r"one frame input .* found frame \[1, 3, 24, 20\], flow \[1, 3"),
        (lambda: with_second_result(small_network()), r"one logits output .*max_pool \[1, 18, 6, 5\]"),
        (lambda: with_second_frame(small_network(names=FOREIGN)), r"4 inputs|5 inputs, 3 of which .*--cache INPUT"),
        (grey_frame, r"expected one frame input \[1, 3, height, width\], found frame \[1, 1, 8, 8\]"),
    ],
    ids=["dynamic batch", "half precision", "two frames", "two results", "ambiguous", "grey frame"],
)
def test_refused(make: Callable[[], onnx.ModelProto], message: str, tmp_path: Path) -> None:
    path = saved(make(), tmp_path)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("caches", "message"),
    [
        ({"mem.z": "new mem/c"}, r"--cache names input 'mem.z'; known are img:0, mem.a, mem.b, mem.c"),
        ({"mem.a": "old"}, r"--cache names output 'old'; known are .*new mem/c"),
        ({"mem.a": "new mem/b"}, r"cache 'mem.a' is \[1, 2, 12, 10\] but 'new mem/b' is \[1, 3, 6, 5\]"),
        ({"mem.a": "new mem/c"}, r"expected one frame input .*found img:0 .*, mem.b .*, mem.c"),
    ],
    ids=["unknown input", "unknown output", "other shape", "some only"],
)
def test_named_caches_that_do_not_fit(caches: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_onnx(saved(small_network(names=FOREIGN), tmp_path), caches)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"absent.onnx: no such file; make one with: tsm-edge export"):
        load_onnx(tmp_path / "absent.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09"], ids=["empty", "text", "a header only"])
def test_not_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.onnx: not a valid ONNX model"):
        load_onnx(path)


def test_truncated_file(tmp_path: Path) -> None:
    path = saved(small_network(), tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelFileError, match="not a valid ONNX model"):
        load_onnx(path)


def test_shape_that_depends_on_the_data(tmp_path: Path) -> None:
    builder = GraphBuilder(8, 8)
    x = builder.node("NonZero", [builder.conv(builder.frame, 4)], (4, 1))
    x = builder.node("Cast", [x], (4, 1), to=TensorProto.FLOAT)
    x = builder.node("ReduceSum", [x, builder.constant([0, 1], np.int64)], (1, 1), keepdims=1)
    with pytest.raises(ModelFileError, match=r"shape of '.*' \(NonZero\) depends on the data"):
        load_onnx(saved(builder.model(x), tmp_path))


def test_weights_in_a_file_beside_the_model(tmp_path: Path) -> None:
    """As torch.onnx.export writes them by default."""
    path = tmp_path / "model.onnx"
    onnx.save(small_network(), str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert (tmp_path / "model.onnx.data").is_file()
    graph = load_onnx(path)
    assert graph.constants["constant_0"].shape == (10, 3, 3, 3)
    assert np.abs(graph.constants["constant_0"]).max() > 0
