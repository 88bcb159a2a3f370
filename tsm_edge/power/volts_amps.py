"""A sensor whose rails are files: power, or voltage and current."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tsm_edge.power.files import read_numbers
from tsm_edge.power.sensor import SensorInfo
from tsm_edge.power.system import System


@dataclass(frozen=True)
class RailFiles:
    """The files of one rail, whose numbers are multiplied.

    Attributes
    ----------
    paths : tuple of str
        One with power, or two with voltage and current.
    scale : float
        From the product to W.
    """

    paths: tuple[str, ...]
    scale: float


class FileSensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    system : System
    info : SensorInfo
    rails : tuple of RailFiles
        As in ``info``.
    """

    def __init__(self, system: System, info: SensorInfo, rails: tuple[RailFiles, ...]) -> None:
        self.info = info
        self._system = system
        self._rails = rails
        self._paths = [path for rail in rails for path in rail.paths]

    def read(self) -> tuple[float, ...]:
        """W of each rail."""
        numbers = iter(read_numbers(self._system, self._paths))
        return tuple(rail.scale * math.prod(next(numbers) for _ in rail.paths) for rail in self._rails)

    def close(self) -> None:
        """Nothing is held."""
