"""What a power sensor is, and when a reading of one can be believed."""

from __future__ import annotations

import contextlib
import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tsm_edge.errors import PowerError

Boundary = Literal["SoC", "module", "board", "wall", "unknown"]
Quantity = Literal["power", "energy"]

# Hints where nothing more is known.
LOOK = "see which sensors there are: tsm-edge power"
TRY = "see what it reads: tsm-edge power SENSOR"

# Converters around zero read a little below it. What is further below is a wire the wrong way round.
_NOISE_W = 0.05
# No machine this project runs on draws as much: the reading is in another unit.
_MOST_W = 1e5
# Between two readings, as far as that matters for how far a counter may move.
_SHORTEST_S = 0.01
# Python's own rules also take "1_0" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Rail:
    """One supply line that a sensor measures.

    Attributes
    ----------
    name : str
        As the sensor names it.
    in_total : bool
        Whether it is added to the total; no if it is a part of another rail, or of another device.
    """

    name: str
    in_total: bool = True


@dataclass(frozen=True)
class SensorInfo:
    """What there is to know about a sensor before it is read.

    Attributes
    ----------
    name : str
        What a person writes to name it.
    rails : tuple of Rail
    boundary : {"SoC", "module", "board", "wall", "unknown"}
        How much of the machine the total covers; "unknown" where only the person who wired it up knows.
    covers : str
        The same in words.
    quantity : {"power", "energy"}
        What a reading is: W now (or averaged by the sensor), or J counted since some moment.
    period_s : float
        Seconds between readings; in less the sensor has nothing new, or reading it costs too much.
    uncertainty_percent : float or None
        Of a reading, as its maker states it; None where the maker states none.
    uncertainty : str
        Where that comes from, and what comes on top.
    """

    name: str
    rails: tuple[Rail, ...]
    boundary: Boundary
    covers: str
    quantity: Quantity
    period_s: float
    uncertainty_percent: float | None
    uncertainty: str

    def total(self, values: Sequence[float]) -> float:
        """Add up the values of the rails that count."""
        return math.fsum(value for rail, value in zip(self.rails, values, strict=True) if rail.in_total)


class Sensor(Protocol):
    """A sensor that is there and has been read once."""

    @property
    def info(self) -> SensorInfo:
        """What it measures."""

    def read(self) -> tuple[float, ...]:
        """Read all rails: W, or J since some moment that stays the same for this object.

        Raises
        ------
        PowerError
            It is gone, or answers what is no number.
        """

    def close(self) -> None:
        """Let go of it; it cannot be read afterwards."""


def check_watts(info: SensorInfo, watts: Sequence[float]) -> None:
    """Refuse readings that no running machine has.

    Raises
    ------
    PowerError
        A rail is not finite, clearly negative or absurdly high, or nothing at all is drawn.
    """
    for rail, value in zip(info.rails, watts, strict=True):
        if not math.isfinite(value) or value > _MOST_W:
            raise PowerError(f"power sensor {info.name}: rail {rail.name} reads {value:g} W, which cannot be", TRY)
        if value < -_NOISE_W:
            raise PowerError(
                f"power sensor {info.name}: rail {rail.name} reads {value:g} W, expected no negative power",
                "check which way round its wires are",
            )
    if info.total(watts) <= 0:
        raise PowerError(
            f"power sensor {info.name} reads 0 W in total, which no running machine draws",
            "check that the board is supplied through it",
        )


def check_joules(info: SensorInfo, before: Sequence[float], after: Sequence[float], seconds: float) -> None:
    """Refuse an energy counter that is not finite, went backwards, or jumped within ``seconds``.

    Raises
    ------
    PowerError
    """
    for rail, old, new in zip(info.rails, before, after, strict=True):
        if not math.isfinite(new):
            raise PowerError(f"power sensor {info.name}: the counter of rail {rail.name} reads {new:g} J", TRY)
        if new < old:
            raise PowerError(
                f"power sensor {info.name}: the counter of rail {rail.name} went back from {old:.6g} to {new:.6g} J",
                "did the device restart? measure again",
            )
        if new - old > _MOST_W * max(seconds, _SHORTEST_S):
            raise PowerError(
                f"power sensor {info.name}: the counter of rail {rail.name} jumped by {new - old:.4g} J",
                "did the device sleep? measure again",
            )


def number(text: object, what: str) -> float:
    """Turn what a sensor answered into a number; ``what`` names it in the error.

    Raises
    ------
    PowerError
        It is none, or not a finite one.
    """
    value = math.nan
    if isinstance(text, str) and _NUMBER.fullmatch(text):
        value = float(text)
    elif isinstance(text, (int, float)) and not isinstance(text, bool):
        with contextlib.suppress(OverflowError):
            value = float(text)
    if not math.isfinite(value):
        shown = repr(text)
        raise PowerError(f"{what} is {shown[:60] + '…' if len(shown) > 60 else shown}, expected a number", TRY)
    return value


def optional_module(module: str, package: str, sensor: str) -> Any:
    """Import a package that only one family of sensors needs.

    Raises
    ------
    PowerError
        It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise PowerError(
            f"power sensor {sensor}: the Python package {package} is not installed", f"pip install {package}"
        ) from None
