"""What this machine's kernel and power sensor say now: temperature, clock, watts."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from tsm_edge.errors import PowerError
from tsm_edge.machine import clocks, heat
from tsm_edge.machine.clocks import read_cores, read_gpus
from tsm_edge.machine.heat import Temperature, read_temperatures
from tsm_edge.power.registry import AUTO, open_sensor
from tsm_edge.power.sensor import Sensor
from tsm_edge.power.system import LocalSystem, System


@dataclass(frozen=True)
class Readings:
    """Empty or None where the machine does not tell.

    Attributes
    ----------
    temperatures : tuple of Temperature
    cpu_mhz, gpu_mhz : float or None
        The clock of the fastest core now; of the fastest GPU.
    power_w : float or None
    power_covers : str
        What the power is that of.
    """

    temperatures: tuple[Temperature, ...] = ()
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    power_w: float | None = None
    power_covers: str = ""

    def shown(self) -> dict[str, Any]:
        """For a browser: the hottest part, clocks and power."""
        hottest = max(self.temperatures, key=lambda item: item.value_c, default=None)
        return {
            "hottest_c": None if hottest is None else hottest.value_c,
            "hottest": "" if hottest is None else hottest.zone,
            "cpu_mhz": self.cpu_mhz,
            "gpu_mhz": self.gpu_mhz,
            "power_w": self.power_w,
            "power_covers": self.power_covers,
        }


class Reader:
    """Reads a machine; its methods may take a while.

    Parameters
    ----------
    system : System, optional
        By default this machine.
    """

    def __init__(self, system: System | None = None) -> None:
        self._system = system or LocalSystem()
        self._sensor: Sensor | None = None
        self._before: tuple[float, float] | None = None
        with contextlib.suppress(PowerError):
            self._sensor = open_sensor(AUTO, self._system)

    def read(self) -> Readings:
        """Read everything once."""
        files = self._system.gather((*heat.PATTERNS, *clocks.MOVING))
        return Readings(
            temperatures=read_temperatures(files),
            cpu_mhz=max((core.current_mhz for core in read_cores(files) if core.current_mhz), default=None),
            gpu_mhz=max((gpu.current_mhz for gpu in read_gpus(files) if gpu.current_mhz), default=None),
            power_w=self._power(),
            power_covers="" if self._sensor is None else self._sensor.info.covers,
        )

    def _power(self) -> float | None:
        if self._sensor is None:
            return None
        try:
            total = self._sensor.info.total(self._sensor.read())
        except (PowerError, OSError):
            return None
        if self._sensor.info.quantity == "power":
            return round(total, 3)
        before, self._before = self._before, (time.monotonic(), total)
        if before is None or total < before[1]:  # the first reading, or a counter that began again
            return None
        return round((total - before[1]) / (self._before[0] - before[0]), 3)
