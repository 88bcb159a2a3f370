"""What says that a machine held itself back: firmware bits, over-current counters, cooling, thermal interrupts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tsm_edge.machine.files import Files, ask, folders, number_of, text_of
from tsm_edge.power.system import System

PATTERNS = (
    # Of Raspberry Pi OS's kernel; elsewhere vcgencmd is asked.
    "/sys/devices/platform/soc/soc:firmware/get_throttled",
    "/sys/devices/platform/soc*/*firmware/get_throttled",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/oc*_event_cnt",
    "/sys/class/hwmon/hwmon*/curr*_alarm",
    "/sys/class/hwmon/hwmon*/in0_lcrit_alarm",
    "/sys/class/thermal/cooling_device*/type",
    "/sys/class/thermal/cooling_device*/cur_state",
    "/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",
)
# Of vcgencmd get_throttled: now; 16 higher: since the machine started.
_PI_BITS = ((0, "under-voltage"), (1, "frequency capped"), (2, "throttled"), (3, "soft temperature limit"))
_PI_SINCE_BOOT = 16
# Orin's platform guide: Power and Performance, over-current throttling.
_OVER_CURRENT = {"oc1": "under voltage (OC1)", "oc2": "average over-current (OC2)", "oc3": "over-current (OC3)"}
_COOLS_A_PROCESSOR = re.compile(r"cpufreq|devfreq|^processor|gpu|-balanced$|cpu.*-(alert|hot)", re.IGNORECASE)
_ANDROID_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")

Way = Literal["raspberry-pi", "jetson", "android", "pc", "other"]


@dataclass(frozen=True)
class Alarm:
    """One reason to hold back.

    Attributes
    ----------
    name : str
        In words.
    source : str
        Where it is read.
    now : bool or None
        Whether it holds; None where only events are counted.
    since_boot : int or None
        Events since the machine started; None where that is not kept.
    counted : bool
        Whether it is their number; otherwise 1 stands for any.
    """

    name: str
    source: str
    now: bool | None
    since_boot: int | None = None
    counted: bool = False


def read_alarms(files: Files) -> tuple[Alarm, ...]:
    """All that files say."""
    return (*_pi_files(files), *_over_current(files), *_ina3221(files), *_cooling(files), *_thermal_interrupts(files))


def ask_alarms(system: System, way: Way, found: tuple[Alarm, ...]) -> tuple[Alarm, ...]:
    """What only a program of the machine knows, beside the alarms that were found in files.

    Raises
    ------
    PowerError
        The way to the machine failed.
    """
    if way == "raspberry-pi" and not any(alarm.source.endswith("get_throttled") for alarm in found):
        return _pi_bits(ask(system.run, "vcgencmd", "get_throttled"), "vcgencmd get_throttled")
    if way == "android":
        return _android(ask(system.run, "dumpsys", "thermalservice"))
    return ()


def _pi_files(files: Files) -> tuple[Alarm, ...]:
    bits = next((f"0x{text_of(files, path)}" for path in files if path.endswith("/get_throttled")), "")
    found = _pi_bits(bits, "firmware, get_throttled")
    if found:
        return found
    volts = [
        folder for folder in folders(files, r".*/in0_lcrit_alarm") if text_of(files, f"{folder}/name") == "rpi_volt"
    ]
    return tuple(
        Alarm("under-voltage", "hwmon rpi_volt", number_of(files, f"{folder}/in0_lcrit_alarm") == 1) for folder in volts
    )


def _pi_bits(text: str, source: str) -> tuple[Alarm, ...]:
    found = re.search(r"0x([0-9a-fA-F]{1,8})\s*$", text)
    if found is None:
        return ()
    bits = int(found[1], 16)
    return tuple(
        Alarm(name, source, bool(bits >> bit & 1), bits >> (bit + _PI_SINCE_BOOT) & 1) for bit, name in _PI_BITS
    )


def _over_current(files: Files) -> Iterator[Alarm]:
    for path in sorted(files):
        found = re.fullmatch(r"(.*)/(oc\d)_event_cnt", path)
        count = number_of(files, path)
        if found and count is not None and text_of(files, f"{found[1]}/name") == "soctherm_oc":
            yield Alarm(
                _OVER_CURRENT.get(found[2], f"alarm {found[2]}"), "hwmon soctherm_oc", None, int(count), counted=True
            )


def _ina3221(files: Files) -> Iterator[Alarm]:
    for path in sorted(files):
        found = re.fullmatch(r"(.*)/(curr\d+_(?:crit|max)_alarm)", path)
        if found and text_of(files, f"{found[1]}/name") == "ina3221":
            yield Alarm("over-current", f"hwmon ina3221 {found[2]}", number_of(files, path) == 1)


def _cooling(files: Files) -> Iterator[Alarm]:
    for folder in folders(files, r"/sys/class/thermal/cooling_device\d+/cur_state"):
        kind, state = text_of(files, f"{folder}/type"), number_of(files, f"{folder}/cur_state")
        if state is not None and _COOLS_A_PROCESSOR.search(kind):
            yield Alarm(f"cooled by {kind}", "thermal framework", state > 0)


def _thermal_interrupts(files: Files) -> Iterator[Alarm]:
    for name, what in (("core", "cores too hot"), ("package", "package too hot")):
        ending = f"/thermal_throttle/{name}_throttle_count"
        counts = [number_of(files, path) or 0 for path in files if path.endswith(ending)]
        if counts:
            # Every CPU of a package shows its package's count.
            count = sum(counts) if name == "core" else max(counts)
            yield Alarm(what, "thermal_throttle", None, int(count), counted=True)


def _android(text: str) -> tuple[Alarm, ...]:
    found = re.search(r"^\s*Thermal Status:\s*(\d)", text, re.MULTILINE)
    if found is None:
        return ()
    status = int(found[1])
    word = _ANDROID_STATUS[status] if status < len(_ANDROID_STATUS) else str(status)
    return (Alarm(f"thermal status {word}", "dumpsys thermalservice", status > 0),)
