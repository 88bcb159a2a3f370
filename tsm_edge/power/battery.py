"""The battery gauge of phones (Android) and laptops."""

from __future__ import annotations

from tsm_edge.errors import PowerError
from tsm_edge.power.files import folder_of, name_of, read_text
from tsm_edge.power.sensor import LOOK, Rail, SensorInfo, number
from tsm_edge.power.system import System

_NAME = "battery"
_FOLDERS = "/sys/class/power_supply/*"
_ROOT = "newer Android lets only root read it: use the sensor odpm, or a meter"
_ODD = "its driver does not keep to the kernel's units: use another sensor or a meter"

# The kernel's rule is µV and µA, but some vendors count in thousandths. A lithium battery of one to four cells tells
# which by its voltage; a current below 10 mA is no machine that is awake, so such a number is in mA.
_LEAST_V, _MOST_V = 2.5, 18.0
_LEAST_A, _MOST_A = 0.01, 20.0


class BatterySensor:
    """See :class:`tsm_edge.power.sensor.Sensor`.

    Parameters
    ----------
    system : System
    folder : str
        Of the battery in ``/sys/class/power_supply``.
    """

    def __init__(self, system: System, folder: str) -> None:
        self._system = system
        self._paths = [f"{folder}/{name}" for name in ("status", "voltage_now", "current_now")]
        self._volts_scale, self._amps_scale = self._scales()
        self.info = SensorInfo(
            name=_NAME,
            rails=(Rail(name_of(folder)),),
            boundary="board",
            covers=f"the whole device with its screen; current read as {_unit(self._amps_scale)}",
            quantity="power",
            period_s=0.25,
            uncertainty_percent=None,
            uncertainty="not stated; many gauges renew their figure only every few seconds",
        )

    def read(self) -> tuple[float, ...]:
        """W out of the battery. The sign of the current is its vendor's choice, so the status decides."""
        volts, amps = self._raw()
        volts, amps = volts * self._volts_scale, amps * self._amps_scale
        if not (_LEAST_V <= volts <= _MOST_V and _LEAST_A <= amps <= _MOST_A):
            raise PowerError(
                f"power sensor {_NAME} reads {volts:.3f} V and {amps:.4f} A, which no battery in use has", _ODD
            )
        return (volts * amps,)

    def close(self) -> None:
        """Nothing is held."""

    def _raw(self) -> tuple[float, float]:
        status, volts, amps = self._system.read(self._paths)
        if status != "Discharging":
            raise PowerError(
                f"power sensor {_NAME}: the battery is {status.lower() or 'in an unknown state'}, "
                "so its current is not what the device draws",
                "unplug the device (adb works over Wi-Fi, too: adb tcpip 5555)",
            )
        return number(volts, self._paths[1]), abs(number(amps, self._paths[2]))

    def _scales(self) -> tuple[float, float]:
        volts, amps = self._raw()
        scale = next((scale for scale in (1e-6, 1e-3) if _LEAST_V <= volts * scale <= _MOST_V), None)
        if scale is None:
            raise PowerError(
                f"power sensor {_NAME}: {self._paths[1]} is {volts:g}, expected µV or mV of a battery", _ODD
            )
        if amps == 0:
            raise PowerError(f"power sensor {_NAME}: {self._paths[2]} is 0 while the battery is discharging", _ODD)
        return scale, 1e-6 if amps * 1e-6 >= _LEAST_A else 1e-3


def open_battery(argument: str, system: System) -> BatterySensor:
    """Find the battery.

    Raises
    ------
    PowerError
        There is none, it is charging, or may not be read.
    """
    for path in system.find(f"{_FOLDERS}/current_now"):
        folder = folder_of(path)
        if read_text(system, f"{folder}/type", _NAME, _ROOT) != "Battery" or not system.find(f"{folder}/voltage_now"):
            continue
        read_text(system, path, _NAME, _ROOT)
        return BatterySensor(system, folder)
    raise PowerError(f"power sensor {_NAME}: no battery in /sys/class/power_supply shows its current", LOOK)


def _unit(scale: float) -> str:
    return "µA" if scale == 1e-6 else "mA, since as µA it would be less than 10 mA"
