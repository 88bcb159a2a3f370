"""INA219, INA226 and INA260 on an I²C bus of this machine, wired into the supply of the board."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from tsm_edge.errors import PowerError
from tsm_edge.power.sensor import Rail, SensorInfo, number, optional_module
from tsm_edge.power.system import System

_CONFIG, _SHUNT, _BUS = 0x00, 0x01, 0x02
_MAKER, _DIE = 0xFE, 0xFF
_TEXAS_INSTRUMENTS = 0x5449
_WITHOUT_REVISION = 0xFFF0
_MODE = 0x7
_RANGE, _RANGE_SHIFT = 0x3, 11
_CONTINUOUS = 0x7  # shunt and bus voltage, over and over: the state after power on


@dataclass(frozen=True)
class _Chip:
    """What differs. Register 1 is the shunt's voltage, or the current where the shunt is in the chip.

    Attributes
    ----------
    shunt_unit : float
        V (with a shunt outside) or A a step of register 1.
    bus_unit : float
        V a step of register 2.
    bus_shift : int
        Lowest bits of register 2 that are not voltage.
    most : int
        Where register 1 stops rising.
    die : int
        Value of register 0xFF; 0: it has none.
    shunt_ohms : float
        Of the usual breakout board; 0: it is in the chip.
    uncertainty_percent : float
        Of the gain of its current, at worst (data sheet).
    """

    shunt_unit: float
    bus_unit: float
    bus_shift: int
    most: int
    die: int
    shunt_ohms: float
    uncertainty_percent: float


_CHIPS = {
    "ina219": _Chip(10e-6, 4e-3, 3, 4000, 0, 0.1, 1.0),
    "ina226": _Chip(2.5e-6, 1.25e-3, 0, 0x7FFF, 0x2260, 0.1, 0.1),
    "ina260": _Chip(1.25e-3, 1.25e-3, 0, 0x7FFF, 0x2270, 0.0, 0.5),
}


@dataclass(frozen=True)
class _Place:
    bus: int
    address: int
    shunt_ohms: float


class Ina2xxSensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    name : str
        Of the chip.
    bus : object
        ``smbus2.SMBus``, open.
    place : _Place
    """

    def __init__(self, name: str, bus: Any, place: _Place) -> None:
        self._name = name
        self._chip = _CHIPS[name]
        self._bus = bus
        self._place = place
        config = self._check_chip()
        # The INA219 has four ranges, each twice the one before, and stops at its end.
        self._most = self._chip.most << (config >> _RANGE_SHIFT & _RANGE if name == "ina219" else 0)
        shunt = (
            f"the tolerance of its {place.shunt_ohms:g} Ω shunt" if place.shunt_ohms else "nothing: its shunt is inside"
        )
        self.info = SensorInfo(
            name=f"{name}:{place.bus}:{place.address:#04x}",
            rails=(Rail("supply"),),
            boundary="board",
            covers="what is supplied through it",
            quantity="power",
            period_s=0.02,
            uncertainty_percent=self._chip.uncertainty_percent,
            uncertainty=f"data sheet, current gain; on top comes {shunt}",
        )

    def read(self) -> tuple[float, ...]:
        """W, from voltage and current: the chip's own power register needs to be set up and is coarser."""
        chip = self._chip
        register = self._register(_SHUNT)
        signed = register - 0x10000 if register & 0x8000 else register
        unit = chip.shunt_unit / (self._place.shunt_ohms or 1.0)
        if abs(signed) >= self._most:
            raise PowerError(
                f"power sensor {self.info.name}: its current is beyond its range, {self._most * unit:.3g} A",
                "take a smaller shunt" if self._place.shunt_ohms else "take another sensor",
            )
        volts = (self._register(_BUS) >> chip.bus_shift) * chip.bus_unit
        return (volts * signed * unit,)

    def close(self) -> None:
        """Close the bus."""
        self._bus.close()

    def _check_chip(self) -> int:
        """Its configuration."""
        if self._chip.die:
            found = (self._register(_MAKER), self._register(_DIE))
            if (found[0], found[1] & _WITHOUT_REVISION) != (_TEXAS_INSTRUMENTS, self._chip.die):
                raise PowerError(
                    f"power sensor {self._name}: the chip at {self._place.address:#04x} says it is "
                    f"{found[0]:04x}:{found[1]:04x}, expected {_TEXAS_INSTRUMENTS:04x}:{self._chip.die:04x}",
                    f"look with: i2cdetect -y {self._place.bus}",
                )
        config = self._register(_CONFIG)
        if config in (0, 0xFFFF) or config & _MODE != _CONTINUOUS:
            raise PowerError(
                f"power sensor {self._name}: its configuration is {config:#06x}, so it does not measure all the time",
                "switch its supply off and on",
            )
        return config

    def _register(self, register: int) -> int:
        """A register has 16 bits, the highest first; the bus gives the lowest first."""
        word = self._bus.read_word_data(self._place.address, register)
        return int.from_bytes(word.to_bytes(2, "little"), "big")


def open_ina2xx(name: str, argument: str, system: System) -> Ina2xxSensor:
    """Open a chip.

    Parameters
    ----------
    name : {"ina219", "ina226", "ina260"}
    argument : str
        ``BUS:ADDRESS``, or ``BUS:ADDRESS:OHMS`` with another shunt than the usual breakout board's.

    Raises
    ------
    PowerError
        The text is wrong, smbus2 is missing, or the chip does not answer.
    """
    place = _place(name, argument)
    smbus2 = optional_module("smbus2", "smbus2", name)
    try:
        bus = smbus2.SMBus(place.bus)
    except OSError as error:
        raise PowerError(
            f"power sensor {name}: /dev/i2c-{place.bus} cannot be opened ({error.strerror})",
            "turn I²C on, and add your user to the group i2c",
        ) from None
    with contextlib.ExitStack() as on_error:
        on_error.callback(bus.close)
        try:
            sensor = Ina2xxSensor(name, bus, place)
        except OSError as error:
            raise PowerError(
                f"power sensor {name}: nothing answers at {place.address:#04x} of bus {place.bus} ({error.strerror})",
                f"look with: i2cdetect -y {place.bus}",
            ) from None
        on_error.pop_all()
    return sensor


def _place(name: str, argument: str) -> _Place:
    found = re.fullmatch(r"(\d{1,3}):(0x[0-9a-fA-F]{1,2}|\d{1,3})(?::([0-9.e-]+))?", argument, re.ASCII)
    address = int(found[2], 0) if found else 0
    if not found or not 0x08 <= address <= 0x77:
        raise PowerError(f"power sensor {name}:{argument}: expected {name}:BUS:ADDRESS", f"for example: {name}:1:0x40")
    usual = _CHIPS[name].shunt_ohms
    if found[3] and not usual:
        raise PowerError(
            f"power sensor {name}:{argument}: its shunt is in the chip", f"write {name}:{found[1]}:{found[2]}"
        )
    ohms = number(found[3], f"the shunt of {name}:{argument}") if found[3] else usual
    if usual and not 0 < ohms < 1000:
        raise PowerError(
            f"power sensor {name}:{argument}: a shunt of {ohms:g} Ω, expected more than 0",
            "write it in Ω, for example 0.01",
        )
    return _Place(int(found[1]), address, ohms)
