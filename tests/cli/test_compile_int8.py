"""``tsm-edge compile --precision int8`` as a user calls it: pictures to calibrate with, decisions to use again."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx_graphs import small_network

from tsm_edge.artifact.folder import EXACT_ONNX, QUANTISATION
from tsm_edge.cli.compile import command
from tsm_edge.errors import TsmEdgeError


def pictures(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    for index in range(count):
        picture = np.random.default_rng([seed, index]).integers(0, 256, (40, 52, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{index:03d}.png"), picture)
    return folder


def compile_int8(folder: Path, target: str, *options: str) -> Result:
    onnx.save(small_network(), str(folder / "model.onnx"))
    arguments = ["--onnx", str(folder / "model.onnx"), "-o", str(folder / target), "--target", target, "--no-runner"]
    return CliRunner().invoke(command, [*arguments, "--precision", "int8", *options])


def test_decisions_of_one_board_serve_another(tmp_path: Path) -> None:
    """Two folders of pictures for the first; its ``quantisation.json`` for the second: the same integers."""
    clips = [pictures(tmp_path / name, count, seed) for name, count, seed in (("a", 20, 1), ("b", 3, 2))]
    options = [word for clip in clips for word in ("--calibrate", str(clip))]
    assert compile_int8(tmp_path, "raspberry-pi-4", *options).exit_code == 0
    made = tmp_path / "raspberry-pi-4"
    again = compile_int8(tmp_path, "raspberry-pi-5", "--quantisation", str(made / QUANTISATION))
    assert again.exit_code == 0, again.output
    found = tmp_path / "raspberry-pi-5"
    assert (found / EXACT_ONNX).read_bytes() == (made / EXACT_ONNX).read_bytes()
    decided = json.loads((made / QUANTISATION).read_text("utf-8"))
    assert decided["calibrated_with"] == "a, b"
    assert decided["tensors"] == json.loads((found / QUANTISATION).read_text("utf-8"))["tensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --calibrate CLIP"),
        (("--calibrate", "nowhere.mp4"), "no such file or folder"),
        (("--quantisation", "nowhere.json"), "nowhere.json"),
    ],
)
def test_what_is_missing_is_said(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """Weights of a foreign file are taken to be trained."""
    result = compile_int8(tmp_path, "raspberry-pi-4", *options)
    assert isinstance(result.exception, TsmEdgeError)
    assert message in str(result.exception)
    assert not (tmp_path / "raspberry-pi-4").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "int8"), "expected --calibrate CLIP"),
        (("--precision", "int8", "--quantisation", "nowhere.json"), "nowhere.json: cannot be read"),
        (("--quantisation", "nowhere.json"), "add --precision int8, or leave --quantisation out"),
    ],
)
def test_what_is_missing_for_a_card_with_weights_is_said_before_it_is_exported(
    options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*arguments: object) -> None:
        raise AssertionError("exported")

    monkeypatch.setattr("tsm_edge.export.onnx.export_onnx", export)
    result = CliRunner().invoke(command, ["motion", "--target", "raspberry-pi-4", "-o", str(tmp_path / "x"), *options])
    assert isinstance(result.exception, TsmEdgeError), result.exception
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []
