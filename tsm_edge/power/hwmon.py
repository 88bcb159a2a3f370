"""Chips of the kernel's hwmon drivers that measure power (INA2xx, power supplies, Jetson's INA3221)."""

from __future__ import annotations

from tsm_edge.errors import PowerError, unknown_name
from tsm_edge.power.files import folder_of, name_of, read_text
from tsm_edge.power.ina3221 import open_ina3221
from tsm_edge.power.sensor import LOOK, Rail, SensorInfo
from tsm_edge.power.system import System
from tsm_edge.power.volts_amps import FileSensor, RailFiles

_NAME = "hwmon"
_POWER = ("power[1-9]_input", "power[1-9]_average")


def open_hwmon(argument: str, system: System) -> FileSensor:
    """Find a chip.

    Parameters
    ----------
    argument : str
        The driver's name; empty: the only chip that measures power.

    Raises
    ------
    PowerError
        There is none, or no such, or there are several and none is named.
    """
    chips = _chips(system)
    if argument and argument not in chips:
        raise PowerError(f"power sensor {_NAME}: {unknown_name('chip', argument, chips)}", LOOK)
    if not chips:
        raise PowerError(f"power sensor {_NAME}: no chip in /sys/class/hwmon measures power", LOOK)
    if not argument and len(chips) > 1:
        raise PowerError(
            f"power sensor {_NAME}: {len(chips)} chips measure power: {', '.join(chips)}",
            f"name one: {_NAME}:{next(iter(chips))}",
        )
    name = argument or next(iter(chips))
    if name == "ina3221":
        return open_ina3221("", system)
    paths = chips[name]
    info = SensorInfo(
        name=f"{_NAME}:{name}",
        rails=tuple(Rail(_label(system, path)) for path in paths),
        boundary="unknown",
        covers=f"what the chip {name} measures, which only the board's circuit diagram tells",
        quantity="power",
        period_s=0.1,
        uncertainty_percent=None,
        uncertainty="not known: it depends on the chip and its shunt",
    )
    return FileSensor(system, info, tuple(RailFiles((path,), 1e-6) for path in paths))


def _chips(system: System) -> dict[str, list[str]]:
    """The files with the power of each chip, by its driver's name; several chips of one driver are taken together."""
    chips: dict[str, list[str]] = {}
    for path in system.find("/sys/class/hwmon/hwmon*/name"):
        name = read_text(system, path, _NAME)
        power = [found for pattern in _POWER for found in system.find(f"{folder_of(path)}/{pattern}")]
        # Some give both what is now and the mean: one is enough.
        by_input = {found.rpartition("_")[0]: found for found in reversed(power)}
        if by_input or name == "ina3221":
            chips.setdefault(name, []).extend(sorted(by_input.values()))
    return chips


def _label(system: System, path: str) -> str:
    rail = path.rpartition("_")[0]
    label = f"{rail}_label"
    return read_text(system, label, _NAME) if system.find(label) else name_of(rail)
