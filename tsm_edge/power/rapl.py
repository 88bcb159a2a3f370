"""RAPL: the energy counters of Intel's and AMD's x86 processors."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.errors import PowerError
from tsm_edge.power.files import folder_of, name_of, read_numbers, read_text
from tsm_edge.power.sensor import LOOK, Rail, SensorInfo, number
from tsm_edge.power.system import System

_NAME = "rapl"
# Not intel-rapl-mmio:*, which are the same counters seen another way.
_ZONES = "/sys/class/powercap/intel-rapl:*"
_ALLOW = "allow it until the next start: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


@dataclass(frozen=True)
class _Zone:
    path: str
    rail: Rail
    range_uj: float


class RaplSensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    system : System
    zones : tuple of _Zone
    """

    def __init__(self, system: System, zones: tuple[_Zone, ...]) -> None:
        memory = any(zone.rail.in_total and zone.rail.name.endswith("dram") for zone in zones)
        self.info = SensorInfo(
            name=_NAME,
            rails=tuple(zone.rail for zone in zones),
            boundary="SoC",
            covers="processor packages and their memory" if memory else "processor packages, without memory",
            quantity="energy",
            period_s=0.05,
            uncertainty_percent=None,
            uncertainty="not stated; measured on servers since Haswell, a model on older processors",
        )
        self._system = system
        self._zones = zones
        self._paths = [zone.path for zone in zones]
        self._raw = read_numbers(system, self._paths)
        self._joules = [0.0] * len(zones)

    def read(self) -> tuple[float, ...]:
        """J of each rail since the sensor was opened. A counter that came round is noticed if it is read in time."""
        raw = read_numbers(self._system, self._paths)
        for index, (zone, before, after) in enumerate(zip(self._zones, self._raw, raw, strict=True)):
            counted = after - before if after >= before else after - before + zone.range_uj
            self._joules[index] += 1e-6 * counted
        self._raw = raw
        return tuple(self._joules)

    def close(self) -> None:
        """Nothing is held."""


def open_rapl(argument: str, system: System) -> RaplSensor:
    """Find the counters.

    Raises
    ------
    PowerError
        There are none, or only root may read them.
    """
    folders = [folder_of(path) for path in system.find(f"{_ZONES}/energy_uj")]
    if not folders:
        raise PowerError(
            f"power sensor {_NAME}: the kernel shows no counter (/sys/class/powercap/intel-rapl:0)",
            "only x86 processors have it, and virtual machines mostly hide it",
        )
    zones = tuple(_zone(system, folder) for folder in folders)
    if not any(zone.rail.in_total for zone in zones):
        raise PowerError(
            f"power sensor {_NAME}: there is no package among {', '.join(z.rail.name for z in zones)}", LOOK
        )
    return RaplSensor(system, zones)


def _zone(system: System, folder: str) -> _Zone:
    """``intel-rapl:0`` is a package (or psys, the whole platform), ``intel-rapl:0:1`` a part of it or its memory."""
    path = f"{folder}/energy_uj"
    number(read_text(system, path, _NAME, _ALLOW), path)
    range_path = f"{folder}/max_energy_range_uj"
    range_uj = number(read_text(system, range_path, _NAME), range_path)
    name = read_text(system, f"{folder}/name", _NAME)
    parent, part, _ = name_of(folder).removeprefix("intel-rapl:").partition(":")
    if part:
        package = read_text(system, f"{folder_of(folder)}/intel-rapl:{parent}/name", _NAME)
        return _Zone(path, Rail(f"{package}/{name}", in_total=name == "dram"), range_uj)
    return _Zone(path, Rail(name, in_total=name.startswith("package")), range_uj)
