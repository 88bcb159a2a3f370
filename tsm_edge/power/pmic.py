"""The power management chip of the Raspberry Pi 5, asked through ``vcgencmd``."""

from __future__ import annotations

import re

from tsm_edge.errors import PowerError
from tsm_edge.power.sensor import TRY, Rail, SensorInfo, number
from tsm_edge.power.system import System

_NAME = "pmic"
_COMMAND = ("vcgencmd", "pmic_read_adc")
_LINE = re.compile(r"^\s*(\S+)_([AV])\s+(?:current|volt)\(\d+\)=(\S+?)[AV]?\s*$", re.MULTILINE)


class PmicSensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    system : System
    rails : tuple of str
        Names of the rails that have voltage and current.
    """

    def __init__(self, system: System, rails: tuple[str, ...]) -> None:
        self.info = SensorInfo(
            name=_NAME,
            rails=tuple(map(Rail, rails)),
            boundary="module",
            covers="the rails that the power chip makes: not its own losses, USB ports, fan or HATs",
            quantity="power",
            # A process a reading: often enough not to miss much, seldom enough not to be what is measured.
            period_s=0.1,
            uncertainty_percent=None,
            uncertainty="not stated; a meter at the plug reads more",
        )
        self._system = system

    def read(self) -> tuple[float, ...]:
        """W of each rail."""
        volts, amps = _ask(self._system)
        missing = [rail.name for rail in self.info.rails if rail.name not in volts or rail.name not in amps]
        if missing:
            raise PowerError(f"power sensor {_NAME}: {' '.join(_COMMAND)} no longer shows {', '.join(missing)}", TRY)
        return tuple(volts[rail.name] * amps[rail.name] for rail in self.info.rails)

    def close(self) -> None:
        """Nothing is held."""


def open_pmic(argument: str, system: System) -> PmicSensor:
    """Ask ``vcgencmd`` once.

    Raises
    ------
    PowerError
        This is no Raspberry Pi 5, or its firmware may not be asked.
    """
    try:
        volts, amps = _ask(system)
    except FileNotFoundError:
        raise PowerError(
            f"power sensor {_NAME}: vcgencmd is not installed, so this is no Raspberry Pi",
            "on one, it is in the package raspi-utils",
        ) from None
    except OSError as error:
        raise PowerError(
            f"power sensor {_NAME}: {' '.join(_COMMAND)} failed ({error.strerror})",
            "if it may not be asked: sudo usermod -aG video $USER, then log in again",
        ) from None
    # EXT5V and BATT have a voltage only.
    rails = tuple(name for name in amps if name in volts)
    if not rails:
        raise PowerError(f"power sensor {_NAME}: {' '.join(_COMMAND)} shows no currents", "only a Raspberry Pi 5 does")
    return PmicSensor(system, rails)


def _ask(system: System) -> tuple[dict[str, float], dict[str, float]]:
    """V and A by rail."""
    values: dict[str, dict[str, float]] = {"V": {}, "A": {}}
    for name, unit, text in _LINE.findall(system.run(*_COMMAND)):
        values[unit][name] = number(text, f"{name}_{unit} of {' '.join(_COMMAND)}")
    return values["V"], values["A"]
