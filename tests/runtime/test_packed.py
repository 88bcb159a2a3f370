"""model.so as stock TVM sees it: the packed function ``step``, and the Relax VM as its oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_graphs import Floats, Reference, assert_close

from tsm_edge.artifact.folder import LIBRARY, MODEL_ONNX, Artifact
from tsm_edge.session.local import OnlineSession

# Everything with one loaded module, because importing TVM takes longer than all of it.
_STOCK = """
import ctypes, json, os, signal, sys
import numpy as np
import tvm
import tvm_ffi

frames, shapes = np.load(sys.argv[2]), json.loads(sys.argv[3])
module = tvm.runtime.load_module(sys.argv[1])
step, stream_step, stream_reset = module["step"], module["stream_step"], module["stream_reset"]
device = tvm.cpu()
threads = len(os.listdir("/proc/self/task"))
zeros = lambda shape, dtype="float32": tvm.runtime.tensor(np.zeros(shape, dtype), device)

caches, logits, outputs = [zeros(shape) for shape in shapes[2:]], zeros(shapes[1]), []
for frame in frames:
    following = [zeros(shape) for shape in shapes[2:]]
    step(tvm.runtime.tensor(frame, device), *caches, logits, *following)
    outputs.append(logits.numpy().tolist())
    caches = following
threads = len(os.listdir("/proc/self/task")) - threads

streamed = []
for again in range(2):
    for frame in frames:
        stream_step(tvm.runtime.tensor(frame, device), logits)
        streamed.append(logits.numpy().tolist())
    stream_reset()

def refused(*arguments, function=step):
    try:
        function(*arguments)
    except Exception as error:
        return [type(error).__name__, str(error)]

frame, caches = zeros(shapes[0]), [zeros(shape) for shape in shapes[2:]]
good = [frame, *caches, zeros(shapes[1]), *caches]
gaps = tvm_ffi.from_dlpack(np.zeros([*shapes[0][:3], 2 * shapes[0][3]], "float32")[..., ::2])
errors = {
    "count": refused(frame),
    "shape": refused(zeros(shapes[0][::-1]), *good[1:]),
    "rank": refused(zeros(shapes[0][1:]), *good[1:]),
    "dtype": refused(zeros(shapes[0], "float64"), *good[1:]),
    "integer": refused(zeros(shapes[0], "int32"), *good[1:]),
    "gaps": refused(gaps, *good[1:]),
    "number": refused(1.5, *good[1:]),
    "cache": refused(frame, zeros([1, 9]), *good[2:]),
    "next cache": refused(*good[:-1], zeros([1, 9])),
    "logits": refused(*good[: len(caches) + 1], zeros([1, 99]), *good[len(caches) + 2 :]),
    "stream count": refused(frame, function=stream_step),
    "stream logits": refused(frame, zeros([1, 99]), function=stream_step),
    "reset count": refused(frame, function=stream_reset),
}
step(*good)
# A child of a fork steps on its own and ends; the library's threads are in its parent.
child = os.fork()
if child == 0:
    signal.alarm(20)
    step(*good)
    ctypes.CDLL(None).exit(0)  # as a program ends: with the destructors of its libraries
forked = os.waitpid(child, 0)[1]
timed = tvm.runtime.load_module(sys.argv[1]).time_evaluator("step", device, number=2)(*good).mean
print(json.dumps({
    "logits": outputs, "errors": errors, "seconds": timed, "threads": threads, "modules": sorted(sys.modules),
    "forked": forked, "streamed": streamed,
}))
"""


@pytest.fixture(scope="module")
def reference(small_artifact: Artifact) -> Reference:
    return Reference(small_artifact.path / MODEL_ONNX)


@pytest.fixture(scope="module")
def frames(reference: Reference) -> list[Floats]:
    return reference.frames(5)


@pytest.fixture(scope="module")
def stock(small_artifact: Artifact, frames: list[Floats], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with TVM, but without tsm_edge, computes and is told."""
    manifest, folder = small_artifact.manifest, tmp_path_factory.mktemp("stock")
    np.save(folder / "frames.npy", np.stack(frames))
    # TVM's own conversions try torch first; without it the process starts in half the time.
    (folder / "torch.py").write_text("raise ImportError('not here')\n")
    shapes = [manifest.frame.shape, manifest.logits.shape, *(cache.shape for cache in manifest.caches)]
    arguments = [str(small_artifact.path / LIBRARY), str(folder / "frames.npy"), json.dumps(shapes)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "TSM_EDGE_THREADS": "2"}
    command = [sys.executable, "-c", _STOCK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_stock_tvm_runs_it(stock: dict[str, Any], small_artifact: Artifact, frames: list[Floats]) -> None:
    assert "tsm_edge" not in stock["modules"]
    with OnlineSession(small_artifact) as session:
        expected = [session.step(frame) for frame in frames]
    np.testing.assert_array_equal(np.array(stock["logits"], np.float32), expected)


def test_its_own_stream_needs_no_caches(stock: dict[str, Any]) -> None:
    assert stock["streamed"] == 2 * stock["logits"]


def test_threads_as_the_environment_says(stock: dict[str, Any]) -> None:
    """TSM_EDGE_THREADS is 2 there: one more than the caller's own, kept for the next step."""
    assert stock["threads"] == 1


def test_the_child_of_a_fork_steps_and_ends(stock: dict[str, Any]) -> None:
    assert stock["forked"] == 0


def test_stock_time_evaluator(stock: dict[str, Any]) -> None:
    assert 0 < stock["seconds"] < 10


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        ("count", "TypeError", "step: 1 arguments, expected 8 (frame, 3 caches, logits, 3 next caches)"),
        ("shape", "ValueError", "argument 0 (frame) is float32 [20, 24, 3, 1], expected float32 [1, 3, 24, 20]"),
        ("rank", "ValueError", "argument 0 (frame) is float32 [3, 24, 20], expected float32 [1, 3, 24, 20]"),
        ("dtype", "ValueError", "argument 0 (frame) is not float32 [1, 3, 24, 20], expected float32 [1, 3, 24, 20]"),
        ("integer", "ValueError", "argument 0 (frame) is not float32 [1, 3, 24, 20], expected float32"),
        ("gaps", "ValueError", "argument 0 (frame) is float32 [1, 3, 24, 20] with gaps, expected float32"),
        ("number", "TypeError", "argument 0 (frame) is not a tensor, expected float32 [1, 3, 24, 20]"),
        ("cache", "ValueError", "argument 1 (shift_0) is float32 [1, 9], expected float32 [1, 2, 12, 10]"),
        ("next cache", "ValueError", "argument 7 (shift_2_next) is float32 [1, 9], expected float32 [1, 2, 6, 5]"),
        ("logits", "ValueError", "argument 4 (logits) is float32 [1, 99], expected float32 [1, 7]"),
        ("stream count", "TypeError", "stream_step: expected 2 arguments: frame, logits"),
        ("stream logits", "ValueError", "stream_step: argument 1 (logits) is float32 [1, 99], expected float32 [1, 7]"),
        ("reset count", "TypeError", "stream_reset: expected no arguments"),
    ],
)
def test_refused_in_words(mistake: str, kind: str, message: str, stock: dict[str, Any]) -> None:
    found_kind, found = stock["errors"][mistake]
    assert found_kind == kind
    assert message in found


def test_the_relax_vm_is_of_the_same_opinion(
    small_artifact: Artifact, reference: Reference, frames: list[Floats]
) -> None:
    """TVM's own compiler and virtual machine, unscheduled, on the same ONNX file, caches fed back."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(onnx.load(str(small_artifact.path / MODEL_ONNX)), keep_params_in_input=False)
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    caches, ours = reference.zeros(), reference.zeros()
    with OnlineSession(small_artifact, threads=2) as session:
        for frame in frames:
            logits, *caches = (
                value.numpy() for value in machine["main"](*(tvm.runtime.tensor(value) for value in (frame, *caches)))
            )
            assert_close(session.step(frame), logits)
            _, ours = session.step_explicit(frame, ours)
            for one, other in zip(ours, caches, strict=True):
                assert_close(one, other)


@pytest.mark.parametrize("threads", ["nonsense", "1000"])
def test_impossible_numbers_of_threads(threads: str, small_artifact: Artifact, tmp_path: Path) -> None:
    """What is no number means one; what is too many means the most."""
    (tmp_path / "torch.py").write_text("raise ImportError('not here')\n")
    script = """
import json, os, sys
import numpy as np, tvm
before = len(os.listdir("/proc/self/task"))
shapes = json.loads(sys.argv[2])
step = tvm.runtime.load_module(sys.argv[1])["step"]
step(*(tvm.runtime.tensor(np.zeros(shape, "float32")) for shape in (shapes[0], *shapes[2:], shapes[1], *shapes[2:])))
print(len(os.listdir("/proc/self/task")) - before)
"""
    manifest = small_artifact.manifest
    shapes = [manifest.frame.shape, manifest.logits.shape, *(cache.shape for cache in manifest.caches)]
    command = [sys.executable, "-c", script, str(small_artifact.path / LIBRARY), json.dumps(shapes)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TSM_EDGE_THREADS": threads}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == {"nonsense": 0, "1000": 63}[threads]
