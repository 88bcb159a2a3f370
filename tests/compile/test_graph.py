"""Reading ONNX files: which inputs are caches, what is refused, and that simplification keeps standard operators."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import GraphBuilder, Reference, assert_close, small_network

from tsm_edge.compile.frontend.onnx_reader import load_onnx, read_onnx
from tsm_edge.compile.ir.graph import CachePair
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


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (("buf9", "buf10"), ("buf9_out", "buf10_out")),
        (("i1", "i2"), ("o1", "o2")),
        (("in.0", "in.1"), ("out.0", "out.1")),
        (("cacheIn:07", "cacheIn:8"), ("cacheOut:7", "cacheOut:08")),
        (("old left", "old right"), ("new left", "new right")),
        (("layer1/0/prev", "layer1/1/prev"), ("layer1/0/cur", "layer1/1/cur")),
    ],
)
def test_names_pair_caches_of_one_shape(inputs: tuple[str, str], outputs: tuple[str, str], tmp_path: Path) -> None:
    """Whatever the order of the outputs."""
    names = {"shift_0": inputs[0], "shift_1": inputs[1], "shift_0_next": outputs[0], "shift_1_next": outputs[1]}
    model = two_equal_caches(names)
    expected = list(zip(inputs, outputs, strict=True))
    for _ in range(2):
        graph = load_onnx(saved(model, tmp_path))
        assert [(cache.input, cache.output) for cache in graph.caches] == expected
        outputs_now = list(model.graph.output)
        model.graph.ClearField("output")
        model.graph.output.extend(reversed(outputs_now))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (("a", "b"), ("x", "y")),
        (("shift_0", "shift_1"), ("out_1", "out_2")),
        (("buf1", "buf2"), ("value_1", "value_2")),
        (("in 1", "1 in"), ("out 1", "1 out")),
    ],
)
def test_names_that_do_not_decide_are_asked_for(
    inputs: tuple[str, str], outputs: tuple[str, str], tmp_path: Path
) -> None:
    names = {"shift_0": inputs[0], "shift_1": inputs[1], "shift_0_next": outputs[0], "shift_1_next": outputs[1]}
    path = saved(two_equal_caches(names), tmp_path)
    with pytest.raises(ModelFileError, match="names do not say which output is fed back to which") as caught:
        load_onnx(path)
    # The line can be copied: it is what the order of inputs and outputs suggests.
    words = shlex.split(str(caught.value).partition("compile again with: ")[2])
    assert words[::2] == ["--cache", "--cache"]
    suggested = dict(word.split("=") for word in words[1::2])
    assert suggested == dict(zip(inputs, outputs, strict=True))
    assert [(c.input, c.output) for c in load_onnx(path, suggested).caches] == list(suggested.items())


def test_a_frame_like_its_cache_is_told_apart_by_names(tmp_path: Path) -> None:
    builder = GraphBuilder(6, 8)
    cache = builder.cache((1, 3, 6, 8))
    x = builder.conv(builder.frame, 3)
    builder.feed_back(cache, x)
    logits = builder.head(builder.add(builder.conv(cache, 3), x), 3)
    names = {"frame": "old", "shift_0": "state", "shift_0_next": "new_state"}
    graph = load_onnx(saved(builder.model(logits, names), tmp_path))
    assert (graph.frame, graph.caches[0].input) == ("old", "state")
    names["frame"], names["shift_0"] = "x", "y"
    with pytest.raises(ModelFileError, match="names do not say"):
        load_onnx(saved(builder.model(logits, names), tmp_path))


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


def with_integer_input(model: onnx.ModelProto) -> onnx.ModelProto:
    extra = helper.make_tensor_value_info("count", TensorProto.INT32, (1, 2))
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
        (lambda: with_integer_input(small_network()), r"'count' is not float32 but int32; export again"),
        (lambda: with_second_frame(small_network()), r"one frame input .* found frame \[1, 3, 24, 20\], flow \[1, 3"),
        (lambda: with_second_result(small_network()), r"one logits output .*max_pool \[1, 18, 6, 5\]"),
        (lambda: with_second_frame(small_network(names=FOREIGN)), r"4 inputs|5 inputs, 3 of which .*--cache INPUT"),
        (grey_frame, r"expected one frame input \[1, 3, height, width\], found frame \[1, 1, 8, 8\]"),
    ],
    ids=["dynamic batch", "integers", "two frames", "two results", "ambiguous", "grey frame"],
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
        ({"mem.b": "new mem/b", "mem.c": "new mem/b"}, r"--cache feeds output 'new mem/b' to 2 inputs"),
        ({"mem.a": "new mem/c"}, r"expected one frame input .*found img:0 .*, mem.b .*, mem.c"),
    ],
    ids=["unknown input", "unknown output", "other shape", "one for two", "some only"],
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


# Before any work ---------------------------------------------------------------------------------------------------


def initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def with_nan(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = initializer(model, "constant_0")
    values = numpy_helper.to_array(tensor).copy()
    values[1, 2, 0, 1] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def with_infinite_weight(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = initializer(model, "constant_0")
    values = numpy_helper.to_array(tensor).astype(np.float64) * 1e300
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def with_negative_variance() -> onnx.ModelProto:
    graph = GraphBuilder(8, 8)
    x = graph.conv(graph.frame, 4, 3)
    statistics = [graph.constant([value] * 4) for value in (1.0, 0.0, 0.0, -1.0)]
    return graph.model(graph.head(graph.node("BatchNormalization", [x, *statistics], graph.shapes[x]), 2))


def with_frame_size(height: int) -> onnx.ModelProto:
    model = small_network()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = height
    return model


def that_asks_for_much() -> onnx.ModelProto:
    """A constant of 64 GiB, written in a few bytes."""
    graph = GraphBuilder(8, 8)
    huge = graph.node("ConstantOfShape", [graph.constant([1, 2**14, 2**10, 2**10], np.int64)], (1, 2**14, 2**10, 2**10))
    small = graph.node("ReduceMax", [huge, graph.constant([1, 2, 3], np.int64)], (1, 1, 1, 1))
    x = graph.conv(graph.frame, 4)
    return graph.model(graph.head(graph.node("Mul", [x, small], graph.shapes[x]), 2))


def with_constant_logits() -> onnx.ModelProto:
    graph = GraphBuilder(8, 8)
    return graph.model(graph.node("Mul", [graph.constant([[1.0, 2.0]]), graph.constant([[3.0, 4.0]])], (1, 2)))


def in_training(op: str) -> onnx.ModelProto:
    graph = GraphBuilder(8, 8, opset=17)
    x = graph.conv(graph.frame, 4)
    if op == "Dropout":
        inputs, outputs, attributes = [x, graph.constant(0.5), graph.constant(True, np.bool_)], ["y"], {}
    else:
        inputs, outputs = [x, *(graph.constant([1.0] * 4) for _ in range(4))], ["y", "mean", "variance"]
        attributes = {"training_mode": 1}
    graph._nodes.append(helper.make_node(op, inputs, outputs, name="block1.bn", **attributes))
    graph.shapes["y"] = graph.shapes[x]
    return graph.model(graph.head("y", 2))


def for_one_runtime() -> onnx.ModelProto:
    """What ONNX Runtime's optimiser makes of a GELU."""
    model = small_network()
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_nan(small_network()), r"weight 'constant_0' is not a number \(NaN\); train or export"),
        (lambda: with_infinite_weight(small_network()), r"weight 'constant_0' is infinite in float32"),
        (with_negative_variance, r"folded into the next layer \(a variance below zero\?\) is not a number"),
        (lambda: with_frame_size(-5), r"'frame' is \[1, 3, -5, 20\]: expected sizes of at least 1"),
        (lambda: with_frame_size(2**40), r"'frame' is \[1, 3, 1099511627776, 20\]: expected .* at most"),
        (that_asks_for_much, r"is \[1, 16384, 1024, 1024\]: expected .* at most 134217728 values; take smaller frames"),
        (with_constant_logits, r"output 'logits' is a constant, whatever the frame; export the network itself"),
        (lambda: in_training("BatchNormalization"), r"BatchNormalization \('block1.bn'\) is in training mode; .*eval"),
        (lambda: in_training("Dropout"), r"Dropout \('block1.bn'\) is in training mode; call model.eval\(\)"),
        (for_one_runtime, r"operator com\.microsoft\.Gelu \(.*\) is not a standard ONNX operator; export"),
    ],
    ids=[
        *("NaN", "beyond float32", "negative variance", "negative size", "huge frame", "huge constant"),
        "constant logits",
        *("batch normalization in training", "dropout in training", "another runtime's operator"),
    ],
)
def test_refused_before_any_work(make: Callable[[], onnx.ModelProto], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        load_onnx(saved(make(), tmp_path))
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("group", -1, r"group -1, a source of \[1, 3, 24, 20\] and weights of \[10, 3, 3, 3\]"),
        ("group", 0, "group 0, a source of"),
        ("group", 3, "group 3, a source of"),
    ],
)
def test_impossible_groups_are_refused(attribute: str, value: int, message: str, tmp_path: Path) -> None:
    """ONNX Runtime takes them until it runs the model."""
    model = small_network()
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    item = next(item for item in convolution.attribute if item.name == attribute)
    item.CopyFrom(helper.make_attribute(attribute, value))
    with pytest.raises(ModelFileError, match=rf"operator Conv \('conv_0'\) has {message}.*; export the model again"):
        load_onnx(saved(model, tmp_path))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_weights_of_another_precision_are_converted(kind: int, tmp_path: Path) -> None:
    model = small_network()
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = original[tensor.name]
            tensor.CopyFrom(helper.make_tensor(tensor.name, kind, values.shape, values.ravel()))
    path = saved(model, tmp_path)
    graph = load_onnx(path)
    np.testing.assert_allclose(graph.constants["constant_0"], original["constant_0"], rtol=0.01)
    assert {value.dtype for value in graph.constants.values()} <= {np.dtype(np.float32), np.dtype(np.int64)}
    # What the result is compared with later is the same model.
    converted, data = read_onnx(path)
    assert graph.sha256 == hashlib.sha256(data).hexdigest() != hashlib.sha256(path.read_bytes()).hexdigest()
    assert_close(*(Reference(item).stream(Reference(item).frames(2))[1] for item in (converted, small_network())), 0.05)


def test_a_model_in_half_precision_is_converted_whole(tmp_path: Path) -> None:
    """Inputs, outputs and casts, as ``model.half()`` exports them."""
    model = small_network()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    logits = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == logits else name for name in node.output]
    model.graph.node.append(helper.make_node("Cast", ["before"], [logits], to=TensorProto.FLOAT16))
    graph = load_onnx(saved(model, tmp_path))
    assert (graph.frame, graph.logits, len(graph.caches)) == ("frame", "logits", 3)
    Reference(read_onnx(tmp_path / "model.onnx")[0]).stream([np.zeros((1, 3, 24, 20), np.float32)])


def test_weights_in_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(small_network(), str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(ModelFileError, match=r"model\.onnx\.data"):
        load_onnx(path)


def test_reading_leaves_nothing_behind_and_asks_no_telemetry(
    program_environment: dict[str, str], tmp_path: Path
) -> None:
    """ONNX Runtime would make an id and a database in the home folder."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    path = saved(small_network(), tmp_path)
    code = (
        "import pathlib, sys; from tsm_edge.compile.frontend.onnx_reader import load_onnx; "
        "load_onnx(pathlib.Path(sys.argv[1]))"
    )
    environment = {**program_environment, "HOME": str(home), "TMPDIR": str(scratch)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "is a Git LFS pointer, not the model"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page that came in place of the model"),
    ],
)
def test_what_was_downloaded_in_place_of_a_model_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        load_onnx(tmp_path / "model.onnx")


def test_a_bound_of_any_rank_is_a_scalar_in_the_reference_too(tmp_path: Path) -> None:
    graph = GraphBuilder()
    x = graph.conv(graph.frame, 4)
    x = graph.node("Clip", [x, graph.constant([[0.0]])], graph.shapes[x])
    path = saved(graph.model(graph.head(x, 3)), tmp_path)
    model, data = read_onnx(path)
    bounds = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    assert [bounds[node.input[1]] for node in model.graph.node if node.op_type == "Clip"] == [[]]
    reference = Reference(onnx.load_from_string(data))
    assert reference.step(reference.frames(1)[0], [])[0].shape == (1, 3)


def test_names_are_for_people_whatever_is_in_them(tmp_path: Path) -> None:
    graph = GraphBuilder()
    model = graph.model(graph.head(graph.conv(graph.frame, 4), 3))
    model.graph.node[0].name = "stem\n\x1b[31m"
    data = model.SerializeToString()
    (tmp_path / "text.onnx").write_bytes(data)
    (tmp_path / "bytes.onnx").write_bytes(data.replace(b"stem\n\x1b[31m", b"stem\xff\xfe[31m"))
    assert load_onnx(tmp_path / "text.onnx").nodes[0].name == "stem[31m"
    with contextlib.suppress(ModelFileError):  # some versions of protobuf refuse it
        assert load_onnx(tmp_path / "bytes.onnx").nodes[0].name.startswith("stem")
