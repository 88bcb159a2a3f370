"""model.so through its C interface alone: ctypes and NumPy, in a process that has neither tsm_edge nor TVM."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_graphs import Floats, Reference, assert_close

from tsm_edge.artifact.folder import LIBRARY, MANIFEST, MODEL_ONNX, Artifact
from tsm_edge.runtime import abi_version

PRELUDE = """
import ctypes, json, os, sys
import numpy as np

library = ctypes.CDLL(sys.argv[1])
library.tsm_manifest.restype = ctypes.c_char_p
library.tsm_last_error.restype = ctypes.c_char_p
library.tsm_open.restype = ctypes.c_void_p
library.tsm_open.argtypes = [ctypes.c_int32]
library.tsm_close.argtypes = [ctypes.c_void_p]
manifest = json.loads(library.tsm_manifest())
classes = manifest["outputs"][0]["shape"][-1]
shapes = [cache["shape"] for cache in manifest["caches"]]

def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)

def pointers(arrays):
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))

def opened(threads):
    stream = library.tsm_open(threads)
    assert stream, library.tsm_last_error()
    return ctypes.c_void_p(stream)

def step(stream, frame):
    logits = np.full(classes, np.nan, np.float32)
    assert library.tsm_step(stream, pointer(frame), pointer(logits)) == 0, library.tsm_last_error()
    return logits.tolist()
"""


def run(script: str, *arguments: str | Path, timeout: float = 120) -> Any:
    """What a process that only knows the C interface prints, as JSON."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", PRELUDE + script]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reference(small_artifact: Artifact) -> Reference:
    return Reference(small_artifact.path / MODEL_ONNX)


@pytest.fixture(scope="module")
def frames(reference: Reference) -> list[Floats]:
    return reference.frames(5)


@pytest.fixture(scope="module")
def frames_file(frames: list[Floats], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npy"
    np.save(path, np.stack(frames))
    return path


def test_a_process_without_tvm(
    small_artifact: Artifact, frames: list[Floats], frames_file: Path, reference: Reference
) -> None:
    script = """
frames = np.load(sys.argv[2])
one, two = opened(1), opened(2)
first = [step(one, frame) for frame in frames]
second = [step(two, frame) for frame in frames]
assert library.tsm_reset(one) == 0
again = [step(one, frame) for frame in frames]

caches, explicit = [np.zeros(shape, np.float32) for shape in shapes], []
for frame in frames:
    logits, following = np.full(classes, np.nan, np.float32), [np.full_like(cache, np.nan) for cache in caches]
    code = library.tsm_step_explicit(two, pointer(frame), pointers(caches), pointer(logits), pointers(following))
    assert code == 0, library.tsm_last_error()
    explicit.append(logits.tolist())
    caches = following
library.tsm_close(one)
library.tsm_close(two)
library.tsm_close(None)
print(json.dumps({
    "abi": library.tsm_abi_version(), "modules": sorted(sys.modules), "manifest": library.tsm_manifest().decode(),
    "logits": [first, second, again, explicit], "caches": [cache.tolist() for cache in caches],
}))
"""
    found = run(script, small_artifact.path / LIBRARY, frames_file)
    assert found["abi"] == abi_version()
    assert not {"tvm", "tvm_ffi", "torch", "tsm_edge"} & set(found["modules"])
    table = json.loads((small_artifact.path / MANIFEST).read_text("utf-8"))
    # The same, but what differs from one compilation to the next.
    assert json.loads(found["manifest"]) == {**table, "files": {}, "created": "", "compile_seconds": 0.0}
    assert table["versions"]["abi"] == str(found["abi"])
    first, second, again, explicit = found["logits"]
    assert first == second == again == explicit
    assert_close(np.array(first, np.float32)[:, None], reference.stream(frames))
    caches = reference.zeros()
    for frame in frames:
        _, caches = reference.step(frame, caches)
    for ours, theirs in zip(found["caches"], caches, strict=True):
        assert_close(ours, theirs)


def test_it_needs_only_the_c_library(small_artifact: Artifact) -> None:
    """Loading it brings nothing else into the process."""
    script = """
import ctypes, json, sys

def mapped():
    lines = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
    return {words[5].strip().rpartition("/")[2] for words in lines if len(words) == 6 and ".so" in words[5]}

before = mapped()
library = ctypes.CDLL(sys.argv[1])
print(json.dumps(sorted(mapped() - before)))
"""
    command = [sys.executable, "-c", script, str(small_artifact.path / LIBRARY)]
    added = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    parts_of_libc = re.compile(r"lib(c|m|pthread|dl|rt)[.-].*|ld-.*")
    assert [name for name in added if not parts_of_libc.fullmatch(name)] == [LIBRARY]


def test_refusals(small_artifact: Artifact) -> None:
    script = """
stream = opened(1)
frame, logits = np.zeros(manifest["frame"]["shape"], np.float32), np.zeros(classes, np.float32)
caches = [np.zeros(shape, np.float32) for shape in shapes]
holed = pointers(caches)
holed[1] = None
refused = []

def note(code):
    refused.append([code if isinstance(code, int) else None, library.tsm_last_error().decode()])

empty = library.tsm_last_error().decode()
note(library.tsm_open(0))
note(library.tsm_open(65))
note(library.tsm_reset(None))
note(library.tsm_step(None, pointer(frame), pointer(logits)))
note(library.tsm_step(stream, None, pointer(logits)))
note(library.tsm_step(stream, pointer(frame), None))
note(library.tsm_step_u8(None, pointer(frame), pointer(logits)))
note(library.tsm_step_u8(stream, None, pointer(logits)))
note(library.tsm_step_explicit(stream, pointer(frame), None, pointer(logits), pointers(caches)))
note(library.tsm_step_explicit(stream, pointer(frame), holed, pointer(logits), pointers(caches)))
note(library.tsm_step_explicit(stream, pointer(frame), pointers(caches), pointer(logits), holed))
print(json.dumps({"empty": empty, "refused": refused}))
"""
    found = run(script, small_artifact.path / LIBRARY)
    assert found["empty"] == ""
    assert found["refused"] == [
        [None, "tsm_open: threads is 0, expected 1 to 64"],
        [None, "tsm_open: threads is 65, expected 1 to 64"],
        [-1, "tsm_reset: the stream is null"],
        [-1, "tsm_step: stream is null"],
        [-1, "tsm_step: frame is null"],
        [-1, "tsm_step: logits is null"],
        [-1, "tsm_step_u8: stream is null"],
        [-1, "tsm_step_u8: frame is null"],
        [-1, "tsm_step_explicit: an argument is null"],
        [-1, "tsm_step_explicit: cache 1 (shift_1) is null"],
        [-1, "tsm_step_explicit: cache 1 (shift_1) is null"],
    ]


@pytest.mark.parametrize("which", ["small_artifact", "other_artifact"])
@pytest.mark.parametrize("edge", ["start", "end"])
def test_nothing_outside_the_callers_arrays_is_touched(which: str, edge: str, request: pytest.FixtureRequest) -> None:
    """Each lies against a page that may be neither read nor written."""
    artifact: Artifact = request.getfixturevalue(which)
    script = """
import mmap
libc, page = ctypes.CDLL(None), mmap.PAGESIZE
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
kept = []

def guarded(shape):
    size = 4 * int(np.prod(shape))
    inner = -(-size // page) * page
    area = mmap.mmap(-1, inner + 2 * page)
    kept.append(area)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for guard in (start, start + page + inner):
        assert libc.mprotect(guard, page, 0) == 0
    offset = page if sys.argv[2] == "start" else page + inner - size
    return np.frombuffer(area, np.float32, size // 4, offset).reshape(shape)

frame, logits = guarded(manifest["frame"]["shape"]), guarded([classes])
caches, following = [guarded(shape) for shape in shapes], [guarded(shape) for shape in shapes]
for threads in (1, 3):
    stream = opened(threads)
    assert library.tsm_step(stream, pointer(frame), pointer(logits)) == 0
    code = library.tsm_step_explicit(stream, pointer(frame), pointers(caches), pointer(logits), pointers(following))
    assert code == 0
print(json.dumps("intact"), flush=True)
os._exit(0)
"""
    assert run(script, artifact.path / LIBRARY, edge) == "intact"


def test_more_threads_than_cores(small_artifact: Artifact, frames_file: Path) -> None:
    """Hundreds of steps in a row, on any number of threads, give the same bits and end."""
    script = """
frames = np.load(sys.argv[2])
before = len(os.listdir("/proc/self/task"))  # NumPy may have threads of its own
streams = [opened(threads) for threads in (1, 2, 3, 4, 8)]
for index in range(200):
    frame = frames[index % len(frames)]
    found = [step(stream, frame) for stream in streams]
    assert all(logits == found[0] for logits in found), index
for stream in streams:
    library.tsm_close(stream)
print(json.dumps(len(os.listdir("/proc/self/task")) - before))
"""
    assert run(script, small_artifact.path / LIBRARY, frames_file) == 0


def test_streams_in_several_threads_at_once(small_artifact: Artifact, frames_file: Path) -> None:
    """Each with workers of its own, all of them fighting for the same cores."""
    script = """
import threading
frames = np.load(sys.argv[2])
alone = opened(1)
expected = [step(alone, frames[index % len(frames)]) for index in range(60)]
found = {}

def work(number):
    stream = opened(number)
    found[number] = [step(stream, frames[index % len(frames)]) for index in range(60)]
    library.tsm_close(stream)

workers = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3, 4)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
print(json.dumps([number for number in (1, 2, 3, 4) if found[number] != expected]))
"""
    assert run(script, small_artifact.path / LIBRARY, frames_file) == []


def test_threads_sleep_and_wake(small_artifact: Artifact, frames_file: Path) -> None:
    """Pauses longer than any spinning: workers use no processor time, and the next step finds them."""
    script = """
import time
frames = np.load(sys.argv[2])
one, many = opened(1), opened(4)
expected = [step(one, frame) for frame in frames]
for frame, logits in zip(frames, expected):
    time.sleep(0.05)
    assert step(many, frame) == logits
time.sleep(0.2)
busy = time.process_time()
time.sleep(0.5)
print(json.dumps(time.process_time() - busy))
"""
    assert run(script, small_artifact.path / LIBRARY, frames_file) < 0.1


def test_opening_and_closing_leaks_nothing(small_artifact: Artifact, frames_file: Path) -> None:
    script = """
import time
frame = np.load(sys.argv[2])[0]
others = len(os.listdir("/proc/self/task"))  # NumPy may have threads of its own

def cycle(times):
    for index in range(times):
        stream = opened(1 + index % 4)
        if index % 3:
            step(stream, frame)
        library.tsm_close(stream)
    kib = int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
    waited = 0  # a thread that has been joined may be listed for another moment
    while len(os.listdir("/proc/self/task")) > others and waited < 100:
        time.sleep(0.01)
        waited += 1
    return len(os.listdir("/proc/self/task")) - others, kib

threads, before = cycle(60)
_, after = cycle(300)
print(json.dumps([threads, after - before]))
"""
    threads, grown_kib = run(script, small_artifact.path / LIBRARY, frames_file)
    assert threads == 0
    # A stream of this model is about 100 KiB: 300 lost ones would be 30 MiB.
    assert grown_kib < 4096


def test_a_process_may_end_with_open_streams(small_artifact: Artifact, frames_file: Path) -> None:
    script = """
streams = [opened(3) for _ in range(3)]
step(streams[0], np.load(sys.argv[2])[0])
print(json.dumps("end"))
"""
    assert run(script, small_artifact.path / LIBRARY, frames_file) == "end"


def test_every_thread_has_its_own_error(small_artifact: Artifact) -> None:
    """Many failing at once: each reads the whole text of its own failure, and a thread without one reads none."""
    script = """
import threading
wrong, empty = [], []

def fail(number):
    before = library.tsm_last_error()
    for _ in range(3000):
        assert not library.tsm_open(number)
        text = library.tsm_last_error().decode()
        if text != f"tsm_open: threads is {number}, expected 1 to 64":
            wrong.append(text)
    empty.append(before.decode())

workers = [threading.Thread(target=fail, args=(number,)) for number in (65, 1000000, 2147483647, -5)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
print(json.dumps([wrong[:3], empty, library.tsm_last_error().decode()]))
"""
    assert run(script, small_artifact.path / LIBRARY) == [[], [""] * 4, ""]


FORK = """
import signal, time

def child(body):
    \"""What ``body`` returns in a child, as JSON, by a pipe.\"""
    read, write = os.pipe()
    if os.fork() == 0:
        signal.alarm(20)  # a child that hangs ends without an answer
        os.write(write, json.dumps(body()).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    return json.loads(os.read(read, 1 << 20) or "null")

def close(stream):
    library.tsm_close(stream)
    return "closed"
"""


def test_the_child_of_a_fork_closes_a_stream_at_once(small_artifact: Artifact, frames_file: Path) -> None:
    """Whatever its workers are doing at that moment; they are in the parent, which goes on with them."""
    script = """
frames = np.load(sys.argv[2])
stream, other = opened(4), opened(1)
before = [step(stream, frame) for frame in frames]
found = [child(lambda: close(stream)), child(lambda: close(other))]
for pause in (0, 0.001, 0.1):
    step(stream, frames[0])
    time.sleep(pause)  # workers spin, then sleep
    found.append(child(lambda: close(stream)))
library.tsm_reset(stream)
print(json.dumps([found, before == [step(stream, frame) for frame in frames]]))
"""
    assert run(FORK + script, small_artifact.path / LIBRARY, frames_file) == [["closed"] * 5, True]


def test_the_child_of_a_fork_goes_on_alone(small_artifact: Artifact, frames_file: Path) -> None:
    """With its copy of the caches, to the same bits."""
    script = """
frames = np.load(sys.argv[2])
stream = opened(3)
step(stream, frames[0])

def rest():
    logits = [step(stream, frame) for frame in frames[1:]]
    return [logits, close(stream), len(os.listdir("/proc/self/task"))]

theirs = child(rest)
print(json.dumps([theirs, [step(stream, frame) for frame in frames[1:]]]))
"""
    (logits, closed, threads), ours = run(FORK + script, small_artifact.path / LIBRARY, frames_file)
    assert logits == ours
    assert (closed, threads) == ("closed", 1)


def test_a_fork_in_the_middle_of_another_threads_frame(small_artifact: Artifact, frames_file: Path) -> None:
    script = """
import threading
frame = np.load(sys.argv[2])[0]
stream, ended = opened(2), threading.Event()

def work():
    while not ended.is_set():
        step(stream, frame)

worker = threading.Thread(target=work)
worker.start()
found = [child(lambda: close(stream)) for _ in range(20)]
ended.set()
worker.join()
print(json.dumps(found))
"""
    assert run(FORK + script, small_artifact.path / LIBRARY, frames_file) == ["closed"] * 20


def test_a_stream_is_for_one_thread_at_a_time(small_artifact: Artifact, frames_file: Path) -> None:
    """A second thread is told so, and the first one's frames are what they are without it."""
    script = """
import threading
frames = np.load(sys.argv[2])
stream, alone, ended = opened(2), opened(1), threading.Event()
codes, texts = set(), set()

def disturb():
    scratch = np.zeros(classes, np.float32)
    caches, following = ([np.zeros(shape, np.float32) for shape in shapes] for _ in range(2))
    while not ended.is_set():
        code = library.tsm_step_explicit(stream, pointer(frames[0]), pointers(caches), pointer(scratch),
                                         pointers(following))
        codes.add(code)
        if code:
            texts.add(library.tsm_last_error().decode())

worker = threading.Thread(target=disturb)
worker.start()
wrong = refused = 0
for index in range(3000):
    frame, logits = frames[index % len(frames)], np.zeros(classes, np.float32)
    code = library.tsm_step(stream, pointer(frame), pointer(logits))
    if code:
        refused += 1
        texts.add(library.tsm_last_error().decode())
        codes.add(code)
    else:
        wrong += logits.tolist() != step(alone, frame)
ended.set()
worker.join()
print(json.dumps([wrong, sorted(codes), sorted(texts)]))
"""
    wrong, codes, texts = run(script, small_artifact.path / LIBRARY, frames_file)
    assert wrong == 0
    assert set(codes) <= {0, -4}
    assert set(texts) <= {f"{name}: another thread is using the stream" for name in ("tsm_step", "tsm_step_explicit")}
    assert -4 in codes, "they never met"


def test_closing_waits_for_the_frame_another_thread_is_in(small_artifact: Artifact, frames_file: Path) -> None:
    script = """
import threading
frame, met = np.load(sys.argv[2])[0], 0

def work(stream, codes):
    logits = np.zeros(classes, np.float32)
    while (code := library.tsm_step(stream, pointer(frame), pointer(logits))) == -4:
        pass
    codes.append(code)

for index in range(200):
    stream, codes = opened(1 + index % 3), []
    worker = threading.Thread(target=work, args=(stream, codes))
    worker.start()
    while not codes and library.tsm_reset(stream) == 0:
        pass
    met += not codes  # it is in the frame, or was a moment ago
    library.tsm_close(stream)
    worker.join()
    assert codes == [0]
print(json.dumps(met))
"""
    assert run(script, small_artifact.path / LIBRARY, frames_file) > 0
