"""ONNX Runtime is used through one module, which keeps it silent and without telemetry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tsm_edge.artifact.onnx_runtime import open_session

CHECKOUT = Path(__file__).resolve().parents[2]


def test_nothing_else_imports_it() -> None:
    folders = [CHECKOUT / name for name in ("tsm_edge", "tests", "benchmarks")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    statement = re.compile(r"^\s*(import onnxruntime|from onnxruntime)\b", re.MULTILINE)
    found = {str(path.relative_to(CHECKOUT)) for path in files if statement.search(path.read_text("utf-8"))}
    # The benchmark's engine takes a class that holds values, after its session was made; one script runs where tsm-edge
    # is not installed; another uses ONNX Runtime's own quantiser, as does a test of what it writes.
    benchmarks = {"engines/ort.py", "gpu_peers.py", "quantised_file.py"}
    others = {"tsm_edge/artifact/onnx_runtime.py", "tests/compile/test_qdq.py"}
    assert found == {*others, *(f"benchmarks/{name}" for name in benchmarks)}


def test_what_goes_wrong_is_raised_and_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        open_session(b"not a model")
    assert capfd.readouterr() == ("", "")
