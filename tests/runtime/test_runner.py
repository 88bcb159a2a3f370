"""``tsm-runner`` as a device would run it: a real process, on this machine."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from artifacts import compile_onnx, run_cc
from onnx_graphs import Floats, small_network

from tsm_edge.artifact.folder import GOLDEN, RUNNER, Artifact
from tsm_edge.artifact.golden import network_input
from tsm_edge.artifact.manifest import RANDOM_WEIGHTS, parse_manifest
from tsm_edge.cards import ModelCard, NetworkSpec, Preprocess, TargetCard
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.package.runner import c_string
from tsm_edge.compile.package.zig import zig_command
from tsm_edge.export.metadata import OnnxMetadata, WeightSource, write_metadata
from tsm_edge.runtime import RUNNER_SOURCES, RUNTIME_FOLDER
from tsm_edge.session.local import OnlineSession
from tsm_edge.video.preprocess import Preprocessor

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
Pixels = npt.NDArray[np.uint8]


LABELS = ('say "cheese"', "tab\there", "what??/", "Grüße 👋", "back\\slash", "plain")


@pytest.fixture(scope="module")
def artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small square model with random weights, a card and its runner."""
    network = NetworkSpec("mobilenet-v2", len(LABELS), frame_size=32)
    card = ModelCard("small", "a model", "a test", network, Preprocess(short_side=36, crop=32), labels=LABELS)
    model = small_network(height=32, width=32, classes=len(LABELS))
    write_metadata(model, OnnxMetadata(card, WeightSource(), "0"))
    return compile_onnx(model, tmp_path_factory.mktemp("runner") / "model", native, runner=True)


@pytest.fixture
def runner(artifact: Artifact, tmp_path: Path) -> Run:
    """Run ``tsm-runner`` from another folder, with an empty environment."""

    def run(*arguments: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [str(artifact.path / RUNNER), *arguments]
        settings = {"capture_output": True, "timeout": 60, "check": False, "cwd": tmp_path, "env": {}, **options}
        return subprocess.run(command, input=stdin, **settings)

    return run


def test_info_is_the_manifest(artifact: Artifact, runner: Run) -> None:
    done = runner("info")
    assert done.returncode == 0
    assert parse_manifest(done.stdout.decode(), "info").hashes == artifact.manifest.hashes


def test_the_manifest_has_the_hashes_of_what_goes_to_a_device(artifact: Artifact, small_artifact: Artifact) -> None:
    assert set(artifact.manifest.files) == {"model.so", "labels.txt", "tsm_edge.h", RUNNER, GOLDEN}
    # Compiled without a runner, and without labels.
    assert set(small_artifact.manifest.files) == {"model.so", "tsm_edge.h"}
    assert not (small_artifact.path / RUNNER).exists()


@pytest.mark.parametrize("threads", ["1", "3"])
def test_verify_passes_on_the_golden_frames_beside_it(artifact: Artifact, runner: Run, threads: str) -> None:
    done = runner("verify", "--threads", threads)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert (report["passed"], report["frames"], report["threads"]) == (True, 4, int(threads))
    caches = [cache.output for cache in artifact.manifest.caches]
    assert [check["name"] for check in report["checks"]] == ["logits", "logits (explicit caches)", *caches]
    assert report["tolerance"] == FP32.tolerance
    assert all(check["magnitude"] > 0 and check["error"] < FP32.tolerance for check in report["checks"])


@pytest.mark.parametrize(("share", "passes"), [(0.5, True), (2.0, False)])
def test_verify_has_the_tolerance_of_the_precision(
    share: float, passes: bool, artifact: Artifact, runner: Run, tmp_path: Path
) -> None:
    magnitude = json.loads(runner("verify").stdout)["checks"][-1]["magnitude"]
    data = (artifact.path / GOLDEN).read_bytes()
    (value,) = struct.unpack("<f", data[-4:])  # the last of the last cache
    off = value - math.copysign(share * FP32.tolerance * magnitude, value)
    (tmp_path / "off.bin").write_bytes(data[:-4] + struct.pack("<f", off))
    done = runner("verify", "--golden", "off.bin")
    assert (json.loads(done.stdout)["passed"], done.returncode) == (passes, 0 if passes else 1)


@pytest.mark.parametrize("value", [b"\x00\x00\x80\x40", b"\x00\x00\xc0\x7f"], ids=["4.0", "NaN"])
def test_verify_fails_where_a_device_computes_something_else(
    artifact: Artifact, runner: Run, tmp_path: Path, value: bytes
) -> None:
    data = bytearray((artifact.path / GOLDEN).read_bytes())
    data[-4:] = value  # the last value of the last cache
    (tmp_path / "other.bin").write_bytes(data)
    done = runner("verify", "--golden", "other.bin")
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert not report["passed"]
    assert [check["passed"] for check in report["checks"]] == [True, True, True, True, False]


def test_verify_refuses_the_golden_frames_of_another_model(artifact: Artifact, runner: Run, tmp_path: Path) -> None:
    data = (artifact.path / GOLDEN).read_bytes()
    broken = {
        "text": b"not golden",
        "empty": b"",
        "short": data[:-1],
        "long": data + b"\0",
        "classes": data[:24] + struct.pack("<I", 9) + data[28:],
        "frames": data[:8] + struct.pack("<I", 2**31) + data[12:],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        done = runner("verify", "--golden", name)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.decode() == f"tsm-runner: error: {name}: not the golden frames of this model\n"
    assert b"No such file" in runner("verify", "--golden", "missing").stderr


def picture(height: int, width: int, seed: int) -> Pixels:
    """A smooth picture, so that resizing in another way than OpenCV's fixed point shows only in the last bit."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.ascontiguousarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 64), (75, 50), (20, 33), (37, 37)])
def test_stream_predicts_as_the_python_session_does(artifact: Artifact, runner: Run, height: int, width: int) -> None:
    frames = [picture(height, width, seed) for seed in range(3)]
    done = runner("stream", "--size", f"{width}x{height}", stdin=b"".join(frame.tobytes() for frame in frames))
    assert done.returncode == 0
    preprocess = Preprocessor(artifact.manifest.preprocess)
    check_predictions(artifact, done.stdout, [preprocess(frame).copy() for frame in frames])


def test_stream_takes_frames_that_are_cut_already(artifact: Artifact, runner: Run) -> None:
    frames = [picture(32, 32, seed) for seed in range(3)]
    done = runner("stream", stdin=b"".join(frame.tobytes() for frame in frames))
    inputs = [network_input(frame, artifact.manifest.preprocess) for frame in frames]
    check_predictions(artifact, done.stdout, inputs)


def run_stream(artifact: Artifact, frames: list[Pixels], *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [artifact.path / RUNNER, "stream", *options]
    return subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), capture_output=True, check=True)


@pytest.mark.parametrize(("height", "width"), [(18, 26), (48, 64), (30, 90), (50, 20), (26, 18)])
def test_stream_takes_frames_for_a_model_whose_input_is_not_square(
    other_artifact: Artifact, height: int, width: int
) -> None:
    assert other_artifact.manifest.frame_shape == (1, 3, 18, 26)
    frames = [picture(height, width, seed) for seed in range(3)]
    done = run_stream(other_artifact, frames, "--size", f"{width}x{height}")
    preprocess = Preprocessor(other_artifact.manifest.preprocess)
    check_predictions(other_artifact, done.stdout, [preprocess(frame).copy() for frame in frames])
    cut = [picture(18, 26, seed) for seed in range(3)]
    inputs = [network_input(frame, other_artifact.manifest.preprocess) for frame in cut]
    check_predictions(other_artifact, run_stream(other_artifact, cut).stdout, inputs)


def check_predictions(artifact: Artifact, output: bytes, inputs: list[Floats]) -> None:
    """The runner's lines are what the session computes for the same inputs."""
    with OnlineSession(artifact) as session:
        for index, (frame, text) in enumerate(zip(inputs, output.splitlines(), strict=True)):
            line, logits = json.loads(text), session.step(frame)[0].astype(np.float64)
            chances = logits if artifact.manifest.activation else np.exp(logits - logits.max())
            assert (line["frame"], line["index"]) == (index, int(logits.argmax()))
            assert line["probability"] == pytest.approx(chances.max() / chances.sum(), abs=0.01)
            assert line["step_ms"] > 0
            assert line["preprocess_ms"] >= 0


def test_labels_are_json_and_random_weights_are_told(runner: Run) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    done = runner("stream", stdin=frames.tobytes())
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert len(lines) == 20
    assert all(line["label"] == LABELS[line["index"]] for line in lines)
    assert done.stderr == f"tsm-runner: warning: {RANDOM_WEIGHTS}\n".encode()


@pytest.mark.parametrize("label", LABELS)
def test_every_label_survives_as_c(label: str) -> None:
    assert eval("b" + c_string(label)).decode() == label


def test_a_torn_frame_is_told(runner: Run) -> None:
    done = runner("stream", stdin=bytes(32 * 32 * 3 + 10))
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.endswith(b"tsm-runner: warning: the last 10 bytes are not a whole frame of 3072\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: tsm-runner info"),
        (["fly"], "usage: tsm-runner info"),
        (["stream", "--golden", "x"], "tsm-runner: error: --golden: no such option, or a wrong value"),
        (["verify", "--threads", "65"], "tsm-runner: error: --threads: no such option, or a wrong value"),
        (["verify", "--golden"], "tsm-runner: error: --golden: no such option, or no value"),
        (["info", "--threads", "1"], "tsm-runner: error: --threads: no such option, or a wrong value"),
        (["stream", "--size", "64"], "tsm-runner: error: --size: no such option, or a wrong value"),
        (["stream", "--size", "0x9"], "tsm-runner: error: --size: no such option, or a wrong value"),
        (["stream"], "tsm-runner: error: standard input: no frame, expected raw RGB24"),
    ],
)
def test_wrong_arguments(runner: Run, arguments: list[str], message: str) -> None:
    done = runner(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()


def test_a_full_disk_is_not_a_success(runner: Run) -> None:
    with open("/dev/full", "wb") as full:
        for command in (["info"], ["bench", "--frames", "3", "--warmup", "0"]):
            done = runner(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert done.returncode == 2
            assert done.stderr == b"tsm-runner: error: standard output: No space left on device\n"


def test_it_opens_the_library_that_it_was_made_for(
    artifact: Artifact, small_artifact: Artifact, native: TargetCard, runner: Run, tmp_path: Path
) -> None:
    assert (artifact.path / RUNNER).stat().st_size < artifact.library.stat().st_size / 2
    shutil.copy(artifact.path / RUNNER, tmp_path)
    there = tmp_path / "model.so"

    def refused() -> str:
        done = subprocess.run([tmp_path / RUNNER, "info"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        return line

    assert refused().startswith("tsm-runner: error: model.so, expected beside tsm-runner: ")
    there.write_bytes(b"no library")
    assert refused().startswith("tsm-runner: error: model.so, expected beside tsm-runner: ")
    shutil.copy(small_artifact.library, there)
    made_for = "not the model.so that this tsm-runner was made for: copy both from one artifact"
    assert refused() == f"tsm-runner: error: {there}: {made_for}"
    (tmp_path / "other.c").write_text("int answer(void) { return 42; }\n")
    run_cc(native, "-shared", "-fPIC", tmp_path / "other.c", "-o", there)
    assert "undefined symbol: tsm_" in refused()
    shutil.copy(artifact.library, there)
    done = subprocess.run([tmp_path / RUNNER, "info"], capture_output=True, check=True)
    assert done.stdout == runner("info").stdout


# A model of one kernel that answers NaN.
MODEL_OF_NAN = """
#include <math.h>
#include "card.h"
#include "model.h"
static void answer(void *const *buffers, int32_t begin, int32_t end, int32_t resumed, tsm_clock *clock) {
  for (int i = 0; i < 3; ++i) ((float *)buffers[0])[i] = NAN;
}
static const tsm_call calls[] = {{answer, 1, 1, 0, 0, 1, {{TSM_WORKSPACE, 0}}}};
static const char *const labels[] = {"one", "two", "three"};
const tsm_model tsm_the_model = {
    .manifest = "{}", .frame_shape = {1, 3, 2, 2}, .classes = 3, .clips = 1, .workspace_bytes = 64,
    .n_calls = 1, .calls = calls};
const tsm_model *const tsm_programs[] = {&tsm_the_model};
const int32_t tsm_n_programs = 1;
const tsm_card tsm_the_card = {
    .classes = 3, .frames = 1, .clips = 1, .short_side = 2, .crop_height = 2, .crop_width = 2,
    .n_labels = 3, .labels = labels};
"""


def test_a_prediction_of_nan_is_still_json(tmp_path: Path) -> None:
    (tmp_path / "model.c").write_text(MODEL_OF_NAN)
    cc = [*zig_command(), "cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", f"-I{RUNTIME_FOLDER}", "-pthread"]
    sources = [*map(str, RUNNER_SOURCES), str(tmp_path / "model.c")]
    subprocess.run([*cc, *sources, "-lm", "-o", str(tmp_path / "runner")], check=True)
    done = subprocess.run([tmp_path / "runner", "stream"], input=bytes(2 * 12), capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["probability"] for line in lines] == [None, None]
