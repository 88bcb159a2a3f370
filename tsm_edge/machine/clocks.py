"""The clocks of CPU cores and of GPUs, as cpufreq and devfreq show them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tsm_edge.machine.files import Files, folders, number_of, shown_cpus, text_of, to_cpus, to_number

_POLICY = "/sys/devices/system/cpu/cpufreq/policy"
# Adreno's older drivers do not show it below /sys/class/devfreq.
_DEVFREQ = ("/sys/class/devfreq/*", "/sys/class/kgsl/kgsl-3d0/devfreq")
# What moves while a model runs.
MOVING = (
    "/sys/devices/system/cpu/present",
    "/sys/devices/system/cpu/online",
    f"{_POLICY}*/affected_cpus",
    f"{_POLICY}*/scaling_governor",
    f"{_POLICY}*/scaling_*_freq",
    f"{_POLICY}*/cpuinfo_max_freq",
    *(f"{folder}/*_freq" for folder in _DEVFREQ),
    *(f"{folder}/governor" for folder in _DEVFREQ),
    *(f"{folder}/available_frequencies" for folder in _DEVFREQ),
)
PATTERNS = (*MOVING, f"{_POLICY}*/stats/time_in_state")
# Jetson Nano and Orin (JetPack 6), TX2, Xavier, Orin (JetPack 5); Adreno, Mali. Beside them in devfreq are memory
# buses, video codecs and disks.
_GPU = re.compile(r"gpu|gp10b|gv11b|ga10b|kgsl|mali|adreno|\bg3d\b", re.IGNORECASE)
_TICK_S = 0.01  # USER_HZ, which time_in_state counts in
_KHZ, _HZ = 1e-3, 1e-6


@dataclass(frozen=True)
class Core:
    """One CPU core.

    Attributes
    ----------
    number : int
    online : bool
    governor : str or None
    min_mhz, current_mhz, max_mhz : float or None
        What the governor may choose from, and what it runs at now.
    limit_mhz : float or None
        What the hardware can at most.
    """

    number: int
    online: bool
    governor: str | None = None
    min_mhz: float | None = None
    current_mhz: float | None = None
    max_mhz: float | None = None
    limit_mhz: float | None = None


@dataclass(frozen=True)
class Gpu:
    """The clock of a GPU, as of a :class:`Core`."""

    name: str
    governor: str | None = None
    min_mhz: float | None = None
    current_mhz: float | None = None
    max_mhz: float | None = None
    limit_mhz: float | None = None


@dataclass(frozen=True)
class Residency:
    """How long a core, or all of one clock, ran at a frequency since it started (``time_in_state``)."""

    cores: str
    clock_mhz: float
    time_s: float


def read_cores(files: Files) -> tuple[Core, ...]:
    """All logical CPUs that are there; those without a governor with their number alone."""
    present = to_cpus(text_of(files, "/sys/devices/system/cpu/present"))
    online = to_cpus(text_of(files, "/sys/devices/system/cpu/online"))
    cores = {number: Core(number, number in online) for number in (*present, *online)}
    for folder in _policies(files):
        cores.update({core.number: core for core in _cores_of(files, folder)})
    return tuple(cores[number] for number in sorted(cores))


def read_gpus(files: Files) -> tuple[Gpu, ...]:
    """Each with its clock."""
    found = folders(files, r"/sys/class/(devfreq/[^/]+|kgsl/kgsl-3d0/devfreq)/cur_freq")
    gpus = [folder for folder in found if _GPU.search(folder)]
    shown = [folder for folder in gpus if folder.startswith("/sys/class/devfreq/")]
    return tuple(_gpu(files, folder) for folder in shown or gpus)


def read_residency(files: Files) -> tuple[Residency, ...]:
    """How long each cluster ran at each of its clocks, where that is counted."""
    found = []
    for folder in _policies(files):
        cores = shown_cpus(to_cpus(text_of(files, f"{folder}/affected_cpus")))
        table = text_of(files, f"{folder}/stats/time_in_state")
        for khz, ticks in re.findall(r"^(\d{3,9})\s+(\d+)\s*$", table, re.MULTILINE | re.ASCII):
            found.append(Residency(cores, int(khz) * _KHZ, round(int(ticks) * _TICK_S, 2)))
    return tuple(found)


def _policies(files: Files) -> list[str]:
    return folders(files, rf"{_POLICY}\d+/affected_cpus")


def _cores_of(files: Files, folder: str) -> Iterator[Core]:
    """The cores that share a clock."""
    for number in to_cpus(text_of(files, f"{folder}/affected_cpus")):
        yield Core(
            number=number,
            online=True,
            governor=text_of(files, f"{folder}/scaling_governor") or None,
            min_mhz=_mhz(files, f"{folder}/scaling_min_freq", _KHZ),
            current_mhz=_mhz(files, f"{folder}/scaling_cur_freq", _KHZ),
            max_mhz=_mhz(files, f"{folder}/scaling_max_freq", _KHZ),
            limit_mhz=_mhz(files, f"{folder}/cpuinfo_max_freq", _KHZ),
        )


def _gpu(files: Files, folder: str) -> Gpu:
    steps = [to_number(part) for part in text_of(files, f"{folder}/available_frequencies").split()]
    most = max((step for step in steps if step), default=None)
    return Gpu(
        name="kgsl-3d0" if "/kgsl/" in folder else folder.rpartition("/")[2],
        governor=text_of(files, f"{folder}/governor") or None,
        min_mhz=_mhz(files, f"{folder}/min_freq", _HZ),
        current_mhz=_mhz(files, f"{folder}/cur_freq", _HZ),
        max_mhz=_mhz(files, f"{folder}/max_freq", _HZ),
        limit_mhz=None if most is None else round(most * _HZ, 3),
    )


def _mhz(files: Files, path: str, unit: float) -> float | None:
    value = number_of(files, path)
    return None if value is None or value <= 0 else round(value * unit, 3)
