"""The machine behind a connection as a target card, from the files and programs it shows."""

from __future__ import annotations

import dataclasses

from tsm_edge.bench.environment import snapshot
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.cpuinfo import CPUINFO
from tsm_edge.cards.detect import detect_cpu, detect_libc
from tsm_edge.errors import CardError, TsmEdgeError
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.power.system import System

_FILES = (
    CPUINFO,
    "/sys/devices/system/cpu/cpu*/topology/thread_siblings_list",
    "/sys/devices/system/cpu/cpu*/cache/index*/level",
    "/sys/devices/system/cpu/cpu*/cache/index*/size",
    "/sys/devices/system/cpu/cpu*/cache/index*/type",
    "/sys/devices/system/cpu/cpu*/cpufreq/base_frequency",
    "/sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq",
    "/sys/fs/cgroup/cpu.max",
)
# Cards whose triple is that of a plain Linux of the architecture.
_LIKE = {"x86_64": "x86-64", "aarch64": "raspberry-pi-4"}
_NAME_IT = "name the target: --target T (the targets: tsm-edge targets)"


def detected_target(system: System, machine: str | None) -> TargetCard:
    """Describe a machine as ``native`` describes this one.

    Parameters
    ----------
    system : System
    machine : str or None
        Architecture of the process that serves.

    Raises
    ------
    CardError
        It is not Linux on x86-64 or 64-bit Arm, or does not tell what CPU it has.
    """
    if machine not in _LIKE:
        raise CardError(f"the device is {machine or 'of unknown architecture'}, expected x86_64 or aarch64", _NAME_IT)
    files = system.gather(_FILES)
    affinity = snapshot(system, 0.0).affinity
    with scratch_folder() as root:
        for path, text in files.items():
            copy = root / path.lstrip("/")
            if root not in copy.resolve().parents:  # a device that names /sys/../..
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, "utf-8")
        try:
            cpu = detect_cpu(root, machine, affinity or range(4096))
            libc = detect_libc(root, _libc(system))
        except CardError as error:
            raise CardError(error.problem.replace("target 'native': ", "the device: "), _NAME_IT) from None
    return dataclasses.replace(
        load_target(_LIKE[machine]),
        name="detected",
        description="The device, detected over the connection",
        source=f"the device's {CPUINFO}, /sys/devices/system/cpu and getconf",
        cpu=cpu,
        libc=libc,
        power_sensors=(),
    )


def _libc(system: System) -> tuple[str, str]:
    """Name and version, as ``platform.libc_ver`` gives them."""
    try:
        name, _, version = system.run("getconf", "GNU_LIBC_VERSION").strip().partition(" ")
    except (OSError, TsmEdgeError):
        name, version = "", ""
    if name == "glibc" and all(part.isdigit() for part in version.split(".")) and version.count(".") >= 1:
        return name, version
    return ("musl", "") if system.find("/lib/ld-musl-*") else ("", "")
