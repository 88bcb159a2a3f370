"""``tsm-edge compile --explain``."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx_graphs import GraphBuilder, small_network

from tsm_edge.cards.precision import PRECISIONS
from tsm_edge.cli.compile import command
from tsm_edge.errors import CompileError

COLUMNS = "layer rule tile items MFLOP kB FLOP/byte bound by model (us)"


def compile_explained(model: onnx.ModelProto, folder: Path, *options: str) -> Result:
    onnx.save(model, str(folder / "model.onnx"))
    arguments = ["--onnx", str(folder / "model.onnx"), "-o", str(folder / "out"), "--no-runner", "--explain", *options]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_a_table_of_kernels_follows_the_compile_table(tmp_path: Path) -> None:
    lines = compile_explained(small_network(), tmp_path, "--target", "x86-64-v3").output.splitlines()
    start = next(index for index, line in enumerate(lines) if " ".join(line.split()) == COLUMNS)
    assert any(line.startswith("compile time") for line in lines[:start])
    assert lines[start + 1].split()[1] == "conv3x3"
    assert any("modelled, not measured" in line and "ms a frame on one core" in line for line in lines[start:])
    assert "every kernel has a rule" in lines


def test_json_holds_the_explanation_beside_the_manifest(tmp_path: Path) -> None:
    graph = GraphBuilder()
    x = graph.relu(graph.conv(graph.frame, 6, 3, 2))
    model = graph.model(graph.head(graph.node("Tanh", [x], graph.shapes[x]), 5))
    table = json.loads(compile_explained(model, tmp_path, "--target", "x86-64-v3", "--json").stdout)
    explained = table["explain"]
    assert [item["layer"] for item in explained["kernels"]] == [item["layer"] for item in table["manifest"]["kernels"]]
    assert explained["without_rule"] == ["Tanh (tanh_2)"]
    assert {choice["rule"] for choice in explained["choices"]} >= {"convolution"}
    assert all(choice["layers"] and choice["settings"] for choice in explained["choices"])
    assert explained["modelled_milliseconds"] == pytest.approx(
        sum(item["microseconds"] for item in explained["kernels"]) / 1e3
    )


def test_the_help_names_every_precision_and_both_ways_to_sum_halfs_in_fp32() -> None:
    text = " ".join(CliRunner().invoke(command, ["--help"], terminal_width=200).output.split())
    assert f"Of weights, activations and sums: {', '.join(PRECISIONS)}." in text
    assert "as with --precision fp16-fp32" in text


@pytest.mark.parametrize("words", [["--precision", "fp16-fp32"], ["--precision", "fp16", "--accumulate", "fp32"]])
def test_halfs_summed_in_fp32_are_refused_on_a_cpu_by_their_name(words: list[str], tmp_path: Path) -> None:
    onnx.save(small_network(), str(tmp_path / "model.onnx"))
    arguments = ["--onnx", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out"), *words]
    assert isinstance(error := CliRunner().invoke(command, arguments).exception, CompileError)
    assert error.problem == "target native is a CPU: precision fp16-fp32 (halfs summed in fp32) is for GPUs"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("fp16", "target native has no fp16-arithmetic, which precision fp16 needs; leave --precision out, or choose"),
        ("fp23", "unknown precision 'fp23' (did you mean 'fp32'?): known are fp16, fp16-fp32, fp32, int8"),
    ],
)
def test_other_precisions_are_refused_before_any_work(precision: str, message: str, tmp_path: Path) -> None:
    onnx.save(small_network(), str(tmp_path / "model.onnx"))
    arguments = ["--onnx", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "out"), "--precision", precision]
    result = CliRunner().invoke(command, arguments)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_integers_are_explained_layer_by_layer(tmp_path: Path) -> None:
    """How noisy each is, and which operators compute in float32."""
    graph = GraphBuilder()
    x = graph.relu(graph.conv(graph.frame, 8, 3, 2))
    x = graph.conv(graph.node("Tanh", [x], graph.shapes[x]), 8, 3, groups=2)
    model = graph.model(graph.head(x, 5))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(4):
        picture = np.random.default_rng(index).integers(0, 256, (24, 30, 3), np.uint8)
        assert cv2.imwrite(str(pictures / f"{index}.png"), picture)
    options = ("--target", "raspberry-pi-4", "--precision", "int8", "--calibrate", str(pictures))
    printed = compile_explained(model, tmp_path, *options).output
    assert "signal to noise after each layer" in printed
    assert "in float32, without a form in integers: Tanh (" in printed
    table = json.loads(compile_explained(model, tmp_path, *options, "--json").stdout)["explain"]
    assert len(table["signal_to_noise_db"]) >= 4
    assert all(10 < ratio < 100 for ratio in table["signal_to_noise_db"].values())
    assert [name.split()[0] for name in table["without_integers"]] == ["Tanh", "Conv"]
