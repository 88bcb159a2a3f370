"""What a machine is, as far as that stands still while a model runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tsm_edge.bench.environment.alarms import Way
from tsm_edge.cards.cpuinfo import CPUINFO, Table, arm_core, features_of, processors_of, tables_of
from tsm_edge.machine.files import Files, ask, number_of, text_of, to_cpus
from tsm_edge.power.system import System

# What tells whose files and programs there are.
WAY = ("/proc/device-tree/model", "/etc/nv_tegra_release", CPUINFO)
PATTERNS = (
    *WAY,
    "/sys/class/dmi/id/sys_vendor",
    "/sys/class/dmi/id/product_name",
    "/sys/hypervisor/type",
    "/proc/device-tree/hypervisor/compatible",
    "/proc/self/status",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/random/boot_id",
    "/sys/devices/system/cpu/intel_pstate/no_turbo",
    "/sys/devices/system/cpu/cpufreq/boost",
    "/etc/nvpmodel.conf",
    "/var/lib/nvpmodel/status",
)
# By "CPU implementer" and "CPU part", as util-linux's lscpu names them.
_CORES = {
    (0x41, 0xC07): "Cortex-A7",
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710",
    (0x41, 0xD48): "Cortex-X2",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4D): "Cortex-A715",
    (0x41, 0xD4E): "Cortex-X3",
    (0x4E, 0x003): "Denver 2",
    (0x4E, 0x004): "Carmel",
    (0x51, 0x201): "Kryo",
    (0x51, 0x205): "Kryo",
    (0x51, 0x211): "Kryo",
    (0x51, 0x800): "Kryo 2xx Gold",
    (0x51, 0x801): "Kryo 2xx Silver",
    (0x51, 0x802): "Kryo 3xx Gold",
    (0x51, 0x803): "Kryo 3xx Silver",
    (0x51, 0x804): "Kryo 4xx Gold",
    (0x51, 0x805): "Kryo 4xx Silver",
    (0x53, 0x001): "Exynos M1/M2",
}
# Makers' names that say nothing.
_FILLERS = ("to be filled by o.e.m.", "system product name", "default string", "")


@dataclass(frozen=True)
class Board:
    """The machine. Texts are empty, lists too, where nothing is shown.

    Attributes
    ----------
    name : str
        As its maker calls it.
    way : {"raspberry-pi", "jetson", "android", "pc", "other"}
        Whose files and programs it has.
    cpu : str
        Cores and their names.
    system : str
        Release of the kernel, and of the board's software where it has one.
    virtual : bool
        Whether it is a virtual machine, as far as it shows.
    allowed : tuple of int
        Logical CPUs that the run may use.
    power_mode : str
        Of a Jetson.
    power_modes : tuple of str
        What else it has.
    turbo : bool or None
        Whether an x86 may go above its base clock; None if not shown.
    boot_id : str
        Another one after each start of the machine.
    """

    name: str
    way: Way
    cpu: str
    system: str
    virtual: bool
    allowed: tuple[int, ...]
    power_mode: str
    power_modes: tuple[str, ...]
    turbo: bool | None
    boot_id: str


def read_board(system: System, files: Files) -> Board:
    """Say what a machine is, by files that were read and by programs where files do not say it.

    Raises
    ------
    PowerError
        The way to the machine failed.
    """
    tree = text_of(files, "/proc/device-tree/model")
    tegra = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text_of(files, "/etc/nv_tegra_release"))
    way = way_of(system, files)
    release = text_of(files, "/proc/sys/kernel/osrelease")
    parts = [f"Linux {release}" if release else ""]
    if tegra:
        parts.append(f"L4T {tegra[1]}.{tegra[2]}")
    name = tree or _of_dmi(files)
    if way == "android":
        name = _getprop(system, "ro.product.model") or name
        version = _getprop(system, "ro.build.version.release")
        parts.append(f"Android {version}" if version else "")
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", text_of(files, "/proc/self/status"), re.MULTILINE)
    modes = _power_modes(text_of(files, "/etc/nvpmodel.conf"))
    return Board(
        name=name,
        way=way,
        cpu=_cpu(tables_of(text_of(files, CPUINFO))),
        system=", ".join(filter(None, parts)),
        virtual=_virtual(files),
        allowed=to_cpus(allowed[1]) if allowed else (),
        power_mode=_power_mode(system, files, modes) if way == "jetson" else "",
        power_modes=tuple(_shown_mode(number, name) for number, name in modes.items()) if way == "jetson" else (),
        turbo=_turbo(files),
        boot_id=text_of(files, "/proc/sys/kernel/random/boot_id"),
    )


def way_of(system: System, files: Files) -> Way:
    """Whose files and programs a machine has.

    Raises
    ------
    PowerError
        The way to the machine failed.
    """
    tree, tables = text_of(files, "/proc/device-tree/model"), tables_of(text_of(files, CPUINFO))
    if "Raspberry Pi" in tree:
        return "raspberry-pi"
    if "Jetson" in tree or "/etc/nv_tegra_release" in files:
        return "jetson"
    if system.find("/system/bin/getprop"):
        return "android"
    return "pc" if any("model name" in table for table in tables) and not tree else "other"


def _of_dmi(files: Files) -> str:
    words = [text_of(files, f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    return " ".join(word for word in words if word.lower() not in _FILLERS)


def _getprop(system: System, name: str) -> str:
    return ask(system.run, "getprop", name).strip()[:60]


def _cpu(tables: Sequence[Table]) -> str:
    """``4 × Cortex-A72``."""
    names = Counter(map(_core, processors_of(tables)))
    return " + ".join(f"{count} × {name}" for name, count in names.items())


def _core(fields: Table) -> str:
    found = arm_core(fields)
    if found is None:
        return " ".join(fields.get("model name", "unnamed CPU").split())[:60]
    implementer, part = found
    return _CORES.get((implementer, part), f"Arm core {implementer:#04x}/{part:#05x}")


def _virtual(files: Files) -> bool:
    flags = features_of(tables_of(text_of(files, CPUINFO)))
    shown = ("/sys/hypervisor/type", "/proc/device-tree/hypervisor/compatible")
    return "hypervisor" in flags or any(path in files for path in shown)


def _turbo(files: Files) -> bool | None:
    off = number_of(files, "/sys/devices/system/cpu/intel_pstate/no_turbo")
    if off is not None:
        return off == 0
    boost = number_of(files, "/sys/devices/system/cpu/cpufreq/boost")
    return None if boost is None else boost == 1


def _power_modes(text: str) -> dict[int, str]:
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", text, re.MULTILINE)
    return {int(number): name for number, name in found}


def _power_mode(system: System, files: Files, modes: dict[int, str]) -> str:
    kept = re.search(r"pmode:(\d+)", text_of(files, "/var/lib/nvpmodel/status"))
    if kept:
        return _shown_mode(int(kept[1]), modes.get(int(kept[1]), ""))
    said = ask(system.run, "nvpmodel", "-q")
    name, number = re.search(r"NV Power Mode:\s*(\S+)", said), re.search(r"^(\d+)\s*$", said, re.MULTILINE)
    return _shown_mode(int(number[1]), name[1] if name else "") if number else ""


def _shown_mode(number: int, name: str) -> str:
    return f"{name} (mode {number})".strip()
