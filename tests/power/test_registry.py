import json
import subprocess
import sys
from pathlib import Path

import pytest
from power_fakes import MovingCounters, write_tree

from tsm_edge.cards import load_target, target_names
from tsm_edge.errors import PowerError
from tsm_edge.power import registry
from tsm_edge.power.csvlog import LogMeter
from tsm_edge.power.registry import FAMILIES, LiveMeter, find_sensors, open_meter, open_sensor, sensor_forms
from tsm_edge.power.system import LocalSystem, ShellSystem

RAPL = "/sys/class/powercap/intel-rapl:0"
BATTERY = "/sys/class/power_supply/BAT0"


def laptop(root: Path) -> MovingCounters:
    """On its battery, with RAPL."""
    battery = {"type": "Battery", "status": "Discharging", "voltage_now": 11_800_000, "current_now": 700_000}
    rapl = {"name": "package-0", "energy_uj": 5, "max_energy_range_uj": 1000}
    write_tree(root, {f"{BATTERY}/{name}": text for name, text in battery.items()})
    write_tree(root, {f"{RAPL}/{name}": text for name, text in rapl.items()})
    return MovingCounters(root)


@pytest.mark.parametrize("text", ["rapl", "auto"])
def test_a_counter_that_stands_still_is_no_sensor(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_STILL_S", 0.05)
    system = laptop(tmp_path)
    write_tree(tmp_path, {f"{BATTERY}/status": "Full"})
    assert open_sensor(text, system).info.name == "rapl"
    system.step = 0
    with pytest.raises(PowerError, match=r"its counter stands still, so it does not measure|no power sensor was found"):
        open_sensor(text, system)


def test_auto_is_the_first_sensor_that_can_be_read(tmp_path: Path) -> None:
    system = laptop(tmp_path)
    assert open_sensor("auto", system).info.name == "battery"
    write_tree(tmp_path, {f"{BATTERY}/status": "Charging"})
    assert open_sensor("auto", system).info.name == "rapl"


def test_auto_on_a_machine_without_sensors_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        PowerError, match="no power sensor was found; see why: tsm-edge power; or name a meter, as in: "
    ):
        open_sensor("auto", LocalSystem(tmp_path))


def test_all_that_are_found_are_open_and_all_others_say_why(tmp_path: Path) -> None:
    found = {entry.family.name: entry for entry in find_sensors(laptop(tmp_path))}
    assert {name for name, entry in found.items() if entry.sensor is not None} >= {"battery", "rapl"}
    assert all((entry.sensor is None) != (entry.problem is None) for entry in found.values())
    assert "no INA3221 chip here" in str(found["ina3221"].problem)
    assert set(found) == {family.name for family in FAMILIES if family.found_alone}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "rapll",
            "unknown power sensor 'rapll' \\(did you mean 'rapl'\\?\\): known are auto, battery, csv:FILE, hwmon, ",
        ),
        ("", "unknown power sensor ''"),
        ("shelly", "power sensor shelly: expected shelly:http://HOST"),
        ("ina219:", "power sensor ina219:: expected ina219:BUS:ADDRESS"),
        ("rapl:0", "power sensor rapl:0: nothing follows rapl; write rapl"),
        ("none", "nothing to read live"),
        ("csv:log.csv", "nothing to read live"),
    ],
)
def test_a_text_that_names_no_live_sensor_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(PowerError, match=reason):
        open_sensor(text, LocalSystem(tmp_path))


def test_unknown_names_list_all_that_can_be_written() -> None:
    with pytest.raises(PowerError) as caught:
        open_sensor("zzz")
    assert all(form in str(caught.value) for form in sensor_forms())


def test_a_meter_is_nothing_a_log_or_a_live_sensor(tmp_path: Path) -> None:
    assert open_meter("none") is None
    assert isinstance(open_meter("csv:log.csv"), LogMeter)
    live = open_meter("rapl", laptop(tmp_path))
    assert isinstance(live, LiveMeter)
    assert live.info.name == "rapl"
    with pytest.raises(PowerError, match="expected csv:FILE"):
        open_meter("csv")


@pytest.mark.parametrize("text", ["nvml", "ina219:1:0x40"])
def test_a_driver_here_does_not_measure_a_machine_elsewhere(text: str) -> None:
    with pytest.raises(PowerError, match="is read by a driver of this machine, not of another one"):
        open_sensor(text, ShellSystem(lambda script: ""))


def test_a_shell_that_breaks_off_is_an_error() -> None:
    with pytest.raises(PowerError, match="shell broke off while power was read"):
        ShellSystem(lambda script: "4012\n").read(["/sys/a", "/sys/b"])


def test_target_cards_name_sensors_that_exist() -> None:
    known = {family.name for family in FAMILIES}
    for name in target_names():
        assert set(load_target(name).power_sensors) <= known, name


def test_nothing_heavy_is_imported() -> None:
    code = "import json, sys, tsm_edge.power.registry; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {module.partition(".")[0] for module in json.loads(done.stdout)}
    outside = {"numpy", "torch", "tvm", "tvm_ffi", "cv2", "onnx", "smbus2", "pyvisa", "pynvml", "rich", "click"}
    assert not packages & outside
    modules = {module for module in json.loads(done.stdout) if module.startswith("tsm_edge.")}
    rooms = {module.split(".")[1] for module in modules}
    assert rooms <= {"power", "errors", "files", "disk", "paths", "stale"}
