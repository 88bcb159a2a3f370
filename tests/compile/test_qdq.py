"""ONNX files that a quantiser of others made: read with their own scales, near what ONNX Runtime makes of them.

``tests/cases/quantised_*.onnx`` are one network of two inverted residuals with shift caches, by NNCF 3.4 (for ONNX),
PyTorch 2.13 (``convert_fx``) and torchao 0.18 (``convert_pt2e``); ``quantised_from.onnx`` is the float one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import GraphBuilder

from tsm_edge.artifact.onnx_runtime import import_onnxruntime, open_session
from tsm_edge.cards import load_target
from tsm_edge.cards.architecture import runs_here
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.compile.quantize.exact import exact_model
from tsm_edge.compile.quantize.from_file import file_quantisation
from tsm_edge.compile.quantize.store import FORMAT
from tsm_edge.errors import CompileError, ModelFileError
from tsm_edge.verify.compare import verify_artifact

CASES = Path(__file__).parents[1] / "cases"
Floats = npt.NDArray[np.float32]


def network() -> onnx.ModelProto:
    """Residuals, clamps that a quantiser leaves out, a shift before a 3×3 convolution, a pool of each kind."""
    g = GraphBuilder(20, 24)
    x = g.relu(g.conv(g.frame, 19, 3, 2))
    y = g.relu(g.depthwise(g.clip(g.conv(g.shift(x, 3), 40), 0, 6)))
    x = g.add(g.conv(y, 19), x)
    y = g.relu(g.conv(g.shift(x, 4), 19, 3))
    x = g.add(g.conv(g.max_pool(y, 3, 1, (1, 1, 1, 1)), 19), x)
    return g.model(g.head(g.relu(g.conv(x, 33)), 5))


def write_quantised(source: Path, target: Path, kind: str = "QUInt8", **settings: object) -> None:
    """With ONNX Runtime's quantiser, calibrated with noise, caches fed back."""
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    graph = load_onnx(source)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = (feed for feed, _ in steps(graph, source.read_bytes(), seed=0))

        def get_next(self) -> dict[str, Floats] | None:
            return next(self._feeds, None)

    given = {"quant_format": QuantFormat.QDQ, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(str(source), str(target), Reader(), activation_type=QuantType[kind], **(given | settings))


def steps(graph: OnlineGraph, model: bytes, seed: int) -> Iterator[tuple[dict[str, Floats], Floats]]:
    """Inputs and logits of eight steps of noise."""
    random, session = np.random.default_rng(seed), open_session(model)
    caches = {cache.input: np.zeros(cache.shape, np.float32) for cache in graph.caches}
    for _ in range(8):
        feed = {graph.frame: random.standard_normal(graph.shapes[graph.frame], np.float32), **caches}
        logits, *found = session.run([graph.logits, *(cache.output for cache in graph.caches)], feed)
        yield feed, logits
        caches = dict(zip(caches, found, strict=True))


def ratio_db(found: OnlineGraph, integers: bytes, wanted: bytes) -> float:
    """How near the integers' logits are to another model's of the same frames, dB."""
    made, right = (
        np.concatenate([logits for _, logits in steps(found, model, seed=1)]) for model in (integers, wanted)
    )
    return float(10 * np.log10(np.square(right).sum() / max(np.square(made - right).sum(), 1e-30)))


def integers_of(path: Path) -> tuple[OnlineGraph, bytes]:
    graph = load_onnx(path)
    layers = fuse(graph)
    return graph, exact_model(graph, layers, file_quantisation(graph, layers)).SerializeToString()


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    onnx.save(network(), str(path))
    return path


@pytest.fixture(scope="module")
def quantised_file(float_file: Path) -> Path:
    path = float_file.with_name("quantised.onnx")
    write_quantised(float_file, path)
    return path


@pytest.mark.parametrize(("kind", "per_channel"), [("QUInt8", True), ("QInt8", True), ("QInt8", False)])
def test_files_of_onnx_runtimes_quantiser(kind: str, per_channel: bool, float_file: Path, tmp_path: Path) -> None:
    """As near to ONNX Runtime's integers as rounding once instead of twice is, and as near to the float model."""
    path = tmp_path / "quantised.onnx"
    write_quantised(float_file, path, kind, per_channel=per_channel)
    graph, integers = integers_of(path)
    assert all(layer.quantisable for layer in fuse(graph) if type(layer).__name__ == "Convolution")
    assert ratio_db(graph, integers, path.read_bytes()) >= 30
    ours = ratio_db(graph, integers, float_file.read_bytes())
    theirs = ratio_db(graph, path.read_bytes(), float_file.read_bytes())
    assert ours >= theirs - 1.5


@pytest.mark.parametrize("name", ["nncf", "torch_fx", "torch_pt2e"])
def test_files_of_other_quantisers(name: str) -> None:
    path = CASES / f"quantised_{name}.onnx"
    graph, integers = integers_of(path)
    assert len(graph.caches) == 2
    assert ratio_db(graph, integers, path.read_bytes()) >= 30
    assert ratio_db(graph, integers, (CASES / "quantised_from.onnx").read_bytes()) >= 24


def test_weights_and_scales_are_the_files(quantised_file: Path) -> None:
    """Every integer of every weight; the scale of each activation."""
    model = onnx.load(str(quantised_file))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    graph = load_onnx(quantised_file)
    layers = fuse(graph)
    found = file_quantisation(graph, layers)
    stored = [
        constants[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and constants.get(node.input[0], np.zeros(0)).dtype == np.int8
    ]
    of_the_file = sorted(levels.tobytes() for levels in stored)
    assert sorted(made.weight.tobytes() for made in found.convolutions.values()) == of_the_file
    steps_of_file = {float(value) for value in constants.values() if value.dtype == np.float32 and value.size == 1}
    assert {scale.step for scale in found.tensors.values()} <= steps_of_file
    for cache in graph.caches:
        assert found.tensors[cache.input] == found.tensors[cache.output]


def test_precision_is_the_files(quantised_file: Path, tmp_path: Path) -> None:
    """Compiled without being told; kernels equal the integers bit for bit."""
    target = next((card for name in ("x86-64-v4-vnni", "x86-64-v3-vnni") if runs_here(card := load_target(name))), None)
    if target is None:
        pytest.skip("this CPU has no VNNI")
    artifact = compile_model(CompileRequest(target, tmp_path / "out", onnx=quantised_file, runner=False))
    assert artifact.manifest.precision == "int8"
    result = verify_artifact(artifact)
    assert result.tolerance == 0
    assert result.passed, result
    assert result.quality_db is not None
    assert result.quality_db >= 28, "against ONNX Runtime on the file itself"


def test_a_clamp_that_saturation_stood_for_is_there_again(tmp_path: Path) -> None:
    """The quantiser leaves out a ReLU before an addition; nothing is rounded to levels there any more."""
    g = GraphBuilder(12, 12)
    x = g.conv(g.frame, 8, 3)
    model = g.model(g.head(g.add(g.relu(g.conv(x, 8)), x), 3))
    onnx.save(model, str(tmp_path / "float.onnx"))
    path = tmp_path / "quantised.onnx"
    write_quantised(tmp_path / "float.onnx", path)
    assert not any(node.op_type == "Relu" for node in onnx.load(str(path)).graph.node)
    graph, integers = integers_of(path)
    assert ratio_db(graph, integers, path.read_bytes()) >= 30


def test_layers_that_the_file_leaves_in_float(float_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "partly.onnx"
    last = next(node.name for node in reversed(network().graph.node) if node.op_type in ("Gemm", "MatMul"))
    write_quantised(float_file, path, nodes_to_exclude=[last])
    graph, integers = integers_of(path)
    assert sum(not layer.quantisable for layer in fuse(graph) if type(layer).__name__ == "Convolution") == 1
    assert ratio_db(graph, integers, path.read_bytes()) >= 30


def edited(source: Path, target: Path, dtype: type[np.generic], of: str) -> Path:
    """The file with other levels: zero points of activations, or of weights, of another type or value."""
    model = onnx.load(str(source))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            constant = node.input[0] in tensors
            if (of == "weights") == constant and len(node.input) > 2:
                zero = numpy_helper.to_array(tensors[node.input[2]])
                if zero.dtype == np.int32:
                    continue
                new = np.full(zero.shape, 3, zero.dtype) if of == "weights" else zero.astype(dtype)
                tensors[node.input[2]].CopyFrom(numpy_helper.from_array(new, node.input[2]))
    if of != "weights":
        model.opset_import[0].version = 21
        model.ir_version = 10
    onnx.save(model, str(target))
    return target


def test_what_cannot_be_held_is_refused(quantised_file: Path, float_file: Path, tmp_path: Path) -> None:
    wide = edited(quantised_file, tmp_path / "wide.onnx", np.uint16, "activations")
    with pytest.raises(ModelFileError, match=r"is quantised with uint16, expected one scale and 8 bits"):
        load_onnx(wide)
    skewed = edited(quantised_file, tmp_path / "skewed.onnx", np.int8, "weights")
    with pytest.raises(ModelFileError, match="with a zero point of 3") as refused:
        load_onnx(skewed)
    assert "symmetrically" in refused.value.hint
    from onnxruntime.quantization import QuantFormat

    operators = tmp_path / "operators.onnx"
    write_quantised(float_file, operators, quant_format=QuantFormat.QOperator)
    with pytest.raises(ModelFileError, match=r"operator .*QLinear") as refused:
        load_onnx(operators)
    assert "QDQ" in refused.value.hint


def test_a_scale_for_each_channel_of_an_activation_is_refused(tmp_path: Path) -> None:
    g = GraphBuilder(8, 8)
    scales, zeros = g.constant([0.1, 0.2, 0.3]), g.constant([0, 0, 0], np.uint8)
    levels = g.node("QuantizeLinear", [g.frame, scales, zeros], g.shapes[g.frame], axis=1)
    values = g.node("DequantizeLinear", [levels, scales, zeros], g.shapes[g.frame], axis=1)
    onnx.save(g.model(g.head(g.conv(values, 4), 3)), str(tmp_path / "model.onnx"))
    with pytest.raises(ModelFileError, match="is quantised with 3 scales") as refused:
        load_onnx(tmp_path / "model.onnx")
    assert "per_channel=False" in refused.value.hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": precision_named("fp16"), "target": "raspberry-pi-5"}, "--precision fp16 cannot be given"),
        ({"precision": precision_named("int8"), "quantisation": "q.json"}, "--quantisation cannot be given"),
        ({"target": "x86-64-v3"}, "is quantised, and target x86-64-v3 has no"),
        ({"target": "jetson-nano"}, "is quantised, and target jetson-nano is a GPU"),
    ],
)
def test_what_contradicts_the_file_is_refused(
    settings: dict[str, object], message: str, quantised_file: Path, tmp_path: Path
) -> None:
    target = load_target(str(settings.pop("target", "raspberry-pi-4")))
    if "quantisation" in settings:  # one that can be read: what cannot is refused before the file is looked at
        settings["quantisation"] = tmp_path / str(settings["quantisation"])
        (tmp_path / "q.json").write_text(json.dumps({"format": FORMAT}))
    request = CompileRequest(target, tmp_path / "out", onnx=quantised_file, **settings)  # type: ignore[arg-type]
    with pytest.raises(CompileError, match=message):
        compile_model(request)
    assert not (tmp_path / "out").exists()


def test_a_file_with_weights_in_levels_alone_computes_in_float(tmp_path: Path) -> None:
    g = GraphBuilder(8, 8)
    logits = g.head(g.relu(g.conv(g.frame, 6, 3)), 3)
    model = g.model(logits)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    values = numpy_helper.to_array(tensors[node.input[1]])
    step = np.abs(values).max((1, 2, 3)) / 127
    levels = np.rint(values / step[:, None, None, None]).astype(np.int8)
    tensors[node.input[1]].CopyFrom(numpy_helper.from_array(levels, node.input[1]))
    model.graph.initializer.append(numpy_helper.from_array(step.astype(np.float32), "steps"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", [node.input[1], "steps"], ["weights"], axis=0))
    node.input[1] = "weights"
    onnx.save(model, str(tmp_path / "model.onnx"))
    assert model.graph.initializer[-1].data_type == TensorProto.FLOAT
    graph = load_onnx(tmp_path / "model.onnx")
    assert graph.scales is None
    assert any(constant.shape == values.shape for constant in graph.constants.values())
