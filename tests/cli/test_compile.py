"""``tsm-edge compile``: what it says of an ONNX file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx_graphs import GraphBuilder

from tsm_edge.cli.compile import command
from tsm_edge.compile.pipeline import CompileRequest
from tsm_edge.errors import CompileError


def two_caches(names: dict[str, str] | None = None) -> onnx.ModelProto:
    """Two of one shape; their outputs are listed in the opposite order."""
    graph = GraphBuilder(6, 8)
    x = graph.relu(graph.conv(graph.shift(graph.relu(graph.conv(graph.frame, 8)), 2), 8))
    model = graph.model(graph.head(graph.conv(graph.shift(x, 2), 8), 3), names)
    outputs = list(model.graph.output)
    model.graph.ClearField("output")
    model.graph.output.extend(reversed(outputs))
    return model


def compiled(model: onnx.ModelProto, folder: Path, *options: str) -> Result:
    onnx.save(model, str(folder / "model.onnx"))
    arguments = ["--onnx", str(folder / "model.onnx"), "-o", str(folder / "out"), "--no-runner", *options]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_the_pairs_of_caches_are_printed_and_in_the_manifest(tmp_path: Path) -> None:
    names = {"shift_0": "buf9", "shift_0_next": "buf9_out", "shift_1": "buf10", "shift_1_next": "buf10_out"}
    printed = compiled(two_caches(names), tmp_path).stdout.splitlines()
    rows = [" ".join(line.split()) for line in printed if line.startswith("fed back")]
    assert rows == ["fed back buf9_out to buf9, [1, 2, 6, 8]", "fed back buf10_out to buf10, [1, 2, 6, 8]"]
    caches = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["caches"]
    assert [(cache["input"], cache["output"]) for cache in caches] == [("buf9", "buf9_out"), ("buf10", "buf10_out")]


def test_our_own_pairs_are_one_line(tmp_path: Path) -> None:
    rows = [line for line in compiled(two_caches(), tmp_path).stdout.splitlines() if line.startswith("fed back")]
    assert [" ".join(row.split()) for row in rows] == ["fed back shift_0_next to shift_0, and so on"]


def test_an_onnx_file_in_the_place_of_a_model_is_told_the_option(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"compile it with: tsm-edge compile --onnx 'my model\.ONNX'"):
        CliRunner().invoke(command, ["my model.ONNX"], catch_exceptions=False)


def test_an_onnx_file_has_its_frame_size_already(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"--onnx has its frame size already: .*; leave --frame-size out"):
        CliRunner().invoke(command, ["--onnx", "x.onnx", "--frame-size", "256"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("mode", "folder"),
    [((), "motion"), (("--mode", "online"), "motion"), (("--mode", "offline"), "motion-offline")],
)
def test_another_mode_than_the_cards_has_a_folder_of_its_own(
    mode: tuple[str, ...], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def stopped(request: CompileRequest, *_: object) -> None:
        asked.append(request.output)
        raise CompileError("stopped here", "by this test")

    monkeypatch.setattr("tsm_edge.compile.pipeline.compile_model", stopped)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompileError, match="stopped here"):
        CliRunner().invoke(command, ["motion", "--target", "x86-64-v3", *mode], catch_exceptions=False)
    assert asked == [Path("out") / f"{folder}-x86-64-v3"]


def test_what_a_device_gets_is_told(tmp_path: Path) -> None:
    printed = compiled(two_caches(), tmp_path, "--target", "raspberry-pi-4").stdout
    rows = {line.split("  ")[0]: " ".join(line.split()) for line in printed.splitlines()}
    assert re.fullmatch(r"on a device \d+ kB: model\.so, tsm_edge\.h, manifest\.json", rows["on a device"])
    table = json.loads(compiled(two_caches(), tmp_path, "--target", "raspberry-pi-4", "--json").stdout)
    sizes = {name: (tmp_path / "out" / name).stat().st_size for name in ("model.so", "tsm_edge.h", "manifest.json")}
    assert {file["name"]: file["size"] for file in table["deployed"]} == sizes
