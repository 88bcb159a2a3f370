"""``tsm-edge export`` as a real process."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tsm_edge.export.metadata import read_metadata

CARD = """
description = "a small network"
source = "this test"
[network]
backbone = "resnet-18"
classes = 3
frame_size = 32
[preprocess]
short_side = 32
crop = 32
"""


@pytest.fixture
def card(tmp_path: Path) -> str:
    (tmp_path / "tiny.toml").write_text(CARD)
    return "./tiny.toml"


def test_export(run_program, card: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = run_program("export", card, "-o", "new/model.onnx", "--seed", "3")
    assert result.returncode == 0
    assert "shift_7_next" in result.stdout
    # Two lines and none of the exporter's own.
    assert result.stderr.splitlines() == [
        "weights: random, seed 3",
        "warning: random weights: predictions mean nothing",
    ]
    onnx.checker.check_model(str(tmp_path / "new/model.onnx"), full_check=True)


def test_json_and_mode(run_program, card: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = run_program("export", card, "-o", "model.onnx", "--mode", "none", "--json")
    assert result.returncode == 0
    printed = json.loads(result.stdout)
    assert printed["inputs"] == {"frame": [1, 3, 32, 32]}
    assert printed["card"]["network"]["temporal_mode"] == "none"
    metadata = read_metadata(tmp_path / "model.onnx")
    assert metadata is not None
    assert metadata.card.network.temporal_mode == "none"


def test_another_frame_size(run_program, card: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = run_program("export", card, "-o", "model.onnx", "--mode", "none", "--frame-size", "40x64", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["inputs"] == {"frame": [1, 3, 40, 64]}
    metadata = read_metadata(tmp_path / "model.onnx")
    assert metadata is not None
    assert (metadata.card.network.frame_size, metadata.card.preprocess.crop) == ((40, 64), (40, 64))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("-o", "m.onnx", "--frame-size", "big"), "'big': expected pixels, as 256, or height and width, as 128x224"),
        (("-o", "m.onnx", "--frame-size", "16"), "frame_size is 16 px, expected 32 to 2048 px"),
        (("-o", "m.onnx", "--checkpoint", "nothing.pth"), "nothing.pth: cannot be read"),
        (("-o", ".",), "is a folder"),
        (("-o", "m.onnx", "--seed", "1" + "0" * 23), "Invalid value for '--seed'"),
        ((), "Missing option '-o'"),
        (("-o", "m.onnx", "--from-rgb", "--checkpoint", "x.pth"), "--from-rgb makes an RGB network's checkpoint"),
        (("-o", "m.onnx", "--mode", "onlin"), "'onlin'"),
        (("-o", "m.onnx", "--frames", "8"), "an online network takes one frame a step: --frames is for clips; add"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(run_program, card: str, arguments: tuple[str, ...], problem: str) -> None:  # type: ignore[no-untyped-def]
    result = run_program("export", card, *arguments)
    assert result.returncode == 2
    assert problem in result.stderr
    assert len(result.stderr.splitlines()) == 1
