"""The device layer for GPUs, on the stand-in driver: frames, caches, graphs, streams, and every failure in a line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_gpu
from tiny_gpu import expected

import tsm_edge
from tsm_edge.compile.package.zig import run_zig
from tsm_edge.verify.standin.build import StandIn, build_standin
from tsm_edge.verify.standin.translate import Image

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]
_PRELUDE = """
import json, os, sys
import numpy as np
from tsm_edge.errors import ArtifactError
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession

def frames(count):
    return np.random.default_rng(1).standard_normal((count, 1, 3, 7, 7)).astype(np.float32)

def lists(arrays):
    return [array.tolist() for array in arrays]

def failure(act):
    try:
        act()
    except ArtifactError as error:
        return [error.problem, error.hint]
"""


@dataclass(frozen=True)
class Machine:
    """A machine with a driver, and models on it."""

    driver: Path
    old_driver: Path
    model: Path
    other: Path  # whose frames of bytes are made on the CPU

    def run(self, script: str, *arguments: str, old: bool = False, **variables: str) -> Any:
        """What a process prints there, as JSON, and on stderr."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(tsm_edge.__file__).parents[1]),
            "LD_LIBRARY_PATH": str((self.old_driver if old else self.driver).parent),
            **variables,
        }
        command = [sys.executable, "-c", _PRELUDE + script, str(self.model), str(self.other), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr


@pytest.fixture
def machine(tiny_gpu_models: Path) -> Machine:
    names = ("new/libcuda.so.1", "old/libcuda.so.1", "model", "other")
    return Machine(*(tiny_gpu_models / name for name in names))


_STEPS = """
with OnlineSession(sys.argv[1]) as session:
    kept, explicit, caches = [], [], [np.zeros((1, 1, 7, 7), np.float32)]
    for index, frame in enumerate(frames(5)):
        if index == 3:
            session.reset()
            caches = [np.zeros((1, 1, 7, 7), np.float32)]
        kept.append(session.step(frame))
        logits, caches = session.step_explicit(frame, caches)
        explicit.append(logits)
    print(json.dumps([lists(kept), lists(explicit), caches[0].tolist()]))
"""


@pytest.mark.parametrize(
    ("old", "variables"),
    [
        (False, {}),
        (False, {"TSM_EDGE_NO_GRAPH": "1"}),
        (False, {"TSM_EDGE_SYNC": "1", "TSM_EDGE_SPIN": "1"}),
        (True, {}),
        (False, {"STANDIN_FAIL": "cuStreamBeginCapture_v2=900"}),
        (False, {"STANDIN_FAIL": "cuStreamEndCapture=901"}),
        (False, {"STANDIN_FAIL": "cuGraphInstantiate=801@2"}),
    ],
)
def test_frames_and_caches(old: bool, variables: dict[str, str], machine: Machine) -> None:
    """With graphs, without, and where the driver has none or fails at them."""
    (kept, explicit, cache), said = machine.run(_STEPS, old=old, **variables)
    assert said == ""
    np.testing.assert_allclose(kept, expected(5, 3), rtol=1e-5, atol=1e-4)
    assert kept == explicit
    frame = np.random.default_rng(1).standard_normal((5, *tiny_gpu.FRAME)).astype(np.float32)[4]
    np.testing.assert_allclose(cache, tiny_gpu.tiny().step(frame, np.zeros(tiny_gpu.CACHE))[1], rtol=1e-6)


_WAITING = """
def polled():
    # Whether a frame is asked for: the driver fails at that.
    os.environ["STANDIN_FAIL"] = "cuStreamQuery=700"
    failed = failure(lambda: session.step(frames(1)[0]))
    del os.environ["STANDIN_FAIL"]
    return failed

with OnlineSession(sys.argv[1]) as session:
    for _ in range(200):
        session.step(frames(1)[0])
        found = polled()
        if found:
            break
    print(json.dumps(found))
"""


def test_a_short_frame_is_polled_and_what_goes_wrong_meanwhile_is_said(machine: Machine) -> None:
    """Here a frame may be long, where the machine has much to do: one of many is short."""
    found, _ = machine.run(_WAITING)
    assert found[0] == f"{machine.model}: cuStreamQuery (a frame) failed: CUDA_ERROR_ILLEGAL_ADDRESS (700)"
    assert "run it again with TSM_EDGE_SYNC=1" in found[1]


@pytest.mark.parametrize("variables", [{"STANDIN_STREAM_MS": "2"}, {"TSM_EDGE_SPIN": "0"}, {"TSM_EDGE_SPIN": "1"}])
def test_a_long_frame_is_slept_through_as_is_every_one_that_is_asked_to_be(
    variables: dict[str, str], machine: Machine
) -> None:
    found, _ = machine.run(_WAITING.replace("200", "20"), **variables)
    assert found is None


def test_a_frame_that_becomes_long_is_slept_through_after_a_while(machine: Machine) -> None:
    script = """
with OnlineSession(sys.argv[1]) as session:
    for frame in frames(3):
        session.step(frame)
    os.environ["STANDIN_STREAM_MS"] = "20"
    last = session.step(frames(4)[3]).tolist()
    os.environ["STANDIN_FAIL"] = "cuStreamSynchronize=719"
    print(json.dumps([last, failure(lambda: session.step(frames(1)[0]))]))
"""
    (last, failed), _ = machine.run(script)
    np.testing.assert_allclose(last, expected(4)[3], rtol=1e-5, atol=1e-4)
    assert "cuStreamSynchronize (a frame) failed: CUDA_ERROR_LAUNCH_FAILED (719)" in failed[0]


def test_frames_as_bytes_on_the_device_and_on_the_cpu(machine: Machine) -> None:
    script = """
pictures = np.random.default_rng(2).integers(0, 256, (4, 7, 7, 3), dtype=np.uint8)
with OnlineSession(sys.argv[1]) as one, OnlineSession(sys.argv[2]) as other:
    print(json.dumps([lists(map(session.step_bytes, pictures)) for session in (one, other)]))
"""
    found, _ = machine.run(script)
    pictures = np.random.default_rng(2).integers(0, 256, (4, 7, 7, 3), dtype=np.uint8)
    for logits, seed in zip(found, (0, 5), strict=True):
        cache = np.zeros(tiny_gpu.CACHE)
        for picture, one in zip(pictures, logits, strict=True):
            wanted, cache = tiny_gpu.tiny(seed).step(picture.transpose(2, 0, 1)[None] / 128 - 1, cache)
            np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-4)


def test_two_models_and_three_streams_know_nothing_of_each_other(machine: Machine) -> None:
    script = """
library = Library(sys.argv[1])
sessions = [OnlineSession(library), OnlineSession(library), OnlineSession(sys.argv[2])]
found = [[] for _ in sessions]
for frame in frames(4):
    for session, into in zip(sessions, found):
        into.append(session.step(frame).tolist())
sessions[0].close()
found[1].append(sessions[1].step(frames(5)[4]).tolist())
for session in sessions:
    session.close()
with OnlineSession(library) as again:
    found.append([again.step(frames(1)[0]).tolist()])
print(json.dumps(found))
"""
    (first, second, other, again), _ = machine.run(script)
    np.testing.assert_allclose(first, expected(4), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(second, expected(5), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(other, expected(4, seed=5), rtol=1e-5, atol=1e-4)
    assert again == first[:1]


def test_profiled_and_measured_steps_are_steps(machine: Machine) -> None:
    script = """
with OnlineSession(sys.argv[1]) as session:
    first, times = session.step_profiled(frames(1)[0])
    second = session.step(frames(2)[1])
    session.reset()
    measured = session.measure(frames(2)[:, 0], 0, 2, kernels=True)
    print(json.dumps([first.tolist(), second.tolist(), times.tolist(), measured.logits.tolist(),
                      measured.kernels_ns.tolist()]))
"""
    (first, second, times, measured, kernels), _ = machine.run(script)
    np.testing.assert_allclose([first, second], expected(2), rtol=1e-5, atol=1e-4)
    assert np.array(kernels).shape == (2, 2)
    assert len(times) == 2
    assert all(time > 0 for time in times)
    assert measured == second


def test_a_fork_before_the_first_use_and_after_it(machine: Machine) -> None:
    script = """
library = Library(sys.argv[1])

def in_a_child(act):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            os.write(write, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(write)
    return json.loads(os.read(read, 1 << 16))

def step():
    with OnlineSession(library) as session:
        return session.step(frames(1)[0]).tolist()

before = in_a_child(step)
with OnlineSession(library) as session:
    first = session.step(frames(1)[0]).tolist()
    opened = in_a_child(lambda: failure(step))
    used = in_a_child(lambda: failure(lambda: session.step(frames(1)[0])))
    closed = in_a_child(lambda: failure(session.close))
    second = session.step(frames(2)[1]).tolist()
print(json.dumps([before, [first, second], opened, used, closed]))
"""
    (before, logits, opened, used, closed), _ = machine.run(script)
    np.testing.assert_allclose(logits, expected(2), rtol=1e-5, atol=1e-4)
    assert before == logits[0]
    assert "this process was forked from one that had used the GPU, which no driver allows" in opened[0]
    assert opened[1] == used[1] == "open the first stream after the fork"
    assert "tsm_step: the stream was opened before a fork" in used[0]
    assert closed is None


_OPEN_AND_STEP = """
session = None

def act():
    global session
    session = OnlineSession(sys.argv[1])
    session.step(frames(1)[0])

print(json.dumps(failure(act)))
"""


@pytest.mark.parametrize(
    ("variables", "problem", "hint"),
    [
        ({"STANDIN_FAIL": "cuInit=100"}, "cuInit failed: CUDA_ERROR_NO_DEVICE (100)", "nvidia-smi"),
        (
            {"STANDIN_PTX": "6.3"},
            "cuModuleLoadDataEx (the model's PTX) failed: CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222): ptxas fatal   : "
            "Unsupported .version 6.4, current version is '6.3'",
            "the driver is too old for this model: update it (on a Jetson: JetPack), or compile for an older card",
        ),
        (
            {"STANDIN_FAIL": "cuMemAlloc_v2=2"},
            "cuMemAlloc (0.0 MB of weights) failed: CUDA_ERROR_OUT_OF_MEMORY (2), 256 of 4096 MB are free",
            "end other programs that use the GPU",
        ),
        (
            {"STANDIN_FAIL": "cuMemHostAlloc=2"},
            "cuMemHostAlloc (the frame) failed: CUDA_ERROR_OUT_OF_MEMORY (2)",
            "or open fewer streams",
        ),
        (
            {"STANDIN_FAIL": "cuModuleGetFunction=500"},
            "cuModuleGetFunction (frame_bytes) failed: CUDA_ERROR_NOT_FOUND (500)",
            "the artifact is damaged: compile and deploy it again",
        ),
        (
            {"STANDIN_FAIL": "cuLaunchKernel=701", "TSM_EDGE_NO_GRAPH": "1"},
            "cuLaunchKernel (scale) failed: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (701)",
            "compile for this GPU, see: tsm-edge targets",
        ),
        (
            {"STANDIN_FAIL": "cuStreamSynchronize=700@3"},
            "cuStreamSynchronize (a frame) failed: CUDA_ERROR_ILLEGAL_ADDRESS (700)",
            "this process can use the GPU no more: run it again with TSM_EDGE_SYNC=1, which names the kernel",
        ),
        (
            {"STANDIN_FAIL": "cuStreamSynchronize=719@4", "TSM_EDGE_SYNC": "1"},
            "cuStreamSynchronize (head) failed: CUDA_ERROR_LAUNCH_FAILED (719)",
            "this process can use the GPU no more",
        ),
        (
            {"STANDIN_FAIL": "cuGraphLaunch=702"},
            "cuGraphLaunch failed: CUDA_ERROR_LAUNCH_TIMEOUT (702)",
            "raise its clock with: sudo jetson_clocks",
        ),
        (
            {"STANDIN_FAIL": "cuInit=100", "CUDA_VISIBLE_DEVICES": "7"},
            "cuInit failed: CUDA_ERROR_NO_DEVICE (100)",
            "CUDA_VISIBLE_DEVICES is set, and hides those that it does not name",
        ),
        ({"STANDIN_FAIL": "cuInit=34"}, "cuInit failed: ", "leave its folder stubs out of LD_LIBRARY_PATH"),
        ({"STANDIN_FAIL": "cuInit=802"}, "cuInit failed: ", "systemctl start nvidia-fabricmanager"),
        ({"STANDIN_FAIL": "cuInit=804"}, "cuInit failed: ", "leave /usr/local/cuda/compat out of LD_LIBRARY_PATH"),
        (
            {"STANDIN_FAIL": "cuStreamSynchronize=716@3"},
            "cuStreamSynchronize (a frame) failed: ",
            "this process can use the GPU no more: run it again with TSM_EDGE_SYNC=1",
        ),
        ({"LD_LIBRARY_PATH": ""}, "the NVIDIA driver cannot be loaded (libcuda.so.1:", "with the NVIDIA runtime"),
    ],
)
def test_a_failure_is_one_line_that_says_what_to_do(
    variables: dict[str, str], problem: str, hint: str, machine: Machine
) -> None:
    if "LD_LIBRARY_PATH" in variables and _has_a_driver():
        pytest.skip("this machine has a driver of NVIDIA's")
    (found, advice), _ = machine.run(_OPEN_AND_STEP, **variables)
    assert found.startswith(f"{machine.model}: {problem}")
    assert hint in advice
    assert "\n" not in found + advice


def _has_a_driver() -> bool:
    """Asked of another process: in this one the stand-in may be loaded under that name."""
    command = [sys.executable, "-c", "import ctypes; ctypes.CDLL('libcuda.so.1')"]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


_NO_ACCESS = """
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int access(const char *path, int mode) {
  if (strcmp(path, "/dev/nvhost-gpu") != 0) return (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
  errno = EACCES;
  return -1;
}
"""


@pytest.mark.parametrize("code", [100, 999, 304])
def test_a_user_who_may_not_use_the_gpu(code: int, machine: Machine, tmp_path: Path) -> None:
    """On a Jetson: the driver says one thing or another, its device file belongs to the group video."""
    shim = shared_library(tmp_path / "shim.so", _NO_ACCESS)
    found, _ = machine.run(_OPEN_AND_STEP, STANDIN_FAIL=f"cuInit={code}", LD_PRELOAD=str(shim))
    assert found[0].startswith(f"{machine.model}: cuInit failed: ")
    assert found[0].endswith(f"({code})")
    assert found[1] == (
        "this user may not use the GPU: join its group with: sudo usermod -aG video $USER, then log in again"
    )


def test_a_driver_from_before_cuda_10(machine: Machine, tmp_path: Path) -> None:
    shared_library(tmp_path / "libcuda.so.1", "int cuInit(unsigned flags) { return (int)flags; }")
    found, _ = machine.run(_OPEN_AND_STEP, LD_LIBRARY_PATH=str(tmp_path))
    assert found == [
        f"{machine.model}: libcuda.so.1 has no cuDriverGetVersion, expected a driver of CUDA 10 or later",
        "update the driver (on a Jetson: JetPack 4.2 or later)",
    ]


def shared_library(path: Path, source: str) -> Path:
    code = path.with_suffix(".c")
    code.write_text(source)
    run_zig(["cc", "-shared", "-fPIC", "-O1", str(code), "-o", str(path)], "building a library", path)
    return path


def test_a_gpu_that_is_too_old(machine: Machine, tmp_path: Path) -> None:
    build_standin(tmp_path, [Image(tiny_gpu.PTX)], StandIn(capability=50))
    found, _ = machine.run(_OPEN_AND_STEP, LD_LIBRARY_PATH=str(tmp_path))
    assert found == [
        f"{machine.model}: Stand-in for sm_50 is sm_50, the model is compiled for sm_53 or newer",
        "compile for this GPU, see: tsm-edge targets",
    ]


def test_after_a_failure_the_next_frame_reads_the_same_caches(machine: Machine) -> None:
    script = """
os.environ["TSM_EDGE_NO_GRAPH"] = "1"
with OnlineSession(sys.argv[1]) as session:
    first = session.step(frames(2)[0])
    os.environ["STANDIN_FAIL"] = "cuLaunchKernel=701@2"
    failed = failure(lambda: session.step(frames(2)[1]))
    del os.environ["STANDIN_FAIL"]
    print(json.dumps([first.tolist(), failed[0], session.step(frames(2)[1]).tolist()]))
"""
    (first, failed, second), _ = machine.run(script)
    assert "cuLaunchKernel (head) failed" in failed
    np.testing.assert_allclose([first, second], expected(2), rtol=1e-5, atol=1e-4)


def test_machine_code_is_taken_where_it_is_asked_for_and_fits(machine: Machine) -> None:
    """The stand-in takes PTX of version 6.3 at most here: only the machine code can run."""
    found, said = machine.run(_OPEN_AND_STEP, TSM_EDGE_CUBIN="1", STANDIN_PTX="6.3")
    assert (found, said) == (None, "")


def test_ptx_is_taken_where_the_driver_refuses_the_machine_code(machine: Machine, tmp_path: Path) -> None:
    build_standin(tmp_path, [Image(tiny_gpu.PTX)])
    found, said = machine.run(_OPEN_AND_STEP, TSM_EDGE_CUBIN="1", LD_LIBRARY_PATH=str(tmp_path))
    assert found is None
    assert said == (
        "tsm-edge: cuModuleLoadDataEx (TSM_EDGE_CUBIN) failed: CUDA_ERROR_NO_BINARY_FOR_GPU (209): "
        "taking the PTX instead\n"
    )


def test_the_drivers_cache_goes_where_it_can_be_written(machine: Machine, tmp_path: Path) -> None:
    script = """
import ctypes
OnlineSession(sys.argv[1]).close()
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(json.dumps((getenv(b"CUDA_CACHE_PATH") or b"").decode()))
"""
    assert machine.run(script, HOME=str(tmp_path))[0] == ""
    assert machine.run(script, CUDA_CACHE_PATH=str(tmp_path / "own"))[0] == str(tmp_path / "own")
    found = machine.run(script, HOME="/proc/nowhere")[0]
    assert found == machine.run(script, HOME="/proc/nowhere", CUDA_CACHE_PATH="")[0]
    assert found == f"/var/tmp/tsm-edge-cuda-{os.geteuid()}"
    assert Path(found).stat().st_mode & 0o77 == 0


def test_long_work_of_the_drivers_compiler_is_announced(machine: Machine, tmp_path: Path) -> None:
    _, said = machine.run(_OPEN_AND_STEP, STANDIN_SLOW_MS="1300", HOME=str(tmp_path))
    lines = said.splitlines()
    assert lines[0] == (
        "tsm-edge: the GPU's driver compiles 3 kernels, once; on a Jetson Nano that takes half a minute"
    )
    assert lines[1].startswith("tsm-edge: compiled in 1.")
    assert lines[1].endswith(" s, kept in ~/.nv/ComputeCache")
    assert machine.run(_OPEN_AND_STEP, STANDIN_SLOW_MS="1300", TSM_EDGE_QUIET="1")[1] == ""


def test_what_the_driver_compiled_is_not_said_to_be_kept_where_it_keeps_nothing(machine: Machine) -> None:
    _, said = machine.run(_OPEN_AND_STEP, STANDIN_SLOW_MS="1300", CUDA_CACHE_DISABLE="1")
    first, last = said.splitlines()
    assert "compiles 3 kernels, at every start: CUDA_CACHE_DISABLE is set; " in first
    assert re.fullmatch(r"tsm-edge: compiled in \d+\.\d s, not kept", last)


_SLOW_SETENV = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static atomic_int setting;

int setenv(const char *name, const char *value, int overwrite) {
  int (*real)(const char *, const char *, int) = (int (*)(const char *, const char *, int))dlsym(RTLD_NEXT, "setenv");
  if (strcmp(name, "CUDA_CACHE_PATH") != 0) return real(name, value, overwrite);
  atomic_store(&setting, 1);
  usleep(300000);
  int code = real(name, value, overwrite);
  atomic_store(&setting, 0);
  return code;
}

char *getenv(const char *name) {
  char *(*real)(const char *) = (char *(*)(const char *))dlsym(RTLD_NEXT, "getenv");
  if (atomic_load(&setting) && strcmp(name, "CUDA_CACHE_PATH") == 0) fputs("read while it is set\\n", stderr);
  return real(name);
}
"""


def test_streams_that_threads_open_at_once_place_the_cache_once(machine: Machine, tmp_path: Path) -> None:
    shim = shared_library(tmp_path / "shim.so", _SLOW_SETENV)
    script = """
from concurrent.futures import ThreadPoolExecutor
library = Library(sys.argv[1])

def step(_):
    with OnlineSession(library) as session:
        return session.step(frames(1)[0]).tolist()

with ThreadPoolExecutor(3) as pool:
    print(json.dumps(list(pool.map(step, range(3)))))
"""
    logits, said = machine.run(script, HOME="/proc/nowhere", CUDA_CACHE_PATH="", LD_PRELOAD=str(shim))
    assert said == ""
    assert logits[0] == logits[1] == logits[2]


def test_profile_by_the_gpus_own_clock(machine: Machine, run_program: RunProgram) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(machine.driver.parent)}
    environment["PYTHONPATH"] = str(Path(tsm_edge.__file__).parents[1])
    done = run_program("profile", str(machine.model), "--frames", "2", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)["kernels"]
    assert [kernel["kernel"] for kernel in kernels] == ["scale", "head"]
    assert all(kernel["microseconds"] > 0 for kernel in kernels)
    assert not any(kernel["stages"] for kernel in kernels)
