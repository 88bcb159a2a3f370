"""Each family of sensors on a faked tree of files, programs or registers, over a power that is known."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from power_fakes import IDLE_W, KnownPower, StepClock, write_tree

from tsm_edge.errors import PowerError
from tsm_edge.power import registry
from tsm_edge.power.measure import measure
from tsm_edge.power.registry import open_sensor
from tsm_edge.power.sensor import Sensor
from tsm_edge.power.system import LocalSystem, ShellSystem, System

NANO = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
TX2 = "/sys/bus/i2c/drivers/ina3221x/0-004"
ORIN = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
RAPL = "/sys/class/powercap/intel-rapl:"
BATTERY = "/sys/class/power_supply/battery"
ODPM = "/sys/bus/iio/devices/iio:device"
RAPL_RANGE_UJ = 262143328850
VCGENCMD = '#!/bin/sh\ncat "$(dirname "$0")/adc.txt"\n'


def jetson_nano(watts: float, joules: float) -> dict[str, object]:
    """Which channel is the CPU and which the GPU differs between releases; the name of the total does not."""
    rails = {0: ("POM_5V_IN", watts), 1: ("POM_5V_GPU", 0.2 * watts), 2: ("POM_5V_CPU", 0.5 * watts)}
    files: dict[str, object] = {}
    for index, (name, value) in rails.items():
        files[f"{NANO}/rail_name_{index}"] = name
        files[f"{NANO}/in_voltage{index}_input"] = 5000
        files[f"{NANO}/in_current{index}_input"] = round(1000 * value / 5)
        files[f"{NANO}/in_power{index}_input"] = round(1000 * value)
    return files


def jetson_tx2(watts: float, joules: float) -> dict[str, object]:
    """Two chips on the module, two on the carrier board."""
    names = {
        "0/iio:device0": ("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"),
        "1/iio:device1": ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"),
        "2/iio:device2": ("VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"),
    }
    files: dict[str, object] = {}
    for place, rails in names.items():
        for index, name in enumerate(rails):
            files[f"{TX2}{place}/rail_name_{index}"] = name
            files[f"{TX2}{place}/in_power{index}_input"] = round(1000 * (watts if name == "VDD_IN" else 0.3 * watts))
    return files


def jetson_orin_nano(watts: float, joules: float) -> dict[str, object]:
    """JetPack 5 and 6: no power, and a seventh input that is a sum of voltages over shunts."""
    rails = {1: ("VDD_IN", watts), 2: ("VDD_CPU_GPU_CV", 0.4 * watts), 3: ("VDD_SOC", 0.2 * watts)}
    files: dict[str, object] = {f"{ORIN}/name": "ina3221", f"{ORIN}/in7_label": "sum of shunt voltages"}
    files |= {f"{ORIN}/in7_input": 123456, f"{ORIN}/curr4_input": 9999}
    for index, (name, value) in rails.items():
        files[f"{ORIN}/in{index}_label"] = name
        files[f"{ORIN}/in{index}_input"] = 5048
        files[f"{ORIN}/curr{index}_input"] = round(1e6 * value / 5048)
    return files


def hwmon_ina226(watts: float, joules: float) -> dict[str, object]:
    """A chip with a driver of its own, beside one that measures no power."""
    return {
        "/sys/class/hwmon/hwmon0/name": "cpu_thermal",
        "/sys/class/hwmon/hwmon0/temp1_input": 51000,
        "/sys/class/hwmon/hwmon1/name": "ina226",
        "/sys/class/hwmon/hwmon1/power1_input": round(1e6 * watts),
    }


def rapl(watts: float, joules: float) -> dict[str, object]:
    """Two packages that come round during the work, parts of them, memory beside one, and the platform around all."""
    shares = {"0": ("package-0", 0.5), "0:0": ("core", 0.4), "0:1": ("dram", 0.2), "1": ("package-1", 0.3)}
    shares["2"] = ("psys", 1.6)
    files: dict[str, object] = {}
    for zone, (name, share) in shares.items():
        offset = RAPL_RANGE_UJ - 100_000_000
        files[f"{RAPL}{zone}/name"] = name
        files[f"{RAPL}{zone}/max_energy_range_uj"] = RAPL_RANGE_UJ
        files[f"{RAPL}{zone}/energy_uj"] = round(offset + 1e6 * share * joules) % RAPL_RANGE_UJ
    # The same counters seen another way.
    files["/sys/class/powercap/intel-rapl-mmio:0/name"] = "package-0"
    files["/sys/class/powercap/intel-rapl-mmio:0/energy_uj"] = 1
    return files


def pi5(watts: float, joules: float) -> dict[str, object]:
    """As the firmware prints it: all currents, then all voltages, two of them without a current."""
    shares = {"3V3_SYS": (3.3, 0.1), "DDR_VDD2": (1.1, 0.2), "VDD_CORE": (0.85, 0.6), "HDMI": (5.1, 0.1)}
    amps = [f"{name + '_A':>12} current({k})={s * watts / v:.8f}A" for k, (name, (v, s)) in enumerate(shares.items())]
    volts = [f"{name + '_V':>12} volt({8 + k})={v:.8f}V" for k, (name, (v, _)) in enumerate(shares.items())]
    volts += ["     EXT5V_V volt(24)=5.15542000V", "      BATT_V volt(25)=0.00000000V"]
    return {"/usr/bin/vcgencmd": VCGENCMD, "/usr/bin/adc.txt": "\n".join(amps + volts)}


def phone(watts: float, joules: float) -> dict[str, object]:
    """A vendor that counts current out of the battery as negative, in µA."""
    return {
        f"{BATTERY}/type": "Battery",
        f"{BATTERY}/status": "Discharging",
        f"{BATTERY}/voltage_now": 3_912_000,
        f"{BATTERY}/current_now": -round(1e6 * watts / 3.912),
    }


def phone_in_milliamps(watts: float, joules: float) -> dict[str, object]:
    """A vendor that counts it as positive, in mA, and voltage in mV."""
    return {
        "/sys/class/power_supply/usb/type": "USB",
        "/sys/class/power_supply/usb/current_now": 0,
        f"{BATTERY}/type": "Battery",
        f"{BATTERY}/status": "Discharging",
        f"{BATTERY}/voltage_now": 3912,
        f"{BATTERY}/current_now": round(1e3 * watts / 3.912),
    }


def pixel(watts: float, joules: float) -> dict[str, object]:
    """Two power chips, each with its file."""

    def lines(rails: Mapping[str, float]) -> str:
        counters = [f"CH{k}(T=349894)[{name}], {round(1e6 * s * joules)}" for k, (name, s) in enumerate(rails.items())]
        return "\n".join(["t=349894", *counters])

    return {
        f"{ODPM}0/energy_value": lines({"S4M_VDD_CPUCL0": 0.3, "S2M_VDD_CPUCL2": 0.4, "VSYS_PWR_MODEM": 0.0}),
        f"{ODPM}1/energy_value": lines({"S8S_VDD_G3D_L2": 0.1, "VSYS_PWR_DISPLAY": 0.2}),
    }


@dataclass(frozen=True)
class Board:
    """A faked machine, and what a sensor is to tell of it."""

    text: str
    files: Callable[[float, float], dict[str, object]]
    counted: tuple[str, ...]
    others: tuple[str, ...]
    boundary: str


BOARDS = {
    "Jetson Nano": Board("ina3221", jetson_nano, ("POM_5V_IN",), ("POM_5V_GPU", "POM_5V_CPU"), "module"),
    "Jetson TX2": Board(
        "ina3221",
        jetson_tx2,
        ("VDD_IN",),
        (
            *("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI", "VDD_SYS_CPU", "VDD_SYS_DDR"),
            *("VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"),
        ),
        "module",
    ),
    "Jetson Orin Nano": Board("ina3221", jetson_orin_nano, ("VDD_IN",), ("VDD_CPU_GPU_CV", "VDD_SOC"), "module"),
    "hwmon": Board("hwmon", hwmon_ina226, ("power1",), (), "unknown"),
    "RAPL": Board("rapl", rapl, ("package-0", "package-0/dram", "package-1"), ("package-0/core", "psys"), "SoC"),
    "Raspberry Pi 5": Board("pmic", pi5, ("3V3_SYS", "DDR_VDD2", "VDD_CORE", "HDMI"), (), "module"),
    "phone": Board("battery", phone, ("battery",), (), "board"),
    "phone in mA": Board("battery", phone_in_milliamps, ("battery",), (), "board"),
    "Pixel": Board(
        "odpm",
        pixel,
        ("S4M_VDD_CPUCL0", "S2M_VDD_CPUCL2", "VSYS_PWR_MODEM", "S8S_VDD_G3D_L2", "VSYS_PWR_DISPLAY"),
        (),
        "module",
    ),
}


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
