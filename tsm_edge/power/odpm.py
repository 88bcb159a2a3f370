"""ODPM: the energy counters of the rails inside Google Pixel phones (Pixel 6 and later)."""

from __future__ import annotations

import re

from tsm_edge.errors import PowerError
from tsm_edge.power.files import read_text
from tsm_edge.power.sensor import LOOK, Rail, SensorInfo
from tsm_edge.power.system import System

_NAME = "odpm"
_FILES = "/sys/bus/iio/devices/iio:device*/energy_value"
# The kernel's driver documents it: CH<N>(T=<duration, ms>)[<rail>], <energy, µW s>.
_LINE = re.compile(r"^CH\d+\(T=-?\d+\)\[([^\]]+)\],\s*(\d{1,20})\s*$", re.MULTILINE | re.ASCII)
_ROOT = "only root may read it: adb root (needs a debug build of Android)"


class OdpmSensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    system : System
    paths : list of str
        A file each for the two power chips.
    """

    def __init__(self, system: System, paths: list[str]) -> None:
        self._system = system
        self._paths = paths
        names = [name for name, _ in self._counters()]
        if not names:
            raise PowerError(f"power sensor {_NAME}: {', '.join(paths)} names no rail", LOOK)
        self.info = SensorInfo(
            name=_NAME,
            rails=tuple(map(Rail, names)),
            boundary="module",
            covers="the sum of the rails that are counted now: not the whole phone",
            quantity="energy",
            period_s=0.25,
            uncertainty_percent=None,
            uncertainty="not stated",
        )

    def read(self) -> tuple[float, ...]:
        """J of each rail since the phone started."""
        counters = self._counters()
        names = tuple(name for name, _ in counters)
        expected = tuple(rail.name for rail in self.info.rails)
        if names != expected:
            raise PowerError(
                f"power sensor {_NAME}: its rails changed from {', '.join(expected)} to {', '.join(names) or 'none'}",
                "another program chose others: measure again",
            )
        return tuple(joules for _, joules in counters)

    def close(self) -> None:
        """Nothing is held."""

    def _counters(self) -> list[tuple[str, float]]:
        texts = self._system.read(self._paths)
        return [(name, 1e-6 * int(energy)) for text in texts for name, energy in _LINE.findall(text)]


def open_odpm(argument: str, system: System) -> OdpmSensor:
    """Find the counters.

    Raises
    ------
    PowerError
        There are none, or only root may read them.
    """
    paths = system.find(_FILES)
    if not paths:
        raise PowerError(
            f"power sensor {_NAME}: no energy counters in /sys/bus/iio", "only Pixel 6 and later have them"
        )
    for path in paths:
        read_text(system, path, _NAME, _ROOT)
    return OdpmSensor(system, paths)
