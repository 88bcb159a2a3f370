"""All families of sensors, by the names people write (``--power rapl``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from tsm_edge.errors import PowerError, unknown_name
from tsm_edge.power.battery import open_battery
from tsm_edge.power.csvlog import LogMeter
from tsm_edge.power.hwmon import open_hwmon
from tsm_edge.power.ina2xx import open_ina2xx
from tsm_edge.power.ina3221 import open_ina3221
from tsm_edge.power.measure import Measured, T, measure
from tsm_edge.power.nvml import open_nvml
from tsm_edge.power.odpm import open_odpm
from tsm_edge.power.plugs import open_shelly, open_tasmota
from tsm_edge.power.pmic import open_pmic
from tsm_edge.power.rapl import open_rapl
from tsm_edge.power.sampler import SYSTEM_CLOCK, Clock
from tsm_edge.power.scpi import open_scpi
from tsm_edge.power.sensor import LOOK, Sensor, SensorInfo, check_watts
from tsm_edge.power.system import LocalSystem, System

AUTO, NONE, CSV = "auto", "none", "csv"
# How long a counter may stand still before it is taken for none, and how often it is looked at, in seconds.
_STILL_S, _LOOK_S = 2.0, 0.01


@dataclass(frozen=True)
class Family:
    """One kind of sensor.

    Attributes
    ----------
    name : str
    device : str
        What has it.
    open : callable
        From what follows the name's colon, and the machine.
    argument : str
        What must follow the colon; empty: the sensor is found without.
    optional : bool
        Whether the argument may be left out.
    here_only : bool
        Whether it needs a driver of the machine this process runs on.
    """

    name: str
    device: str
    open: Callable[[str, System], Sensor]
    argument: str = ""
    optional: bool = False
    here_only: bool = False

    @property
    def found_alone(self) -> bool:
        """Whether it can be looked for, with nothing to be told."""
        return not self.argument or self.optional

    @property
    def form(self) -> str:
        """How it is written."""
        return f"{self.name}:{self.argument}" if self.argument and not self.optional else self.name


# In the order in which `auto` tries them: what covers the whole board goes first.
FAMILIES = (
    Family("ina3221", "NVIDIA Jetson", open_ina3221),
    Family("pmic", "Raspberry Pi 5", open_pmic),
    Family("odpm", "Google Pixel 6 and later", open_odpm),
    Family("battery", "Android, laptops", open_battery),
    Family("rapl", "x86 processors", open_rapl),
    Family("hwmon", "chips with a kernel driver", open_hwmon, "CHIP", optional=True),
    Family("nvml", "NVIDIA graphics cards", open_nvml, "NUMBER", optional=True, here_only=True),
    Family("ina219", "INA219 on I²C", partial(open_ina2xx, "ina219"), "BUS:ADDRESS", here_only=True),
    Family("ina226", "INA226 on I²C", partial(open_ina2xx, "ina226"), "BUS:ADDRESS", here_only=True),
    Family("ina260", "INA260 on I²C", partial(open_ina2xx, "ina260"), "BUS:ADDRESS", here_only=True),
    Family("shelly", "Shelly plugs, generation 2 on", open_shelly, "http://HOST"),
    Family("tasmota", "plugs with Tasmota", open_tasmota, "http://HOST"),
    Family("scpi", "laboratory meters (VISA)", open_scpi, "RESOURCE"),
)
CSV_FORM = f"{CSV}:FILE"


@dataclass(frozen=True)
class Found:
    """A family that was looked for.

    Attributes
    ----------
    family : Family
    sensor : Sensor or None
        Open.
    problem : PowerError or None
        Why there is none.
    """

    family: Family
    sensor: Sensor | None
    problem: PowerError | None


class Meter(Protocol):
    """Something that measures the energy of some work: a live sensor, or a log read afterwards."""

    def measure(self, work: Callable[[], T], idle_s: float, clock: Clock = SYSTEM_CLOCK) -> Measured[T]:
        """See :func:`tsm_edge.power.measure.measure`."""

    def close(self) -> None:
        """Let go of it."""


class LiveMeter:
    """See :class:`Meter`.

    Parameters
    ----------
    sensor : Sensor
        Closed by :meth:`close`.
    """

    def __init__(self, sensor: Sensor) -> None:
        self.sensor = sensor

    @property
    def info(self) -> SensorInfo:
        """What it measures."""
        return self.sensor.info

    def measure(self, work: Callable[[], T], idle_s: float, clock: Clock = SYSTEM_CLOCK) -> Measured[T]:
        """See :func:`tsm_edge.power.measure.measure`."""
        return measure(self.sensor, work, idle_s, clock)

    def close(self) -> None:
        """Close the sensor."""
        self.sensor.close()


def sensor_forms() -> list[str]:
    """All that can be written for a sensor."""
    return [AUTO, NONE, *(family.form for family in FAMILIES), CSV_FORM]


def open_meter(text: str, system: System | None = None) -> Meter | None:
    """Find what ``--power`` names; None for ``none``.

    Raises
    ------
    PowerError
        See :func:`open_sensor`.
    """
    name, _, argument = text.partition(":")
    if text == NONE:
        return None
    if name == CSV:
        if not argument:
            raise PowerError(f"power sensor {text}: expected {CSV_FORM}", "name the log: csv:meter.csv")
        return LogMeter(Path(argument))
    return LiveMeter(open_sensor(text, system))


def open_sensor(text: str, system: System | None = None) -> Sensor:
    """Open a live sensor.

    Parameters
    ----------
    text : str
        As a person writes it; ``auto``: the first that is found.
    system : System, optional
        The machine whose power is measured; by default this one.

    Raises
    ------
    PowerError
        The name is unknown, or the sensor is not there, or cannot be read.
    """
    system = system or LocalSystem()
    name, _, argument = text.partition(":")
    if text == AUTO:
        return _first(system)
    if name in (NONE, CSV):
        raise PowerError(f"power sensor {text}: there is nothing to read live", "see what there is: tsm-edge power")
    family = next((family for family in FAMILIES if family.name == name), None)
    if family is None:
        raise PowerError(unknown_name("power sensor", text, sensor_forms()), LOOK)
    if argument and not family.argument:
        raise PowerError(f"power sensor {text}: nothing follows {name}", f"write {name}")
    if not argument and not family.found_alone:
        raise PowerError(f"power sensor {text}: expected {family.form}", LOOK)
    return _open(family, argument, system)


def find_sensors(system: System | None = None) -> list[Found]:
    """Look for every family that can be found without being told where, and open what is there."""
    system = system or LocalSystem()
    found = []
    for family in FAMILIES:
        if family.found_alone:
            try:
                found.append(Found(family, _open(family, "", system), None))
            except PowerError as problem:
                found.append(Found(family, None, problem))
    return found


def _first(system: System) -> Sensor:
    for family in FAMILIES:
        if family.found_alone:
            try:
                return _open(family, "", system)
            except PowerError:
                continue
    raise PowerError(
        "no power sensor was found",
        "see why: tsm-edge power; or name a meter, as in: tsm-edge power shelly:http://HOST",
    )


def _open(family: Family, argument: str, system: System) -> Sensor:
    """Open a sensor and read it once, so that what it cannot do is known before anything is measured."""
    if family.here_only and not system.here:
        raise PowerError(
            f"power sensor {family.name}: is read by a driver of this machine, not of another one",
            "name a meter, or measure there",
        )
    try:
        sensor = family.open(argument, system)
    except OSError as error:
        raise _unreadable(family, error) from None
    try:
        if sensor.info.quantity == "power":
            check_watts(sensor.info, sensor.read())
        else:
            _check_moves(sensor)
    except OSError as error:
        sensor.close()
        raise _unreadable(family, error) from None
    except PowerError:
        sensor.close()
        raise
    return sensor


def _check_moves(sensor: Sensor) -> None:
    """Refuse a counter that stands still: some virtual machines show one."""
    first = sensor.info.total(sensor.read())
    end = time.monotonic() + _STILL_S
    while sensor.info.total(sensor.read()) <= first:
        if time.monotonic() >= end:
            raise PowerError(f"power sensor {sensor.info.name}: its counter stands still, so it does not measure", LOOK)
        time.sleep(_LOOK_S)


def _unreadable(family: Family, error: OSError) -> PowerError:
    thing = f"{error.filename}: " if error.filename is not None else ""
    hint = "read it as root: sudo tsm-edge …" if isinstance(error, PermissionError) else LOOK
    return PowerError(f"power sensor {family.name} cannot be read ({thing}{error.strerror or error})", hint)
