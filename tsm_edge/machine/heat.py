"""Temperatures: thermal zones, and where a kernel has none the sensors of the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.machine.files import Files, folders, number_of, text_of

PATTERNS = (
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/temp*_input",
    "/sys/class/hwmon/hwmon*/temp*_label",
    "/sys/class/power_supply/battery/temp",
)
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
# Tegra's is a constant 100 °C, not a measurement.
_CONSTANT = ("PMIC-Die",)
_COLDEST_C, _HOTTEST_C = -40.0, 150.0


@dataclass(frozen=True)
class Temperature:
    """A thermal zone, °C."""

    zone: str
    value_c: float


def read_temperatures(files: Files) -> tuple[Temperature, ...]:
    """All that can be true; zones of a part that is switched off give none."""
    found: dict[str, float] = {}
    for folder in folders(files, r"/sys/class/thermal/thermal_zone\d+/temp"):
        place = text_of(files, f"{folder}/type")
        value = _celsius(number_of(files, f"{folder}/temp"))
        if place and place not in _CONSTANT and value is not None:
            found[_unused(place, found)] = value
    found.update(_cpu_sensors(files))
    battery = number_of(files, "/sys/class/power_supply/battery/temp")
    if battery is not None and _possible(battery / 10):
        found.setdefault("battery", battery / 10)
    return tuple(Temperature(place, value) for place, value in found.items())


def _cpu_sensors(files: Files) -> dict[str, float]:
    found: dict[str, float] = {}
    for folder in folders(files, r"/sys/class/hwmon/hwmon\d+/temp\d+_input"):
        name = text_of(files, f"{folder}/name")
        if name in _CPU_SENSORS and not (name == "cpu_thermal" and _has_zone(files, "cpu-thermal")):
            value = _celsius(number_of(files, f"{folder}/temp1_input"))
            if value is not None:
                found[text_of(files, f"{folder}/temp1_label") or name] = value
    return found


def _has_zone(files: Files, kind: str) -> bool:
    return any(path.endswith("/type") and text.strip() == kind for path, text in files.items())


def _celsius(value: float | None) -> float | None:
    """From thousandths, which the kernel's interface asks for; some phones' kernels give tenths, or whole degrees."""
    if value is None:
        return None
    # A part between 0 and 1.5 °C would be read wrongly; one that computes is warmer.
    if 150 < abs(value) < 1500:
        value *= 100
    elif 0 < abs(value) <= 150:
        value *= 1000
    # Exactly 0 is what a sensor gives that is not connected.
    return round(value / 1000, 2) if value and _possible(value / 1000) else None


def _possible(celsius: float) -> bool:
    return _COLDEST_C <= celsius <= _HOTTEST_C


def _unused(place: str, found: dict[str, float]) -> str:
    """A name of its own for each of several zones of one type."""
    count = sum(name == place or name.startswith(f"{place} #") for name in found)
    return place if not count else f"{place} #{count + 1}"
