"""Each family of sensors on a faked tree of files, programs or registers, over a power that is known."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from power_fakes import IDLE_W, KnownPower, StepClock, write_tree
from power_trees import (
    BATTERY,
    BOARDS,
    ODPM,
    ORIN,
    RAPL_RANGE_UJ,
    hwmon_ina226,
    jetson_orin_nano,
    phone,
    phone_in_milliamps,
    pixel,
    rapl,
)

from tsm_edge.errors import PowerError
from tsm_edge.power import registry
from tsm_edge.power.measure import measure
from tsm_edge.power.registry import open_sensor
from tsm_edge.power.sensor import Sensor
from tsm_edge.power.system import LocalSystem, ShellSystem, System


@pytest.fixture(autouse=True)
def _counters_may_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a test do not change by themselves."""
    monkeypatch.setattr(registry, "_check_moves", lambda sensor: sensor.read())


def set_up(root: Path, files: Mapping[str, object]) -> None:
    write_tree(root, files)
    program = root / "usr/bin/vcgencmd"
    if program.exists():
        program.chmod(0o755)


def shell_of(root: Path) -> Callable[[str], str]:
    """A real sh, for which ``root`` is the root of the tree."""

    def run(script: str) -> str:
        moved = script.replace("/sys/", f"{root}/sys/").replace("vcgencmd", f"{root}/usr/bin/vcgencmd")
        done = subprocess.run(["sh", "-c", moved], capture_output=True, text=True, check=False)
        return done.stdout.replace(str(root), "")

    return run


def systems_of(root: Path) -> dict[str, System]:
    return {"files": LocalSystem(root), "shell": ShellSystem(shell_of(root))}


@pytest.mark.parametrize("name", BOARDS)
def test_energy_is_that_of_the_known_power(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    set_up(tmp_path, board.files(IDLE_W, 0.0))
    sensor = open_sensor(board.text, LocalSystem(tmp_path))
    period = sensor.info.period_s
    # The load changes between two samples, as it does in life.
    power = KnownPower(15.5 * period, 95.5 * period)
    clock = StepClock(lambda moment: write_tree(tmp_path, board.files(power.watts(moment), power.joules(moment))))
    measured = measure(sensor, lambda: clock.sleep(80 * period), 15.5 * period, clock)
    assert measured.report is not None, measured.reason
    assert measured.report.gross_j == pytest.approx(power.gross_j, rel=0.01)
    assert measured.report.net_j == pytest.approx(power.net_j, rel=0.01)
    assert measured.report.idle_w == pytest.approx(IDLE_W, rel=0.01)


@pytest.mark.parametrize("way", ["files", "shell"])
@pytest.mark.parametrize("name", BOARDS)
def test_rails_and_boundary_are_the_boards_through_files_or_a_shell(name: str, way: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    set_up(tmp_path, board.files(6.0, 10.0))
    sensor = open_sensor(board.text, systems_of(tmp_path)[way])
    assert {rail.name for rail in sensor.info.rails if rail.in_total} == set(board.counted)
    assert {rail.name for rail in sensor.info.rails if not rail.in_total} == set(board.others)
    assert sensor.info.boundary == board.boundary
    before = sensor.read()
    set_up(tmp_path, board.files(6.0, 16.0))
    after = sensor.read()
    if sensor.info.quantity == "power":
        assert sensor.info.total(after) == pytest.approx(6.0, rel=0.01)
    else:
        assert sensor.info.total(after) - sensor.info.total(before) == pytest.approx(6.0, rel=0.01)


@pytest.mark.parametrize("way", ["files", "shell"])
@pytest.mark.parametrize("name", BOARDS)
def test_a_board_that_vanishes_is_an_error_and_not_0_watts(name: str, way: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    set_up(tmp_path, board.files(6.0, 10.0))
    sensor = open_sensor(board.text, systems_of(tmp_path)[way])
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.unlink()
    with pytest.raises((PowerError, FileNotFoundError)):
        sensor.read()


@pytest.mark.parametrize("garbage", ["", "nan", "N/A", "12 34", "0x"])
@pytest.mark.parametrize("name", ["Jetson Nano", "Jetson Orin Nano", "hwmon", "RAPL", "phone"])
def test_garbage_in_a_file_is_an_error_that_names_it(name: str, garbage: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    set_up(tmp_path, board.files(6.0, 10.0))
    sensor = open_sensor(board.text, LocalSystem(tmp_path))
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name.startswith(("in", "curr", "power", "energy_uj", "voltage_now")):
            path.write_text(f"{garbage}\n")
    with pytest.raises(PowerError, match=r"/sys/\S+ is '.*', expected a number"):
        sensor.read()


def test_a_jetson_without_a_total_adds_up_what_is_not_a_part_of_another_rail(tmp_path: Path) -> None:
    second = ORIN.replace("0040", "0041").replace("hwmon3", "hwmon4")
    files: dict[str, object] = {}
    for folder, index, name in (
        (ORIN, 1, "VDD_GPU_SOC"),
        (ORIN, 2, "VDD_CPU_CV"),
        (ORIN, 3, "VIN_SYS_5V0"),
        (second, 1, "NC"),
        (second, 2, "VDDQ_VDD2_1V8AO"),
        (second, 3, ""),
    ):
        files |= {
            f"{folder}/in{index}_label": name,
            f"{folder}/in{index}_input": 5000,
            f"{folder}/curr{index}_input": 400,
        }
    write_tree(tmp_path, files)
    sensor = open_sensor("ina3221", LocalSystem(tmp_path))
    assert [(rail.name, rail.in_total) for rail in sensor.info.rails] == [
        ("VDD_GPU_SOC", True),
        ("VDD_CPU_CV", True),
        ("VIN_SYS_5V0", True),
        ("VDDQ_VDD2_1V8AO", False),
    ]
    assert sensor.info.total(sensor.read()) == pytest.approx(6.0)
    assert "it measures no total" in sensor.info.covers


def test_a_channel_that_is_switched_off_is_no_rail(tmp_path: Path) -> None:
    write_tree(tmp_path, {**jetson_orin_nano(5.0, 0.0), f"{ORIN}/in2_enable": 0, f"{ORIN}/in3_enable": 1})
    sensor = open_sensor("ina3221", LocalSystem(tmp_path))
    assert [rail.name for rail in sensor.info.rails] == ["VDD_IN", "VDD_SOC"]


def test_hwmon_reads_a_jetsons_chip_and_asks_which_of_several(tmp_path: Path) -> None:
    files = {
        f"/sys/class/hwmon/hwmon3/{path.rpartition('/')[2]}": text for path, text in jetson_orin_nano(5, 0).items()
    }
    write_tree(tmp_path, {**files, **jetson_orin_nano(5.0, 0.0)})
    system = LocalSystem(tmp_path)
    assert open_sensor("hwmon", system).info.name == "ina3221"
    write_tree(tmp_path, hwmon_ina226(7.0, 0.0))
    with pytest.raises(PowerError, match="2 chips measure power: ina226, ina3221; name one: hwmon:ina226"):
        open_sensor("hwmon", system)
    sensor = open_sensor("hwmon:ina226", system)
    assert sensor.info.name == "hwmon:ina226"
    assert sensor.read() == (7.0,)
    with pytest.raises(PowerError, match="unknown chip 'ina22' "):
        open_sensor("hwmon:ina22", system)


def test_hwmon_takes_the_present_power_before_the_mean_and_names_by_label(tmp_path: Path) -> None:
    folder = "/sys/class/hwmon/hwmon2"
    files = {"name": "amdgpu", "power1_average": 9_000_000, "power1_input": 8_000_000, "power1_label": "PPT"}
    write_tree(tmp_path, {f"{folder}/{name}": text for name, text in files.items()})
    sensor = open_sensor("hwmon", LocalSystem(tmp_path))
    assert ([rail.name for rail in sensor.info.rails], sensor.read()) == (["PPT"], (8.0,))


class Denied(LocalSystem):
    """A tree where some files may not be read (the tests may run as root, whom nothing stops)."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self._name = name

    def _read(self, path: str) -> str:
        if path.endswith(self._name):
            raise PermissionError(13, "Permission denied", path)
        return super()._read(path)


@pytest.mark.parametrize(
    ("name", "file", "hint"),
    [
        (
            "RAPL",
            "energy_uj",
            "allow it until the next start: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj",
        ),
        ("Jetson Nano", "rail_name_0", "read it as root: sudo tsm-edge …"),
        ("Jetson Nano", "in_power0_input", "read it as root: sudo tsm-edge …"),
        ("phone", "current_now", "newer Android lets only root read it: use the sensor odpm, or a meter"),
        ("Pixel", "energy_value", "only root may read it: adb root (needs a debug build of Android)"),
    ],
)
def test_a_sensor_that_may_not_be_read_says_so_and_how_to(name: str, file: str, hint: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    set_up(tmp_path, board.files(6.0, 10.0))
    with pytest.raises(PowerError, match=r"may not be read|Permission denied") as caught:
        open_sensor(board.text, Denied(tmp_path, file))
    assert file in caught.value.problem
    assert caught.value.hint == hint


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown", ""])
def test_a_battery_that_is_not_discharging_is_refused_also_later(status: str, tmp_path: Path) -> None:
    write_tree(tmp_path, phone(5.0, 0.0))
    sensor = open_sensor("battery", LocalSystem(tmp_path))
    write_tree(tmp_path, {f"{BATTERY}/status": status})
    expected = f"the battery is {status.lower() or 'in an unknown state'}, so its current is not what the device draws"
    with pytest.raises(PowerError, match=expected):
        sensor.read()
    with pytest.raises(PowerError, match=f"{expected}; unplug the device"):
        open_sensor("battery", LocalSystem(tmp_path))


@pytest.mark.parametrize(
    ("volts", "amps", "reason"),
    [
        (3_900_000, 0, "current_now is 0 while the battery is discharging"),
        (39, 400_000, "voltage_now is 39, expected µV or mV of a battery"),
        (3_900_000, 60_000_000, r"reads 3\.900 V and 60\.0000 A, which no battery in use has"),
        (3_900_000, 5, r"reads 3\.900 V and 0\.0050 A, which no battery in use has"),
    ],
)
def test_a_battery_whose_units_make_no_sense_is_refused(volts: int, amps: int, reason: str, tmp_path: Path) -> None:
    write_tree(tmp_path, {**phone(5.0, 0.0), f"{BATTERY}/voltage_now": volts, f"{BATTERY}/current_now": amps})
    with pytest.raises(PowerError, match=reason):
        open_sensor("battery", LocalSystem(tmp_path))


def test_a_battery_says_which_unit_it_was_read_in(tmp_path: Path) -> None:
    write_tree(tmp_path, phone_in_milliamps(4.0, 0.0))
    assert "read as mA" in open_sensor("battery", LocalSystem(tmp_path)).info.covers
    write_tree(tmp_path, phone(4.0, 0.0))
    assert "read as µA" in open_sensor("battery", LocalSystem(tmp_path)).info.covers


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'error=1 error_msg=\"Command not registered\"'", "shows no currents; only a Raspberry Pi 5 does"),
        (
            'echo "Can\'t open device file: /dev/vcio" >&2; exit 255',
            "failed \\(Can't open device file: /dev/vcio\\); if",
        ),
        (
            "echo '  VDD_CORE_A current(7)=abcA'; echo '  VDD_CORE_V volt(15)=0.8V'",
            "VDD_CORE_A of .* is 'abc', expected",
        ),
    ],
)
@pytest.mark.parametrize("way", ["files", "shell"])
def test_a_pi_that_is_no_pi_5_says_why(script: str, reason: str, way: str, tmp_path: Path) -> None:
    set_up(tmp_path, {"/usr/bin/vcgencmd": f"#!/bin/sh\n{script}"})
    with pytest.raises(PowerError, match=reason):
        open_sensor("pmic", systems_of(tmp_path)[way])


def test_pixel_rails_that_another_program_changed_are_an_error(tmp_path: Path) -> None:
    write_tree(tmp_path, pixel(4.0, 10.0))
    sensor = open_sensor("odpm", LocalSystem(tmp_path))
    path = tmp_path / f"{ODPM}1/energy_value".lstrip("/")
    path.write_text(path.read_text().replace("VSYS_PWR_DISPLAY", "VSYS_PWR_WLAN_BT"))
    with pytest.raises(PowerError, match=r"its rails changed from .*DISPLAY to .*WLAN_BT; another program"):
        sensor.read()


def test_rapl_comes_round_more_than_once(tmp_path: Path) -> None:
    write_tree(tmp_path, rapl(5.0, 0.0))
    sensor: Sensor = open_sensor("rapl", LocalSystem(tmp_path))
    step = RAPL_RANGE_UJ * 1e-6  # twice what 0.5 of it adds to the first package
    before = sensor.info.total(sensor.read())
    for turn in range(1, 6):
        write_tree(tmp_path, rapl(5.0, turn * step))
        total = sensor.info.total(sensor.read())
        assert total - before == pytest.approx(turn * step, rel=1e-6)


@pytest.mark.parametrize("text", ["ina3221", "pmic", "odpm", "battery", "rapl", "hwmon"])
@pytest.mark.parametrize("way", ["files", "shell"])
def test_an_empty_machine_has_none_of_them_and_says_why(text: str, way: str, tmp_path: Path) -> None:
    with pytest.raises(PowerError, match=f"^power sensor {text}: ") as caught:
        open_sensor(text, systems_of(tmp_path)[way])
    assert "\n" not in str(caught.value)
