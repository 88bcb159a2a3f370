"""Temperature, clock and power of machines that are trees of their kernel's files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from power_trees import jetson_nano

from tsm_edge.page.readings import Reader, Readings
from tsm_edge.power.system import LocalSystem

POLICY = "/sys/devices/system/cpu/cpufreq/policy0"
BOARD = {
    "/sys/devices/system/cpu/present": "0-3",
    "/sys/devices/system/cpu/online": "0-3",
    f"{POLICY}/affected_cpus": "0 1 2 3",
    f"{POLICY}/scaling_governor": "ondemand",
    f"{POLICY}/scaling_cur_freq": "1400000",
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "/sys/class/thermal/thermal_zone0/temp": "51540",
    "/sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "/sys/class/thermal/thermal_zone1/temp": "48000",
}


def write(root: Path, files: dict[str, object]) -> LocalSystem:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return LocalSystem(root)


def test_a_board_with_a_power_sensor(tmp_path: Path) -> None:
    shown = Reader(write(tmp_path, {**BOARD, **jetson_nano(4.5, 0.0)})).read().shown()
    assert (shown["hottest"], shown["hottest_c"]) == ("cpu-thermal", 51.54)
    assert shown["cpu_mhz"] == 1400.0
    assert shown["power_w"] == pytest.approx(4.5, rel=0.01)
    assert shown["power_covers"]


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert Reader(write(tmp_path, {})).read() == Readings()


@pytest.mark.real_time
def test_a_sensor_that_goes_away(tmp_path: Path) -> None:
    reader = Reader(write(tmp_path, {**BOARD, **jetson_nano(4.5, 0.0)}))
    for path in tmp_path.rglob("in_*"):
        path.unlink()
    began_s = time.monotonic()
    assert reader.read().power_w is None
    assert time.monotonic() - began_s < 2
