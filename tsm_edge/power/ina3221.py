"""The INA3221 chips on NVIDIA Jetson modules, whichever driver JetPack has for them."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.errors import PowerError
from tsm_edge.power.files import folder_of, read_text
from tsm_edge.power.sensor import Rail, SensorInfo
from tsm_edge.power.system import System
from tsm_edge.power.volts_amps import FileSensor, RailFiles

_NAME = "ina3221"
_JETPACK_4 = "/sys/bus/i2c/drivers/ina3221x/*/iio:device*"
_JETPACK_5 = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"

# Rails that hold all others of their module. Which channel a rail is on differs between boards: its name counts.
_TOTALS = ("VDD_IN", "POM_5V_IN")
# Fed from another rail of the module, which has it in its own figure (Jetson AGX Orin: VIN_SYS_5V0).
_PARTS = ("VDDQ_VDD2_1V8AO",)
_NOT_CONNECTED = ("", "NC", "-")


@dataclass(frozen=True)
class _Channel:
    name: str
    files: RailFiles


def open_ina3221(argument: str, system: System) -> FileSensor:
    """Find the chips, by the driver of JetPack 4 or that of JetPack 5 and 6.

    Raises
    ------
    PowerError
        There are none, or they may not be read.
    """
    channels = _channels_of_jetpack_4(system) or _channels_of_jetpack_5(system)
    if not channels:
        raise PowerError(f"power sensor {_NAME}: no INA3221 chip here", "only Jetson boards have one (a Nano 2GB none)")
    names = tuple(channel.name for channel in channels)
    total = next((name for name in _TOTALS if name in names), "")
    rails = tuple(Rail(name, name == total if total else name not in _PARTS) for name in names)
    info = SensorInfo(
        name=_NAME,
        rails=rails,
        boundary="module",
        covers=f"the module's supply, {total}" if total else "the module's rails added up; it measures no total",
        quantity="power",
        period_s=0.05,
        uncertainty_percent=None,
        uncertainty="not stated for the board; the chip's offset and its shunts' tolerance weigh most at low power",
    )
    return FileSensor(system, info, tuple(channel.files for channel in channels))


def _channels_of_jetpack_4(system: System) -> list[_Channel]:
    channels = []
    for path in system.find(f"{_JETPACK_4}/rail_name_*"):
        index = path.rpartition("_")[2]
        power = f"{folder_of(path)}/in_power{index}_input"
        channels.append(_Channel(read_text(system, path, _NAME), RailFiles((power,), 1e-3)))
    return [channel for channel in channels if channel.name not in _NOT_CONNECTED]


def _channels_of_jetpack_5(system: System) -> list[_Channel]:
    """The kernel's driver gives no power. Its inputs 4 to 7 are voltages across the shunts, and their sum."""
    channels = []
    for path in system.find(f"{_JETPACK_5}/in[1-3]_label"):
        folder, index = folder_of(path), path.rpartition("/in")[2][0]
        volts, amps = f"{folder}/in{index}_input", f"{folder}/curr{index}_input"
        if system.find(amps) and _enabled(system, f"{folder}/in{index}_enable"):
            channels.append(_Channel(read_text(system, path, _NAME), RailFiles((volts, amps), 1e-6)))
    return [channel for channel in channels if channel.name not in _NOT_CONNECTED]


def _enabled(system: System, path: str) -> bool:
    return not system.find(path) or read_text(system, path, _NAME) != "0"
