"""The live session: the reference's numbers, independent streams, refusals in words, and what it does not import."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
from artifacts import GOLDEN_ONLINE
from onnx_graphs import Floats, Reference, assert_close

from tsm_edge.artifact.folder import MODEL_ONNX, Artifact
from tsm_edge.artifact.golden import network_input
from tsm_edge.errors import ArtifactError
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession


@pytest.fixture(scope="module")
def reference(small_artifact: Artifact) -> Reference:
    return Reference(small_artifact.path / MODEL_ONNX)


@pytest.fixture(scope="module")
def frames(reference: Reference) -> list[Floats]:
    return reference.frames(6)


@pytest.fixture(scope="module")
def expected(small_artifact: Artifact, frames: list[Floats]) -> list[Floats]:
    """The session's own logits, alone and on one thread."""
    with OnlineSession(small_artifact) as session:
        return [session.step(frame) for frame in frames]


def test_equals_onnx_runtime(expected: list[Floats], reference: Reference, frames: list[Floats]) -> None:
    for found, wanted in zip(expected, reference.stream(frames), strict=True):
        assert found.dtype == np.float32
        assert found.shape == wanted.shape
        assert_close(found, wanted)


def test_the_past_matters(expected: list[Floats], small_artifact: Artifact, frames: list[Floats]) -> None:
    """Or the tests of reset, streams and caches would compare nothing."""
    with OnlineSession(small_artifact) as session:
        alone = session.step(frames[-1])
    assert np.abs(alone - expected[-1]).max() > 1e-3


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_a_bit(
    threads: int, small_artifact: Artifact, frames: list[Floats], expected: list[Floats]
) -> None:
    with OnlineSession(small_artifact, threads) as session:
        for frame, logits in zip(frames, expected, strict=True):
            np.testing.assert_array_equal(session.step(frame), logits)


def test_reset(small_artifact: Artifact, frames: list[Floats], expected: list[Floats]) -> None:
    """After an odd and an even number of frames: the two sets of caches take turns."""
    with OnlineSession(small_artifact) as session:
        for count in (1, 2, 3):
            for frame, logits in zip(frames[:count], expected, strict=False):
                np.testing.assert_array_equal(session.step(frame), logits)
            session.reset()


def test_a_picture_of_bytes(small_artifact: Artifact) -> None:
    preprocess, (_, _, height, width) = small_artifact.manifest.preprocess, small_artifact.manifest.frame_shape
    pictures = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    with OnlineSession(small_artifact) as of_bytes, OnlineSession(small_artifact) as of_floats:
        for picture in pictures:
            found, expected = of_bytes.step_bytes(picture), of_floats.step(network_input(picture, preprocess))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(ArtifactError, match=r"picture is uint8 \[20, 24, 3\], expected uint8 \[24, 20, 3\]"):
            of_bytes.step_bytes(pictures[0].transpose(1, 0, 2))
        with pytest.raises(ArtifactError, match="picture is float32"):
            of_bytes.step_bytes(pictures[0].astype(np.float32))  # type: ignore[arg-type]


def test_earlier_results_stay(small_artifact: Artifact, frames: list[Floats], expected: list[Floats]) -> None:
    with OnlineSession(small_artifact) as session:
        kept = [session.step(frame) for frame in frames]
    np.testing.assert_array_equal(kept, expected)


def test_explicit_caches_equal_kept_ones(
    small_artifact: Artifact, reference: Reference, frames: list[Floats], expected: list[Floats]
) -> None:
    ours, theirs = reference.zeros(), reference.zeros()
    with OnlineSession(small_artifact, threads=2) as session:
        for frame, logits in zip(frames, expected, strict=True):
            found, ours = session.step_explicit(frame, ours)
            _, theirs = reference.step(frame, theirs)
            np.testing.assert_array_equal(found, logits)
            for one, other in zip(ours, theirs, strict=True):
                assert_close(one, other)


def test_explicit_steps_leave_the_sessions_own_caches(
    small_artifact: Artifact, reference: Reference, frames: list[Floats], expected: list[Floats]
) -> None:
    noise = [np.full(shape, 7, np.float32) for shape in reference.cache_shapes]
    with OnlineSession(small_artifact) as session:
        for frame, logits in zip(frames, expected, strict=True):
            session.step_explicit(frames[0], noise)
            np.testing.assert_array_equal(session.step(frame), logits)


def test_profiled_steps_are_steps(small_artifact: Artifact, frames: list[Floats], expected: list[Floats]) -> None:
    with OnlineSession(small_artifact, threads=2) as session:
        for frame, logits in zip(frames, expected, strict=True):
            found, times = session.step_profiled(frame)
            np.testing.assert_array_equal(found, logits)
            assert times.dtype == np.uint64
            assert times.shape == (len(small_artifact.manifest.kernels),)
            assert 0 < times.sum() < 60e9


@pytest.mark.parametrize("threads", [1, 2])
def test_staged_steps_are_steps(
    threads: int, small_artifact: Artifact, frames: list[Floats], expected: list[Floats]
) -> None:
    counts = [len(kernel.stages) for kernel in small_artifact.manifest.kernels]
    assert any(counts), "no kernel is fused"
    with OnlineSession(small_artifact, threads) as session:
        for frame, logits in zip(frames, expected, strict=True):
            found, stages = session.step_staged(frame)
            np.testing.assert_array_equal(found, logits)
            assert stages.shape == (sum(counts),)
            assert 0 <= stages.sum() < 60e9  # another thread may have done all of it
            if threads == 1:
                assert stages.all(), "one thread does every stage of every kernel"


def test_the_stages_of_a_kernel_do_all_of_its_arithmetic(small_artifact: Artifact) -> None:
    for kernel in small_artifact.manifest.kernels:
        assert not kernel.stages or sum(stage.flops for stage in kernel.stages) == kernel.flops


def test_frames_need_not_be_contiguous(small_artifact: Artifact, frames: list[Floats], expected: list[Floats]) -> None:
    turned = np.asfortranarray(frames[0])
    assert not turned.flags.c_contiguous
    with OnlineSession(small_artifact) as session:
        np.testing.assert_array_equal(session.step(turned), expected[0])


def test_frames_may_be_read_only(small_artifact: Artifact, frames: list[Floats], expected: list[Floats]) -> None:
    fixed = np.frombuffer(frames[0].tobytes(), np.float32).reshape(frames[0].shape)
    assert not fixed.flags.writeable
    with OnlineSession(small_artifact) as session:
        np.testing.assert_array_equal(session.step(fixed), expected[0])


def test_logits_are_the_callers_to_keep(small_artifact: Artifact, frames: list[Floats], expected: list[Floats]) -> None:
    with OnlineSession(small_artifact) as session:
        found = [session.step(frame) for frame in frames]
        found[0] += 1
        np.testing.assert_array_equal(found[0], expected[0] + 1)
        np.testing.assert_array_equal(found[1:], expected[1:])


def test_two_models_and_four_streams(small_artifact: Artifact, other_artifact: Artifact) -> None:
    """Interleaved, in one process: each stream gives what it gives alone."""
    streams: list[tuple[OnlineSession, list[Floats], list[Floats]]] = []
    for artifact in (small_artifact, other_artifact):
        library = Library(artifact)
        engine = Reference(artifact.path / MODEL_ONNX)
        for seed, threads in ((10, 1), (11, 2)):
            frames = engine.frames(4, seed)
            with OnlineSession(library, threads) as alone:
                expected = [alone.step(frame) for frame in frames]
            streams.append((OnlineSession(library, threads), frames, expected))
            assert_close(expected[-1], engine.stream(frames)[-1])
    for step in range(4):
        for session, frames, expected in streams:
            np.testing.assert_array_equal(session.step(frames[step]), expected[step])
    for session, _, _ in streams:
        session.close()


def test_four_streams_in_four_threads(small_artifact: Artifact, reference: Reference) -> None:
    library = Library(small_artifact)
    clips = [reference.frames(25, seed) for seed in range(4)]
    expected = []
    for clip in clips:
        with OnlineSession(library) as session:
            expected.append([session.step(frame) for frame in clip])
    found: list[list[Floats]] = [[] for _ in clips]

    def run(index: int) -> None:
        with OnlineSession(library, threads=1 + index % 2) as session:
            found[index] = [session.step(frame) for frame in clips[index]]

    workers = [threading.Thread(target=run, args=(index,)) for index in range(len(clips))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(found, expected)


def test_one_library_for_one_artifact_loaded_twice(small_artifact: Artifact, frames: list[Floats]) -> None:
    with OnlineSession(small_artifact) as one, OnlineSession(str(small_artifact.path)) as other:
        one.step(frames[0])
        np.testing.assert_array_equal(other.step(frames[0]), OnlineSession(small_artifact).step(frames[0]))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((1, 3, 20, 24), np.float32), r"frame is float32 \[1, 3, 20, 24\], expected float32 \[1, 3, 24, 20\]"),
        (np.zeros((3, 24, 20), np.float32), r"frame is float32 \[3, 24, 20\], expected float32 \[1, 3, 24, 20\]"),
        (np.zeros((1, 24, 20, 3), np.float32), r"frame is float32 \[1, 24, 20, 3\], expected"),
        (np.zeros((1, 3, 24, 20)), r"frame is float64 \[1, 3, 24, 20\], expected float32"),
        (np.zeros((1, 3, 24, 20), np.uint8), r"frame is uint8 \[1, 3, 24, 20\], expected float32"),
        (np.zeros((1, 3, 24, 20), ">f4"), r"frame is >f4 \[1, 3, 24, 20\], expected float32"),
        ([[[[0.0]]]], "frame is list, expected float32"),
        (None, "frame is NoneType, expected float32"),
    ],
    ids=["turned", "no batch", "NHWC", "double", "bytes", "big-endian", "list", "nothing"],
)
def test_wrong_frames(
    frame: Any, message: str, small_artifact: Artifact, frames: list[Floats], expected: list[Floats]
) -> None:
    """Refused in words, and the stream goes on as if nothing had happened."""
    with OnlineSession(small_artifact) as session:
        np.testing.assert_array_equal(session.step(frames[0]), expected[0])
        for step in (session.step, session.step_profiled, session.step_staged):
            with pytest.raises(ArtifactError, match=message):
                step(frame)
        with pytest.raises(ArtifactError, match=message):
            session.step_explicit(frame, [np.zeros(info.shape, np.float32) for info in session.manifest.caches])
        np.testing.assert_array_equal(session.step(frames[1]), expected[1])


def test_wrong_caches(small_artifact: Artifact, reference: Reference, frames: list[Floats]) -> None:
    with OnlineSession(small_artifact) as session:
        with pytest.raises(ArtifactError, match="got 2 caches, expected 3"):
            session.step_explicit(frames[0], reference.zeros()[:2])
        swapped = reference.zeros()[::-1]
        with pytest.raises(
            ArtifactError, match=r"shift_0 is float32 \[1, 2, 6, 5\], expected float32 \[1, 2, 12, 10\]"
        ):
            session.step_explicit(frames[0], swapped)


def test_a_closed_session(small_artifact: Artifact, frames: list[Floats]) -> None:
    with OnlineSession(small_artifact, threads=2) as session:
        session.step(frames[0])
    session.close()
    calls: list[Callable[[], Any]] = [session.reset, lambda: session.step(frames[0])]
    for call in calls:
        with pytest.raises(ArtifactError, match="the session is closed; open another"):
            call()


@pytest.mark.parametrize("threads", [0, -1, 65, 1 << 20, (1 << 32) + 1, 1 << 80])
def test_impossible_threads(threads: int, small_artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match=f"threads is {threads}, expected 1 to 64"):
        OnlineSession(small_artifact, threads)


@pytest.mark.parametrize("kind", [OnlineSession, Library])
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies(
    kind: type, way: Callable[[Any], Any], small_artifact: Artifact, frames: list[Floats], expected: list[Floats]
) -> None:
    """A copy would free the same stream once more. Refused in words, and the original is none the worse."""
    original = kind(small_artifact)
    with pytest.raises(ArtifactError, match=r"can be neither copied nor pickled; (open another|load it again) with"):
        way(original)
    gc.collect()
    session = original if isinstance(original, OnlineSession) else OnlineSession(original)
    np.testing.assert_array_equal(session.step(frames[0]), expected[0])
    session.close()
    session.close()


def test_closed_while_another_thread_steps(small_artifact: Artifact, frames: list[Floats]) -> None:
    """Its frame ends, and the next one is refused; two threads may close, too."""
    library = Library(small_artifact)
    for index in range(60):
        session, endings = OnlineSession(library, threads=1 + index % 3), []

        def work(session: OnlineSession = session, endings: list[str] = endings) -> None:
            try:
                while True:
                    session.step(frames[0])
            except ArtifactError as error:
                endings.append(str(error))

        workers = [threading.Thread(target=work) for _ in range(2)]
        closers = [threading.Thread(target=session.close) for _ in range(2)]
        for thread in (*workers, *closers):
            thread.start()
        for thread in (*workers, *closers):
            thread.join(timeout=20)
            assert not thread.is_alive(), "hangs"
        assert len(endings) == 2
        assert all("the session is closed" in text for text in endings)


def test_closed_by_a_signal_in_the_middle_of_a_frame(small_artifact: Artifact, frames_file: Path) -> None:
    """Between two bytecodes of a step, wherever the signal comes: no crash, no hang, and then it is closed."""
    script = """
import signal, sys
import numpy as np
from tsm_edge.errors import ArtifactError
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession

frame, library, seen = np.load(sys.argv[2])[0], Library(sys.argv[1]), set()
for index in range(150):
    session = OnlineSession(library, threads=1 + index % 2)
    signal.signal(signal.SIGALRM, lambda *_: session.close())
    signal.setitimer(signal.ITIMER_REAL, 0.0005 + index * 1e-5)
    try:
        while True:
            session.step(frame)
    except ArtifactError as error:
        seen.add(error.problem)
    session.close()
print('"' + "; ".join(sorted(seen)) + '"')
"""
    assert set(run_script(script, small_artifact.path, frames_file).split("; ")) <= {
        "the session is closed",
        "the session is in the middle of a frame",
    }


def test_a_fork_while_another_thread_steps(small_artifact: Artifact, frames_file: Path) -> None:
    """The child closes at once or goes on alone; the parent's session is as before."""
    script = """
import json, os, signal, sys, threading, time
import numpy as np
from tsm_edge.session.local import OnlineSession

frame = np.load(sys.argv[2])[0]
session, ended, answers = OnlineSession(sys.argv[1], threads=3), threading.Event(), []

def work():
    while not ended.is_set():
        session.step(frame)

worker = threading.Thread(target=work)
worker.start()
for index in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        if index % 2:
            session.step(frame)
        session.close()
        os._exit(0)
    answers.append(os.waitpid(child, 0)[1])
ended.set()
worker.join()
session.step(frame)
session.close()
print(json.dumps(answers))
"""
    assert run_script(script, small_artifact.path, frames_file) == [0] * 20


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


def test_closing_ends_the_threads(small_artifact: Artifact, frames: list[Floats]) -> None:
    library = Library(small_artifact)
    with OnlineSession(library, threads=4) as session:
        session.step(frames[0])
        before = thread_count()
    assert thread_count() == before - 3
    session = OnlineSession(library, threads=3)
    opened = thread_count()
    del session
    gc.collect()
    assert thread_count() == opened - 2


# Nothing of the compiler or the network library may be needed where a model only runs.
_LIGHT = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tvm", "tvm_ffi", "torch", "onnx", "onnxruntime", "onnxscript", "ziglang", "cv2"}:
            raise ImportError(f"{name} is not on this device")

sys.meta_path.insert(0, Absent())
import numpy as np
from tsm_edge.session.local import OnlineSession

frames = np.load(sys.argv[2])
with OnlineSession(sys.argv[1], threads=2) as session:
    logits = [session.step(frame).tolist() for frame in frames]
print(json.dumps({"logits": logits, "modules": sorted(sys.modules)}))
"""


def run_script(script: str, *arguments: str | Path, **environment: str) -> Any:
    """What a Python process that knows nothing of this one prints, as JSON."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def frames_file(frames: list[Floats], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npy"
    np.save(path, np.stack(frames))
    return path


def test_neither_compiler_nor_torch_at_run_time(
    small_artifact: Artifact, frames_file: Path, expected: list[Floats]
) -> None:
    import tsm_edge

    parent = str(Path(tsm_edge.__file__).resolve().parents[1])
    found = run_script(_LIGHT, small_artifact.path, frames_file, PYTHONPATH=parent)
    np.testing.assert_array_equal(np.array(found["logits"], np.float32), expected)
    assert not {"tvm", "torch", "onnx", "tsm_edge.compile"} & set(found["modules"])


def test_the_golden_checkpoint(golden_artifact: tuple[Artifact, Path]) -> None:
    """Upstream's own implementation, on upstream's format of weights: logits of 12 frames, and the last caches."""
    artifact, _ = golden_artifact
    case = golden.load(GOLDEN_ONLINE)
    outputs = case.expected()
    caches = [np.zeros(info.shape, np.float32) for info in artifact.manifest.caches]
    with OnlineSession(artifact, threads=2) as session:
        kept = [session.step(frame[None]) for frame in case.frames()]
        explicit = []
        for frame in case.frames():
            logits, caches = session.step_explicit(frame[None], caches)
            explicit.append(logits)
    np.testing.assert_array_equal(kept, explicit)
    assert len(kept) == 12
    assert_close(np.concatenate(kept), outputs["logits"].reshape(12, -1), tolerance=1e-4)
    for index, cache in enumerate(caches):
        assert_close(cache, outputs[f"cache_{index}"].reshape(cache.shape), tolerance=1e-4)
