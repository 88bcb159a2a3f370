"""The power sensors of ``tsm-runner bench``, in C: they read what ``tsm_edge.power`` reads of the same files."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import run_cc
from power_fakes import write_tree
from power_trees import BATTERY, BOARDS, NANO, hwmon_ina226, jetson_nano, phone, rapl

from tsm_edge.artifact.folder import RUNNER, Artifact
from tsm_edge.bench.result import Result, from_json
from tsm_edge.cards import load_target
from tsm_edge.errors import PowerError
from tsm_edge.power import registry
from tsm_edge.power.registry import open_sensor
from tsm_edge.power.sensor import Rail, SensorInfo
from tsm_edge.power.system import LocalSystem
from tsm_edge.power.trace import Sample, Trace, Window
from tsm_edge.runtime import RUNTIME_FOLDER

Probe = Callable[..., Any]
# Those that are files of the kernel, with nothing to be run.
FILES = [name for name, board in BOARDS.items() if board.text in ("ina3221", "hwmon", "rapl", "battery")]
QUICK = ("--warmup", "0", "--idle", "0")


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """Run ``sensor_probe.c``; its answer."""
    program = tmp_path_factory.mktemp("probe") / "probe"
    folder = RUNTIME_FOLDER / "bench"
    parts = [*folder.glob("sensor*.c"), *(folder / f"{name}.c" for name in ("device_files", "json", "power", "clock"))]
    flags = ["-std=c11", "-D_GNU_SOURCE", f"-I{RUNTIME_FOLDER}", "-pthread"]
    run_cc(load_target("native"), *flags, Path(__file__).with_name("sensor_probe.c"), *parts, "-lm", "-o", program)

    def run(*arguments: str | Path | float, stdin: str = "") -> Any:
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True, timeout=30)
        return json.loads(done.stdout)

    return run


@pytest.fixture
def turning(tmp_path: Path) -> Iterator[Callable[[Callable[[float], dict[str, object]]], None]]:
    """Keep files of a machine at ``tmp_path`` up to date, by the time on the machine's clock."""
    stop = threading.Event()
    threads = []

    def turn(files: Callable[[float], dict[str, object]]) -> None:
        def run() -> None:
            while not stop.wait(0.004):
                write_tree(tmp_path, files(time.monotonic()))

        write_tree(tmp_path, files(time.monotonic()))
        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield turn
    stop.set()
    for thread in threads:
        thread.join()


def bench(artifact: Artifact, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [artifact.path / RUNNER, "bench", "--root", str(root), *QUICK, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def result_of(done: subprocess.CompletedProcess[str]) -> Result:
    assert done.returncode == 0, done.stderr
    [result] = from_json(json.loads(done.stdout), "tsm-runner").results
    return result


@pytest.mark.parametrize("name", [name for name in FILES if name != "RAPL"])
def test_a_sensor_is_what_python_says_it_is(name: str, probe: Probe, tmp_path: Path) -> None:
    write_tree(tmp_path, BOARDS[name].files(6.0, 10.0))
    sensor = open_sensor(BOARDS[name].text, LocalSystem(tmp_path))
    check_is_same(probe("sensor", tmp_path, BOARDS[name].text), sensor.info)
    found = probe("sensor", tmp_path, "auto")
    assert found["total"] == pytest.approx(sensor.info.total(sensor.read()), rel=1e-12)
    assert [rail["value"] for rail in found["rails"]] == pytest.approx(list(sensor.read()), rel=1e-12)


def check_is_same(found: Any, info: SensorInfo) -> None:
    assert found["problem"] is None
    for key in ("name", "boundary", "covers", "uncertainty", "quantity", "period_s"):
        assert found[key] == getattr(info, key)
    assert [Rail(rail["name"], rail["in_total"]) for rail in found["rails"]] == list(info.rails)


def test_counters_are_what_python_says_they_are(
    probe: Probe, turning: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_check_moves", lambda sensor: sensor.read())
    # It comes round while it is looked at.
    began = time.monotonic()
    turning(lambda now: rapl(500.0, 500.0 * (now - began)))
    check_is_same(probe("sensor", tmp_path, "rapl"), open_sensor("rapl", LocalSystem(tmp_path)).info)


@pytest.mark.parametrize("name", [name for name in FILES if name != "RAPL"])
@pytest.mark.parametrize("garbage", ["", "nan", "inf", "N/A", "12 34", "0x10"])
def test_garbage_is_refused_and_named(name: str, garbage: str, probe: Probe, tmp_path: Path) -> None:
    write_tree(tmp_path, BOARDS[name].files(6.0, 10.0))
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name.startswith(("in", "curr", "power", "voltage_now")):
            path.write_text(f"{garbage}\n")
    problem = probe("sensor", tmp_path, BOARDS[name].text)["problem"]
    # A chip whose label is none has no rail.
    assert problem is not None
    assert f"is '{garbage}', expected a number" in problem or "no INA3221 chip" in problem


@pytest.mark.parametrize(
    ("files", "text", "words"),
    [
        ({}, "auto", "no power sensor was found here"),
        ({}, "rapl", "the kernel shows no counter"),
        ({}, "hwmon", "no chip in /sys/class/hwmon measures power"),
        ({}, "battery", "no battery in /sys/class/power_supply"),
        ({}, "nvml", "not one of those this program reads: auto, none, ina3221"),
        ({}, "rapl:0", "nothing follows rapl"),
        (rapl(6.0, 10.0), "rapl", "its counter stands still"),
        ({**phone(6.0, 0), f"{BATTERY}/status": "Charging"}, "battery", "the battery's status is 'Charging'"),
        ({**phone(6.0, 0), f"{BATTERY}/voltage_now": 12}, "battery", "expected µV or mV of a battery"),
        ({**phone(6.0, 0), f"{BATTERY}/current_now": 0}, "battery", "the current is 0"),
        (jetson_nano(0.0, 0), "ina3221", "reads 0 W in total"),
        (jetson_nano(-5.0, 0), "ina3221", "reads -5 W, which cannot be"),
        (jetson_nano(3e5, 0), "ina3221", "which cannot be"),
        ({**hwmon_ina226(7.0, 0), "/sys/class/hwmon/hwmon7/name": "x", "/sys/class/hwmon/hwmon7/power1_input": 1},
         "hwmon", "several chips measure power: ina226, x; name one: hwmon:"),
        (hwmon_ina226(7.0, 0), "hwmon:ina2", "no chip 'ina2' measures power, known: ina226"),
    ],
)  # fmt: skip
def test_why_there_is_no_sensor(files: dict[str, object], text: str, words: str, probe: Probe, tmp_path: Path) -> None:
    write_tree(tmp_path, files)
    assert words in probe("sensor", tmp_path, text)["problem"]


def samples_of(seconds: np.ndarray, counts: bool) -> list[float]:
    watts = 5 + np.sin(3 * seconds)
    joules = 5 * seconds - np.cos(3 * seconds) / 3
    return [float(value) for value in (joules if counts else watts)]


@pytest.mark.parametrize("counts", [False, True])
def test_the_energy_of_a_window_is_pythons(probe: Probe, counts: bool) -> None:
    rng = np.random.default_rng(7)
    seconds = np.cumsum(rng.uniform(0.03, 0.07, 200))
    values = samples_of(seconds, counts)
    lines = "\n".join(f"{moment!r} {value!r}" for moment, value in zip(seconds.tolist(), values, strict=True))
    found = probe("energy", int(counts), 0.05, 2.0, 7.5, stdin=lines)
    quantity = "energy" if counts else "power"
    info = SensorInfo("fake", (Rail("one"),), "board", "all", quantity, 0.05, None, "none")
    trace = Trace(info, tuple(Sample(at, (value,)) for at, value in zip(seconds.tolist(), values, strict=True)))
    wanted = trace.joules_in(Window(2.0, 7.5))
    assert found["problem"] is None
    assert found["joules"] == pytest.approx(wanted.total_j, rel=1e-12)
    for key in ("watts", "samples", "changes", "rate_hz", "jitter_ms", "longest_gap_ms"):
        assert found[key] == pytest.approx(getattr(wanted, key), rel=1e-9)
    # And that of the power as it was.
    exact = 5 * 5.5 - (math.cos(3 * 7.5) - math.cos(3 * 2.0)) / 3
    assert found["joules"] == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "window", "words"),
    [
        (np.arange(0, 2, 0.1), (0.0, 0.9), "gave 9 samples in 0.9 s of work"),
        (np.r_[np.arange(0, 2, 0.1), np.arange(4, 6, 0.1)], (0.05, 5.95), "gave no sample for 2.1 s"),
    ],
)
def test_a_window_that_was_not_looked_at_closely_is_refused(
    seconds: np.ndarray, window: tuple[float, float], words: str, probe: Probe
) -> None:
    lines = "\n".join(f"{moment + 0.05:.6f} 5" for moment in seconds)
    assert words in probe("energy", 0, 0.1, *window, stdin=lines)["problem"]
    info = SensorInfo("fake", (Rail("one"),), "board", "all", "power", 0.1, None, "none")
    with pytest.raises(PowerError):
        Trace(info, tuple(Sample(moment + 0.05, (5.0,)) for moment in seconds)).joules_in(Window(*window))


@pytest.mark.real_time
def test_power_is_that_of_the_frames(
    artifact_with_runner: Artifact, turning: Callable[..., None], tmp_path: Path
) -> None:
    """The power rises by 2 W a second: which window a figure is of shows in it."""
    began = time.monotonic()
    turning(lambda now: jetson_nano(4.0 + 2.0 * (now - began), 0.0))
    result = result_of(bench(artifact_with_runner, tmp_path, "--power", "ina3221", "--fps", "50", "--duration", "1.5"))
    power = result.power
    assert power is not None, result.unavailable
    at = np.array([sample.at_s for sample in result.watts])
    slope, start = np.polyfit(at, [sample.power_w for sample in result.watts], 1)
    assert slope == pytest.approx(2.0, rel=0.02)
    assert power.gross_w == pytest.approx(start + slope * power.duration_s / 2, rel=0.01)
    idle_s = 11 * 0.05  # the shortest that is enough
    assert power.idle_before_w == pytest.approx(start + slope * (at[0] + idle_s / 2), rel=0.02)
    assert power.idle_after_w > power.gross_w > power.idle_before_w
    assert power.idle_w == pytest.approx((power.idle_before_w + power.idle_after_w) / 2, rel=1e-9)
    assert power.net_w == pytest.approx(power.gross_w - power.idle_w, rel=1e-6)
    assert power.gross_j == pytest.approx(power.gross_w * power.duration_s, rel=1e-9)
    assert power.net_j_per_frame == pytest.approx(power.net_j / result.latency_ms.count, rel=1e-9)
    assert (power.sensor, power.boundary, power.frames) == ("ina3221", "module", result.latency_ms.count)
    assert [(rail.rail, rail.in_total) for rail in power.rails] == [
        ("POM_5V_IN", True),
        ("POM_5V_GPU", False),
        ("POM_5V_CPU", False),
    ]
    assert power.duration_s == pytest.approx(result.samples.start_s[-1] + result.samples.step_ms[-1] / 1e3, rel=1e-6)


@pytest.mark.real_time
def test_counters_come_round_while_frames_run(
    artifact_with_runner: Artifact, turning: Callable[..., None], tmp_path: Path
) -> None:
    began = time.monotonic()
    turning(lambda now: rapl(0.0, 60.0 * (now - began)))  # its counters come round after 200 to 500 J of it
    result = result_of(bench(artifact_with_runner, tmp_path, "--power", "rapl", "--fps", "50", "--duration", "1"))
    assert result.power is not None, result.unavailable
    assert result.power.gross_w == pytest.approx(60.0, rel=0.05)
    assert result.power.rails[1].rail == "package-0/core"
    assert result.power.rails[1].gross_w == pytest.approx(0.4 * 60.0, rel=0.05)


@pytest.mark.real_time
def test_a_sensor_that_vanishes_costs_the_power_and_not_the_latency(
    artifact_with_runner: Artifact, tmp_path: Path
) -> None:
    write_tree(tmp_path, jetson_nano(5.0, 0.0))
    vanish = threading.Timer(1.0, (tmp_path / NANO.lstrip("/") / "in_power0_input").unlink)
    vanish.start()
    result = result_of(bench(artifact_with_runner, tmp_path, "--power", "ina3221", "--fps", "50", "--duration", "1"))
    vanish.join()
    assert result.power is None
    assert result.latency_ms.count >= 30
    [reason] = [entry.reason for entry in result.unavailable if entry.key == "power"]
    assert "in_power0_input cannot be read (No such file or directory)" in reason


def test_too_short_a_window_is_refused_with_its_reason(artifact_with_runner: Artifact, tmp_path: Path) -> None:
    write_tree(tmp_path, jetson_nano(5.0, 0.0))
    result = result_of(bench(artifact_with_runner, tmp_path, "--power", "auto", "--frames", "5"))
    assert result.power is None
    [reason] = [entry.reason for entry in result.unavailable if entry.key == "power"]
    assert "gave 0 samples in 0.0 s of work, expected at least 10: measure for 0.6 s or longer" in reason


def test_a_sensor_that_is_not_there_ends_it_unless_any_will_do(artifact_with_runner: Artifact, tmp_path: Path) -> None:
    done = bench(artifact_with_runner, tmp_path, "--power", "rapl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tsm-runner: error: --power: power sensor rapl: the kernel shows no counter\n"
    result = result_of(bench(artifact_with_runner, tmp_path, "--power", "auto", "--frames", "2"))
    assert [entry.reason for entry in result.unavailable if entry.key == "power"] == [
        "no power sensor was found here that is a file of the kernel"
    ]
