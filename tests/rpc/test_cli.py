"""``tsm-edge run`` and ``verify`` with ``--rpc``, as real processes, against a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from artifacts import compile_onnx
from conftest import RunProgram
from encoded_clips import clip
from onnx_graphs import small_network

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import TargetCard
from tsm_edge.rpc.place import Place


@pytest.fixture(scope="module")
def square_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model that takes square frames, as videos are cut."""
    return compile_onnx(small_network(height=24, width=24), tmp_path_factory.mktemp("square") / "square", native)


def frame_lines(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["type"] == "frame"]


def test_the_same_predictions_as_here(run_program: RunProgram, ours: Place, square_artifact: Artifact) -> None:
    arguments = ("run", str(square_artifact.path), "--video", str(clip("bikes.mp4")), "--limit", "6")
    there = run_program(*arguments, "--json", "--rpc", str(ours.endpoint), "--key", ours.key)
    here = run_program(*arguments, "--json")
    assert there.returncode == here.returncode == 0, there.stderr
    keep = ("index", "label", "probability")
    found = [[line[name] for name in keep] for line in frame_lines(there.stdout)]
    assert found == [[line[name] for name in keep] for line in frame_lines(here.stdout)]
    assert len(found) == 6
    table = run_program(*arguments, "--rpc", str(ours.endpoint), "--key", ours.key)
    assert "step, with network" in table.stdout


def test_one_line_for_a_device_that_is_not_there(run_program: RunProgram, square_artifact: Artifact) -> None:
    result = run_program("run", str(square_artifact.path), "--video", str(clip("bikes.mp4")), "--rpc", "127.0.0.1:1")
    assert result.returncode == 2
    assert result.stderr == (
        "tsm-edge: error: nothing listens on 127.0.0.1:1; start a server there with: tsm-edge serve --port 1\n"
    )


def test_verify_on_the_device(run_program: RunProgram, ours: Place, square_artifact: Artifact) -> None:
    arguments = ("verify", str(square_artifact.path), "--rpc", str(ours.endpoint), "--key", ours.key)
    result = run_program(*arguments)
    assert result.returncode == 0, result.stderr
    assert f"model.so on {ours.endpoint} against ONNX Runtime, 16 frames with cache feedback" in result.stdout
    assert "all outputs agree" in result.stderr
    assert result.stdout.count(" ok") == 2 + len(square_artifact.manifest.caches)
    both = run_program(*arguments, "--emulate")
    assert (both.returncode, both.stdout) == (2, "")
    assert "--emulate runs on this machine" in both.stderr


def test_power_sensors_of_a_device_are_looked_for_there(ours: Place, stock: Place, run_program: RunProgram) -> None:
    done = run_program("power", "--seconds", "0.5", "--rpc", str(ours.endpoint), "--key", ours.key)
    assert done.returncode == 0, done.stderr
    assert f"not found on {ours.endpoint}" in done.stdout
    assert "is read by a driver of this machine, not of another one" in done.stdout  # nvml
    done = run_program("power", "--rpc", str(stock.endpoint), "--key", stock.key)
    assert done.returncode == 2
    assert "TVM's own server shows no power sensors of its board" in done.stderr.splitlines()[-1]
