import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from power_fakes import KnownPower, serving_plug, write_tree
from terminal import run_on_terminal

from tsm_edge.cli.main import entry_point
from tsm_edge.power import registry
from tsm_edge.power.registry import FAMILIES, sensor_forms
from tsm_edge.power.system import LocalSystem

NANO = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"


def jetson_nano(root: Path) -> None:
    rails = {"POM_5V_IN": 3500, "POM_5V_GPU": 250, "POM_5V_CPU": 900}
    for index, (name, milliwatts) in enumerate(rails.items()):
        write_tree(root, {f"{NANO}/rail_name_{index}": name, f"{NANO}/in_power{index}_input": milliwatts})


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine's files in place of this one's."""
    monkeypatch.setattr(registry, "LocalSystem", lambda: LocalSystem(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return tmp_path


def test_sensors_found_are_read_and_the_others_say_why(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jetson_nano(tree)
    assert entry_point(["power", "--seconds", "0.5"]) == 0
    captured = capsys.readouterr()
    heading, *rows = captured.out.splitlines()
    assert heading.split()[:3] == ["sensor", "rail", "counts"]
    assert [row.split() for row in rows[:4]] == [
        ["ina3221", "POM_5V_IN", "yes", "3.500", "3.500", "3.500"],
        ["ina3221", "POM_5V_GPU", "no", "0.250", "0.250", "0.250"],
        ["ina3221", "POM_5V_CPU", "no", "0.900", "0.900", "0.900"],
        ["ina3221", "total", "3.500", "3.500", "3.500"],
    ]
    assert "ina3221: module: the module's supply, POM_5V_IN" in captured.err
    listed = {row.split()[0] for row in rows[4:] if row}
    assert listed >= {family.form for family in FAMILIES} - {"ina3221"}
    assert "csv:FILE" in listed


def test_json_has_the_figures_with_their_units_and_the_reasons(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jetson_nano(tree)
    assert entry_point(["power", "--seconds", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [sensor] = found["found"]
    assert (sensor["name"], sensor["boundary"], sensor["total_w"]) == ("ina3221", "module", 3.5)
    assert sensor["readings"][1] == {
        "rail": "POM_5V_GPU",
        "in_total": False,
        "mean_w": 0.25,
        "min_w": 0.25,
        "max_w": 0.25,
    }
    assert sensor["samples"] >= 3
    assert {entry["sensor"] for entry in found["not_found"]} == {"pmic", "odpm", "battery", "rapl", "hwmon", "nvml"}
    assert all(entry["problem"] for entry in found["not_found"])
    assert found["known"] == sensor_forms()


def test_a_machine_without_sensors_is_told_so_and_is_no_error(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry_point(["power"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("not found here")
    assert captured.err == "no power sensor was found here: `tsm-edge power SENSOR` reads a meter of yours\n"


def test_one_sensor_is_read_alone(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving_plug(lambda path: (200, {"switch:0": {"apower": 6.25}})) as plug:
        assert entry_point(["power", f"shelly:{plug.url}", "--seconds", "0.5", "--json"]) == 0
    sensor = json.loads(capsys.readouterr().out)
    assert (sensor["name"], sensor["boundary"], sensor["total_w"]) == (f"shelly:{plug.url}", "wall", 6.25)


def test_the_sensors_of_a_board_are_read_over_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for ssh runs what it is given in a shell where /sys is a Jetson's."""
    tree, program = tmp_path / "board", tmp_path / "bin" / "ssh"
    jetson_nano(tree)
    program.parent.mkdir()
    there, back = f"s#{tree}/sys/#/sys/#g", f"s#/sys/#{tree}/sys/#g"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\necho "$last" | sed "{there};{back}" | sh | sed "{there}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert entry_point(["power", "--ssh", "pi@board", "--seconds", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [sensor] = [entry for entry in found["found"] if entry["name"] == "ina3221"]
    assert (sensor["boundary"], sensor["total_w"]) == ("module", 3.5)
    assert entry_point(["power", "ina3221", "--ssh", "pi@board", "--seconds", "0.5"]) == 0
    assert "POM_5V_IN" in capsys.readouterr().out
    assert entry_point(["power", "nvml", "--ssh", "pi@board"]) == 2
    assert "is read by a driver of this machine, not of another one" in capsys.readouterr().err


def test_a_sensor_that_vanishes_meanwhile_is_one_line(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jetson_nano(tree)
    reads = 0

    class Vanishing(LocalSystem):
        def _read(self, path: str) -> str:
            nonlocal reads
            reads += path.endswith("in_power0_input")
            if reads > 3:
                raise FileNotFoundError(2, "No such file or directory", path)
            return super()._read(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "LocalSystem", lambda: Vanishing(tree))
        assert entry_point(["power", "ina3221", "--seconds", "30"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "tsm-edge: error: power sensor ina3221 cannot be read any more "
        f"({NANO}/in_power0_input: No such file or directory); see what it reads: tsm-edge power SENSOR"
    ]


def test_a_log_is_shown_as_power_and_energy(tmp_path: Path, run_program: Callable[..., object]) -> None:
    power = KnownPower(3.025, 13.025)
    rows = [0.05 * k for k in range(320)]
    cells = [f"{t:.3f},{power.watts(t):.6f},{int(power.work_from < t < power.work_to)}" for t in rows]
    (tmp_path / "log.csv").write_text("\n".join(["time_s,power_w,marker", *cells]))
    done = run_program("power", "csv:log.csv")
    assert done.returncode == 0
    table = {row.split()[0]: row.split()[1:] for row in done.stdout.splitlines()[1:]}
    assert float(table["net"][1]) == pytest.approx(power.net_j, rel=0.01)
    assert float(table["gross"][1]) == pytest.approx(power.gross_j, rel=0.01)
    report = json.loads(run_program("power", "csv:log.csv", "--json").stdout)
    assert report["net_j"] == pytest.approx(power.net_j, rel=0.01)
    assert report["sensor"]["name"] == "csv:log.csv"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rapll"], "unknown power sensor 'rapll' (did you mean 'rapl'?)"),
        (["csv:none.csv"], "none.csv: cannot be read (No such file or directory)"),
        (["--seconds", "0"], "--seconds"),
        (["--ssh", "pi@board", "--rpc", "board"], "several boards were given, expected one"),
        (["--key", "k"], "--key was given without --rpc or --tracker"),
        (["tasmota:plug"], "expected tasmota:http://HOST"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, run_program: Callable[..., object]
) -> None:
    done = run_program("power", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_names_every_sensor(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry_point(["power", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(form.partition(":")[0] in text for form in sensor_forms() if form != "none")


def test_tables_fit_a_terminal_of_80_columns(program_environment: dict[str, str]) -> None:
    environment = {**program_environment, "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    code = "from tsm_edge.cli.main import entry_point; raise SystemExit(entry_point(['power', '--seconds', '0.5']))"
    shown = run_on_terminal(code, {**os.environ, **environment})
    tables = shown[: shown.index("csv:FILE")]
    assert "rapl" in tables
    assert all(len(line) <= 80 for line in tables.splitlines()), shown
