"""Models in 8-bit integers: equal to ONNX Runtime on the same integers, and near the float model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_graphs import GraphBuilder, small_network

from tsm_edge.artifact.folder import EXACT_ONNX, QUANTISATION, Artifact
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.architecture import runs_here
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.ir.graph import OnlineGraph
from tsm_edge.compile.ir.layers import Layer
from tsm_edge.compile.ir.quantisation import MAGIC
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.compile.quantised import noise
from tsm_edge.compile.quantize.calibrate import calibrate
from tsm_edge.compile.quantize.integers import largest_sums, rounded_multiplier, tensor_scale
from tsm_edge.compile.quantize.store import read_quantisation, to_json
from tsm_edge.errors import CompileError
from tsm_edge.verify.compare import verify_artifact
from tsm_edge.verify.emulated import verify_emulated

INT8 = precision_named("int8")
TARGETS = ["x86-64-v4-vnni", "x86-64-v3-vnni", "raspberry-pi-5", "raspberry-pi-4"]


def whole_network(height: int = 21, width: int = 27) -> onnx.ModelProto:
    """Every layer with an integer form, in shapes that no tile or vector divides."""
    g = GraphBuilder(height, width)
    x = g.relu(g.conv(g.frame, 19, 3, 2))
    y = g.clip(g.conv(g.shift(x, 3), 70), 0, 6)
    x = g.add(g.conv(g.clip(g.depthwise(y), -0.5, 0.75), 19), x)
    y = g.relu(g.conv(g.shift(x, 4), 33))
    y = g.clip(g.depthwise(y, 3, 2), 0.25, None)
    x = g.conv(y, 24)
    x = g.relu(g.conv(g.shift(x, 5), 37, 3))
    x = g.max_pool(x, 3, 2, (1, 1, 1, 1))
    x = g.relu(g.depthwise(x))
    y = g.shift(x, 6)
    x = g.relu(g.add(g.conv(y, 37, 1, 1), y))
    x = g.relu(g.conv(x, 130, (1, 3), (1, 2), (0, 1, 0, 0)))
    return g.model(g.head(x, 5))


def gated_network() -> onnx.ModelProto:
    """Element-wise operators between images: gates of channels, activations that are no clamp, differences, a tap."""
    g = GraphBuilder(13, 11)

    def like(op: str, *operands: str, **attributes: float) -> str:
        return g.node(op, list(operands), g.shapes[operands[0]], **attributes)

    x = like("HardSwish", g.conv(g.frame, 19, 3, 2))
    y = like("HardSwish", g.depthwise(like("HardSwish", g.conv(g.shift(x, 3), 37))))
    gate = g.conv(g.relu(g.conv(g.global_average(y), 9)), 37)
    y = like("Mul", y, like("HardSigmoid", gate, alpha=0.2, beta=0.5))
    x = g.clip(like("Sub", g.conv(y, 19), x), -1.5, 2)
    x = like("Mul", x, like("Sigmoid", x))
    y = like("LeakyRelu", g.conv(g.shift(x, 4), 19, 3), alpha=0.1)
    x = like("Add", like("Mul", y, y), x)
    return g.model(g.head(like("Sub", x, g.constant([0.25])), 5))


def mixed_network() -> onnx.ModelProto:
    """With operators that have no integer form in between."""
    g = GraphBuilder(12, 10)
    x = g.relu(g.conv(g.frame, 16, 3, 2))
    x = g.add(x, g.node("Sigmoid", [g.conv(g.shift(x, 2), 16, 3, groups=2)], g.shapes[x]))
    x = g.node("Erf", [g.relu(g.depthwise(x, 5))], g.shapes[x])
    return g.model(g.head(g.relu(g.conv(g.shift(x, 4), 12)), 5))


def compile_int8(model: onnx.ModelProto, output: Path, target: TargetCard) -> Artifact:
    source = output.parent / f"{output.name}.onnx"
    onnx.save(model, str(source))
    graph = load_onnx(source)
    size = (graph.shapes[graph.frame][2], graph.shapes[graph.frame][3])
    request = CompileRequest(
        target, output, onnx=source, precision=INT8, calibration=lambda preprocess: noise(size, preprocess)
    )
    return compile_model(request)


def check(model: onnx.ModelProto, folder: Path, name: str, exact: bool, cores: int = 0) -> Artifact:
    """Compile, for a CPU of so many cores if any are given, run here or under QEMU, and compare with the reference."""
    target = load_target(name)
    if cores:
        target = replace(target, cpu=replace(target.cpu, cores=cores))
    emulated = target.cpu.triple.startswith("aarch64")
    if emulated and shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: apt-get install qemu-user")
    if not emulated and not runs_here(target):
        pytest.skip(f"this CPU has no {', '.join(target.cpu.features)}")
    artifact = compile_int8(model, folder / name, target)
    for threads in (1, 3):
        result = verify_emulated(artifact, threads=threads) if emulated else verify_artifact(artifact, threads=threads)
        assert result.passed, result
        assert result.tolerance == (0 if exact else 3e-2)
        assert all(check.magnitude > 0 for check in result.checks)
        if exact:
            assert all(check.error == 0 for check in result.checks)
    return artifact


# One core makes no row twice: whole blocks go by rows. Where many would, they go by panels.
ROWS, PANELS = (1, "inverted_residual"), (8, "expand_depthwise")


@pytest.mark.parametrize(
    ("name", "cores", "fused"),
    [
        ("x86-64-v4-vnni", *ROWS),
        ("x86-64-v4-vnni", *PANELS),
        ("x86-64-v3-vnni", *PANELS),
        ("raspberry-pi-5", *PANELS),
        ("raspberry-pi-4", *ROWS),
    ],
)
def test_kernels_equal_onnx_runtime_bit_for_bit(name: str, cores: int, fused: str, tmp_path: Path) -> None:
    """Logits and every cache, over a reset."""
    artifact = check(whole_network(), tmp_path, name, exact=True, cores=cores)
    rules = {kernel.rule for kernel in artifact.manifest.kernels}
    assert rules == {
        *("quantise", "conv3x3", "pointwise", "depthwise", "copy", "shift", "max_pool", "to_quads"),
        *("conv1x3", "average_pool", fused),
    }
    ways = {kernel.tile for kernel in artifact.manifest.kernels}
    assert any("no conversion" in way for way in ways)
    assert any(way.startswith("int8") and "no conversion" not in way for way in ways), "a residual"


@pytest.mark.parametrize("name", TARGETS)
def test_element_wise_operators_compute_on_levels(name: str, tmp_path: Path) -> None:
    """By tables, sums and products: no tensor becomes float32 on the way."""
    kernels = check(gated_network(), tmp_path, name, exact=True).manifest.kernels
    assert [kernel.rule for kernel in kernels].count("dequantise") == 0
    tiles = {kernel.tile for kernel in kernels if kernel.rule == "elementwise"}
    by_table = {f"{name}, int8 by a table" for name in ("HardSwish", "HardSigmoid", "Sigmoid", "LeakyRelu", "Sub")}
    assert tiles == by_table | {f"{name}, int8" for name in ("Mul", "Sub", "Add")}


@pytest.mark.parametrize("name", [TARGETS[0], TARGETS[-1]])
def test_operators_without_an_integer_form_compute_in_float32(name: str, tmp_path: Path) -> None:
    artifact = check(mixed_network(), tmp_path, name, exact=False)
    assert {"grouped", "elementwise", "generic", "depthwise", "dequantise"} <= {
        k.rule for k in artifact.manifest.kernels
    }


def read(model: onnx.ModelProto, folder: Path) -> tuple[OnlineGraph, list[Layer]]:
    onnx.save(model, str(folder / "model.onnx"))
    graph = load_onnx(folder / "model.onnx")
    return graph, fuse(graph)


def clips(graph: OnlineGraph, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((3, *graph.shapes[graph.frame][1:]), np.float32) for _ in range(2)]


def test_a_cache_has_the_scale_of_the_tensor_it_is_cut_from(tmp_path: Path) -> None:
    graph, layers = read(whole_network(), tmp_path)
    found = calibrate(graph, layers, clips(graph), "noise")
    sources = {layer.output: layer.source for layer in layers if type(layer).__name__ == "CacheTap"}
    assert len(sources) == len(graph.caches) == 4
    for cache in graph.caches:
        assert found.tensors[cache.input] == found.tensors[sources[cache.output]]


def test_channels_of_very_different_size(tmp_path: Path) -> None:
    """Every expansion channel times 2**-u, u up to 5, its depthwise filter divided by it: as in trained networks."""
    g = GraphBuilder(24, 24)
    x = g.relu(g.conv(g.frame, 16, 3, 2))
    for _ in range(3):
        y = g.relu(g.depthwise(g.relu(g.conv(g.shift(x, 2), 48))))
        x = g.add(g.conv(y, 16), x)
    model = g.model(g.head(x, 9))
    random = np.random.default_rng(0)
    constants = {constant.name: constant for constant in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for expand, depthwise in zip(convolutions[1::3], convolutions[2::3], strict=True):
        factor = 2.0 ** -random.uniform(0, 5, 48).astype(np.float32)
        for name, by in ((expand.input[1], factor), (expand.input[2], factor), (depthwise.input[1], 1 / factor)):
            values = onnx.numpy_helper.to_array(constants[name])
            made = (values * by.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
            constants[name].CopyFrom(onnx.numpy_helper.from_array(made, name))
    graph, layers = read(model, tmp_path)
    assert calibrate(graph, layers, clips(graph), "noise").noise_db[graph.logits] >= 24


def test_biases_are_corrected(tmp_path: Path) -> None:
    """The mean of the logits is that of the float model, on the frames it was calibrated with."""
    graph, layers = read(whole_network(), tmp_path)
    found = calibrate(graph, layers, clips(graph), "noise")
    before = {layer.output: layer.bias for layer in layers if type(layer).__name__ == "Convolution"}
    assert set(found.biases) == set(before)
    assert any(not np.array_equal(found.biases[name], before[name]) for name in before)


def test_the_decisions_are_read_back_as_they_were(tmp_path: Path) -> None:
    graph, layers = read(whole_network(), tmp_path)
    made = calibrate(graph, layers, clips(graph), "two clips")
    path = tmp_path / QUANTISATION
    path.write_text(to_json(made, graph), "utf-8")
    found = read_quantisation(path, graph, layers)
    assert (found.tensors, found.origin) == (made.tensors, "two clips")
    for name, integers in made.convolutions.items():
        np.testing.assert_array_equal(found.convolutions[name].weight, integers.weight)
        np.testing.assert_array_equal(found.convolutions[name].bias, integers.bias)
        np.testing.assert_array_equal(found.convolutions[name].multiplier, integers.multiplier)
    other, other_layers = read(small_network(), tmp_path)
    with pytest.raises(CompileError, match="was made for another model"):
        read_quantisation(path, other, other_layers)
    table = json.loads(path.read_text("utf-8"))
    table["tensors"][graph.frame]["step"] = 0
    path.write_text(json.dumps(table), "utf-8")
    with pytest.raises(CompileError, match=r"quantisation\.json: has no scale"):
        read_quantisation(path, graph, layers)


def test_a_cache_that_is_read_before_its_source_is_made_has_no_scale(tmp_path: Path) -> None:
    g = GraphBuilder(8, 8)
    x = g.conv(g.frame, 5)
    cache = g.cache(g.shapes[x])
    y = g.add(x, cache)
    g.feed_back(cache, y)
    graph, layers = read(g.model(g.head(g.conv(y, 7, 3), 3)), tmp_path)
    with pytest.raises(CompileError, match="is read before"):
        calibrate(graph, layers, clips(graph), "noise")


def test_double_precision_holds_every_product_and_sum() -> None:
    """What makes the reference exact: one rounding to float32 of the true value, as a fused multiply-add has."""
    random = np.random.default_rng(0)
    multipliers = rounded_multiplier(2.0 ** random.uniform(-20, -2, 2000))
    sums = random.integers(-(2**21), 2**21, 2000)
    constants = np.rint(MAGIC - MAGIC * multipliers.astype(np.float64))
    begun = (MAGIC + sums).astype(np.float64)
    found = begun * multipliers.astype(np.float64) + constants
    for index in range(2000):
        true = Fraction(int(begun[index])) * Fraction(float(multipliers[index])) + Fraction(int(constants[index]))
        assert Fraction(float(found[index])) == true


def test_the_largest_sum_is_reached_and_never_passed() -> None:
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (6, 9, 1, 1)).astype(np.int8)
    bias, source = random.integers(-500, 500, 6), tensor_scale(-1.0, 3.0)
    most = largest_sums(weight, bias, source)
    flat = weight.reshape(6, 9).astype(np.int64)
    extremes = np.stack([np.where(flat > 0, high, 255 - high) for high in (0, 255)])  # [2][out][in]
    reached = np.abs(((extremes - source.zero) * flat).sum(2) + bias).max(0)
    np.testing.assert_array_equal(reached, most)


def test_without_frames_trained_weights_are_refused(
    tmp_path: Path, golden_checkpoint: Path, native: TargetCard
) -> None:
    from tsm_edge.cards import load_model

    card = load_model("mobilenetv2-jester")
    target = load_target("raspberry-pi-4")
    with pytest.raises(CompileError, match="expected --calibrate CLIP"):
        CompileRequest(target, tmp_path / "out", card, checkpoint=golden_checkpoint, precision=INT8)


def test_a_target_without_the_instructions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="target x86-64-v3 has no dot-product or multiply-by-lane") as refused:
        CompileRequest(load_target("x86-64-v3"), tmp_path / "out", onnx=tmp_path / "model.onnx", precision=INT8)
    assert "x86-64-v3-vnni" in refused.value.hint


def test_an_artifact_has_its_reference_and_its_decisions(tmp_path: Path) -> None:
    artifact = compile_int8(small_network(), tmp_path / "small", load_target("raspberry-pi-4"))
    assert artifact.reference == artifact.path / EXACT_ONNX
    assert {EXACT_ONNX, QUANTISATION} <= set(artifact.manifest.files)
    assert artifact.manifest.tolerance == 0
