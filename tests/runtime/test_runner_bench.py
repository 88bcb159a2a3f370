"""``tsm-runner bench`` as a device would run it: a real process, its JSON, and what can end it."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import run_cc

from tsm_edge.artifact.folder import GOLDEN, LIBRARY, RUNNER, Artifact
from tsm_edge.bench.result import Gpu, Result, from_json
from tsm_edge.bench.statistics import summary
from tsm_edge.cards import load_target
from tsm_edge.runtime import RUNNER_SOURCES, RUNTIME_FOLDER

Bench = Callable[..., "subprocess.CompletedProcess[bytes]"]
MODEL = Path(__file__).with_name("bench_model.c")
QUICK = ("--warmup", "0")


@pytest.fixture(scope="module")
def slow_runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runner around ``bench_model.c``."""
    output = tmp_path_factory.mktemp("bench") / RUNNER
    flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{RUNTIME_FOLDER}", "-pthread"]
    run_cc(load_target("native"), *flags, *RUNNER_SOURCES, MODEL, "-lm", "-o", output)
    return output


@pytest.fixture
def bench(slow_runner: Path, tmp_path: Path) -> Bench:
    """Run it with a step that takes so many microseconds."""

    def run(*arguments: str, step_us: int = 0, **options: Any) -> subprocess.CompletedProcess[bytes]:
        settings = {"capture_output": True, "timeout": 60, "check": False, "cwd": tmp_path, **options}
        return subprocess.run([slow_runner, "bench", *arguments], env={"STEP_US": str(step_us)}, **settings)

    return run


def result_of(text: bytes | str) -> Result:
    """The one result of a document."""
    [result] = from_json(json.loads(text), "tsm-runner").results
    return result


def test_its_json_is_a_document_like_any_other(artifact_with_runner: Artifact) -> None:
    command = [artifact_with_runner.path / RUNNER, "bench", "--frames", "700", "--threads", "2", *QUICK]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    result = result_of(done.stdout)
    manifest = artifact_with_runner.manifest
    assert (result.model.name, result.model.target) == (manifest.model, manifest.target.name)
    assert result.model.flops == sum(kernel.flops for kernel in manifest.kernels) > 0
    assert result.model.frame_shape == manifest.frame_shape
    assert (result.settings.frames, result.settings.duration_s, result.settings.threads) == (700, None, 2)
    assert (result.route, result.partial, result.power) == ("local", None, None)
    assert result.verification is not None
    assert result.verification.passed
    assert result.verification.frames == 4
    assert result.startup.load_ms is not None
    assert result.startup.load_ms > 0


@pytest.mark.parametrize("frames", [1, 2, 63, 64, 661, 662])
def test_its_statistics_are_those_of_python(bench: Bench, frames: int) -> None:
    result = result_of(bench("--frames", str(frames), *QUICK).stdout)
    assert len(result.samples.step_ms) == len(result.samples.start_s) == frames
    expected = summary(result.samples.step_ms)
    assert (expected.p90 is None, expected.p99 is None) == (frames < 64, frames < 662)
    for field in dataclasses.fields(expected):
        found, wanted = getattr(result.latency_ms, field.name), getattr(expected, field.name)
        assert found == (pytest.approx(wanted, rel=1e-9) if isinstance(wanted, float) else wanted), field.name


def test_frames_change_and_caches_are_fed_back(bench: Bench) -> None:
    done = bench("--frames", "30", *QUICK)
    result = result_of(done.stdout)
    # The first, 10 to warm up, 30, and 2 after each look at the machine.
    steps = 41 + 2 * (len(result.yardstick) - 1)
    assert done.stderr.decode() == f"{steps} steps, 16 different frames, fed back: 1\n"
    assert result.settings.different_frames == 16
    assert result.environment_during


def test_samples_are_the_time_of_each_step(bench: Bench) -> None:
    began_s = time.monotonic()
    result = result_of(bench("--frames", "40", *QUICK, step_us=4000).stdout)
    took_s = time.monotonic() - began_s
    starts, steps = np.array(result.samples.start_s), np.array(result.samples.step_ms) / 1e3
    assert (steps >= 4e-3).all()
    assert starts[0] == 0
    assert (np.diff(starts) >= steps[:-1] - 1e-9).all()
    assert starts[-1] + steps[-1] < took_s
    assert result.fps is not None  # what pauses took is not in it
    assert 40 / (starts[-1] + steps[-1]) <= result.fps * (1 + 1e-9) <= (1 + 2e-9) / steps.mean()
    assert result.startup.first_frame_ms is not None
    assert result.startup.first_frame_ms >= 4


def test_the_machines_speed_is_measured_in_pauses(bench: Bench) -> None:
    result = result_of(bench("--duration", "1.2", *QUICK, step_us=5000).stdout)
    at = [pause.at_s for pause in result.yardstick]
    assert len(at) >= 3
    assert at[0] < 0 < at[1]
    ends = np.array(result.samples.start_s) + np.array(result.samples.step_ms) / 1e3
    for pause in at:  # no frame runs meanwhile
        assert not ((np.array(result.samples.start_s) < pause) & (pause < ends - 1e-6)).any()
    assert at[-1] >= ends[-1] - 1e-6
    assert all(pause.arithmetic_ms > 0 and pause.memory_ms > 0 for pause in result.yardstick)


@pytest.mark.real_time
def test_a_duration_and_both_kinds_of_warming_up_are_kept(bench: Bench) -> None:
    done = bench("--duration", "0.3", "--warmup", "0.2", step_us=5000)
    result = result_of(done.stdout)
    assert 10 <= result.latency_ms.count <= 60  # 60 steps of 5 ms, less on a busy machine
    assert result.samples.start_s[-1] < 1.0
    steps = int(done.stderr.split()[0])
    assert steps - 1 - result.latency_ms.count >= 10
    assert result.environment_before is not None
    assert result.environment_before.at_s < -0.2


@pytest.mark.real_time
@pytest.mark.parametrize(("step_us", "missed"), [(100, False), (15000, True)])
def test_a_camera_is_kept_up_with_or_not(bench: Bench, step_us: int, missed: bool) -> None:
    result = result_of(bench("--frames", "20", "--fps", "100", *QUICK, step_us=step_us).stdout)
    deadlines = result.deadlines
    assert deadlines is not None
    assert deadlines.period_ms == 10.0
    # Of three frames that come in 30 ms two are begun, and none of them is done in time.
    assert deadlines.frames >= 28 if missed else 20 <= deadlines.frames < 28
    assert deadlines.missed == deadlines.frames if missed else deadlines.missed < 16
    # Starts are told from the first one, which may itself be late.
    assert deadlines.frames <= (result.samples.start_s[-1] + deadlines.late_start_ms / 1e3) / 0.01 + 1.001
    assert deadlines.late_start_ms >= 0


def test_without_a_camera_there_are_no_deadlines(bench: Bench) -> None:
    assert result_of(bench("--frames", "2", *QUICK).stdout).deadlines is None


def test_the_environment_is_that_of_the_files(bench: Bench, tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    files = {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "proc/cpuinfo": "processor : 0\nmodel name\t: ARMv8 Processor\n",
        "proc/loadavg": "0.52 0.58 0.59 1/389 1234\n",
        "proc/stat": "cpu  100 20 30 4000 5 6 7 80 0 0\ncpu0 1\n",
        "proc/meminfo": "MemTotal:  3884320 kB\nMemAvailable:  3000000 kB\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "61322\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        f"{cpu}/cpu0/cpufreq/scaling_governor": "ondemand\n",
        f"{cpu}/cpu0/cpufreq/scaling_min_freq": "600000\n",
        f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
        f"{cpu}/cpu0/cpufreq/scaling_max_freq": "1500000\n",
        f"{cpu}/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
        "sys/class/devfreq/57000000.gpu/cur_freq": "614400000\n",
        "sys/class/devfreq/57000000.gpu/max_freq": "921600000\n",
        "sys/class/devfreq/57000000.gpu/available_frequencies": "76800000 921600000 614400000\n",
        "sys/class/devfreq/57000000.gpu/governor": "nvhost_podgov\n",
        "sys/class/devfreq/memory-bus/cur_freq": "1600000000\n",
        f"{cpu}/cpu10/online": "0\n",
        f"{cpu}/cpu2/online": "1\n",
        f"{cpu}/cpufreq/policy0/related_cpus": "0 2 10\n",
        f"{cpu}/cpufreq/policy0/stats/time_in_state": "600000 1234\n1500000 99\n",
    }
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    result = result_of(bench("--frames", "3", "--root", "root", *QUICK).stdout)
    for found in (result.environment_before, result.environment_after):
        assert found is not None
        assert (found.board, found.cpu_model) == ("Raspberry Pi 4 Model B Rev 1.4", "ARMv8 Processor")
        assert [(core.number, core.online) for core in found.cores] == [(0, True), (2, True), (10, False)]
        first = found.cores[0]
        assert (first.governor, first.min_mhz, first.current_mhz, first.max_mhz) == ("ondemand", 600, 1500, 1500)
        assert (first.limit_mhz, found.cores[1].governor, found.cores[1].current_mhz) == (1800, None, None)
        assert found.gpus == (Gpu("57000000.gpu", "nvhost_podgov", None, 614.4, 921.6, 921.6),)
        assert [(zone.zone, zone.value_c) for zone in found.temperatures] == [("cpu-thermal", 61.322)]
        assert found.throttled_now == ("under-voltage", "throttled")
        assert found.throttled_since_boot == ("under-voltage", "throttled")
        states = [(state.cores, state.clock_mhz, state.time_s) for state in found.time_in_state]
        assert states == [("0 2 10", 600, 12.34), ("0 2 10", 1500, 0.99)]
        assert (found.load_1min, found.busy_s, found.stolen_s) == (0.52, 1.63, 0.8)
        assert found.memory_total_mb == pytest.approx(3977.54368)
        assert set(found.affinity) == os.sched_getaffinity(0)


NVML = """
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { return *count = COUNT, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { return *device = &nvmlInit_v2, (int)index; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) { return __builtin_strcpy(name, "Test 1"), 0; }
int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz) { return *mhz = 1500, type != 1; }
int nvmlDeviceGetMaxClockInfo(void *device, int type, unsigned *mhz) { return *mhz = 1980, type != 1; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *c) { return *c = 41, sensor; }
"""


@pytest.mark.parametrize("count", [1, 2])
def test_a_gpu_of_its_own_is_asked_of_the_drivers_library(count: int, tmp_path: Path) -> None:
    """Of one of several GPUs it is not known which the driver takes."""
    (tmp_path / "nvml.c").write_text(NVML)
    target, library, runner = load_target("native"), tmp_path / "libnvidia-ml.so.1", tmp_path / RUNNER
    run_cc(target, "-shared", "-fPIC", f"-DCOUNT={count}", tmp_path / "nvml.c", "-o", library)
    sources = [path for path in RUNNER_SOURCES if path.name != "no_nvidia.c"] + [RUNTIME_FOLDER / "nvidia.c"]
    flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{RUNTIME_FOLDER}", "-pthread"]
    run_cc(target, *flags, *sources, MODEL, "-lm", "-ldl", "-o", runner)
    environment = {"STEP_US": "0", "LD_LIBRARY_PATH": str(tmp_path)}
    command = [runner, "bench", "--frames", "3", *QUICK]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, env=environment)
    found = result_of(done.stdout).environment_after
    assert found is not None
    assert (Gpu("Test 1", None, None, 1500, 1980, 1980) in found.gpus) == (count == 1)
    assert (("Test 1", 41) in [(zone.zone, zone.value_c) for zone in found.temperatures]) == (count == 1)


def test_a_machine_that_tells_nothing_and_one_that_tells_nonsense(bench: Bench, tmp_path: Path) -> None:
    empty = result_of(bench("--frames", "2", "--root", "nowhere", *QUICK).stdout).environment_before
    assert empty is not None
    assert (empty.board, empty.cores, empty.temperatures, empty.load_1min) == (None, (), (), None)
    for name in ("proc/loadavg", "proc/stat", "proc/device-tree/model", "proc/meminfo", "proc/cpuinfo"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'\xff\xfe"\\\x01 nan\n' * 900)
    broken = result_of(bench("--frames", "2", "--root", ".", *QUICK).stdout).environment_before
    assert broken is not None
    assert broken.board == '??"\\\x01 nan'
    assert (broken.load_1min, broken.busy_s, broken.memory_total_mb) == (None, None, None)


def test_a_file_is_written_whole(bench: Bench, tmp_path: Path) -> None:
    done = bench("--frames", "3", "--json", "found.json", *QUICK)
    assert (done.returncode, done.stdout) == (0, b"")
    assert result_of((tmp_path / "found.json").read_text()).latency_ms.count == 3
    assert os.listdir(tmp_path) == ["found.json"]


def test_a_full_disk_leaves_nothing_half_written(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "full.json.part").symlink_to("/dev/full")
    (tmp_path / "full.json").write_text("kept")
    done = bench("--frames", "3", "--json", "full.json", *QUICK)
    assert (done.returncode, (tmp_path / "full.json").read_text()) == (2, "kept")
    assert b"tsm-runner: error: full.json: No space left on device\n" in done.stderr
    assert result_of(done.stdout).latency_ms.count == 3
    assert b"nowhere/x.json: No such file" in bench("--frames", "3", "--json", "nowhere/x.json", *QUICK).stderr


def test_a_model_that_cannot_be_opened_is_what_is_said(bench: Bench) -> None:
    """Here for lack of memory; without a GPU's driver, that."""

    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 100 << 20))

    done = bench("--threads", "64", "--frames", "1", *QUICK, preexec_fn=little_memory)
    assert done.returncode == 2
    assert done.stderr.startswith(b"tsm-runner: error: the model: tsm_open: 64 threads cannot be started")


def test_a_wrong_answer_is_marked_and_ends_with_1(artifact_with_runner: Artifact, tmp_path: Path) -> None:
    data = (artifact_with_runner.path / GOLDEN).read_bytes()
    (tmp_path / "wrong.bin").write_bytes(data[:-4] + struct.pack("<f", 4.0))
    command = [artifact_with_runner.path / RUNNER, "bench", "--frames", "3", "--golden", "wrong.bin", *QUICK]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 1
    verification = result_of(done.stdout).verification
    assert verification is not None
    assert not verification.passed
    assert verification.relative_error is not None
    assert verification.tolerance is not None
    assert verification.relative_error > verification.tolerance


def test_golden_frames_of_another_model_are_refused_before_anything_is_timed(
    artifact_with_runner: Artifact, tmp_path: Path
) -> None:
    for name in (RUNNER, LIBRARY):
        shutil.copy(artifact_with_runner.path / name, tmp_path)
    (tmp_path / GOLDEN).write_text("nonsense")
    done = subprocess.run([tmp_path / RUNNER, "bench"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.endswith(b"golden.bin: not the golden frames of this model\n")


def test_without_golden_frames_it_says_so(bench: Bench) -> None:
    result = result_of(bench("--frames", "2", *QUICK).stdout)
    assert result.verification is None
    assert "verification" in [entry.key for entry in result.unavailable]


@pytest.mark.real_time
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_writes_what_there_is_and_marks_it(slow_runner: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [slow_runner, "bench", "--duration", "60", "--json", "found.json", *QUICK]
    program = subprocess.Popen(command, cwd=tmp_path, env={"STEP_US": "2000"}, stderr=subprocess.PIPE)
    time.sleep(0.6)
    program.send_signal(number)
    program.communicate(timeout=10)
    assert program.returncode == 128 + number
    result = result_of((tmp_path / "found.json").read_text())
    assert result.latency_ms.count == len(result.samples.step_ms) > 10
    assert result.partial == f"stopped by signal {int(number)} after {result.latency_ms.count} frames"


def test_stopped_before_the_first_frame_it_writes_nothing(slow_runner: Path, tmp_path: Path) -> None:
    command = [slow_runner, "bench", "--warmup", "60", "--json", "found.json"]
    program = subprocess.Popen(command, cwd=tmp_path, env={"STEP_US": "2000"}, stderr=subprocess.PIPE)
    time.sleep(0.4)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=10)
    assert program.returncode == 130
    assert b"tsm-runner: error: bench: stopped before the first frame was measured\n" in errors
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--frames", "0"],
        ["--frames", "1.5"],
        ["--frames", "ten"],
        ["--frames"],
        ["--duration", "-1"],
        ["--duration", "nan"],
        ["--warmup", "x"],
        ["--threads", "65"],
        ["--fps", "0"],
        ["--power", ""],
        ["--fly", "1"],
    ],
)
def test_wrong_arguments(bench: Bench, arguments: list[str]) -> None:
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"tsm-runner: error: {arguments[0]}: no such option, or " in done.stderr.decode()
