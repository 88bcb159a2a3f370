"""What this machine is: the CPU and C library behind the target card ``native``.

Reads ``/proc`` and ``/sys`` only, so it needs neither the compiler nor any tool. Every function takes the folder that
stands for ``/`` so that it can be tested on other machines' files.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.cards.architecture import ARM_FEATURES, X86_FEATURES, X86_LEVELS
from tsm_edge.cards.cpuinfo import CPUINFO, arm_core, cpuinfo, processors_of
from tsm_edge.cards.target import Ability, CpuSpec
from tsm_edge.errors import CardError


@dataclass(frozen=True)
class _X86Level:
    cpu: str
    lanes: int
    registers: int
    abilities: tuple[Ability, ...]
    dot_product: str = ""  # the flag of /proc/cpuinfo for 8-bit dot products of its vectors


_X86_BASE: tuple[Ability, ...] = ("memory-operands", "prefetch")
_X86_LEVELS = (  # best first
    _X86Level("x86-64-v4", 16, 32, (*_X86_BASE, "broadcast-operands", "broadcast-pairs"), "avx512_vnni"),
    _X86Level("x86-64-v3", 8, 16, (*_X86_BASE, "broadcast-pairs"), "avx_vnni"),
    _X86Level("x86-64-v2", 4, 16, _X86_BASE),
    _X86Level("x86-64", 4, 16, _X86_BASE),
)


# By the names /proc/cpuinfo has for them.
_ARM_ABILITIES: dict[str, Ability] = {"asimddp": "dot-product", "asimdhp": "fp16-arithmetic"}


@dataclass(frozen=True)
class _ArmCore:
    """A core Arm designed: 128-bit FMLA a cycle, whether it runs in order, the caches boards have it with."""

    fma_per_cycle: float
    in_order: bool
    l1d_kib: int
    l2_kib: int
    l2_shared: bool = False


# By "CPU part". FMLA throughput: Arm's Software Optimization Guides of the cores (those of the A57 and A72 count two
# 64-bit halves). Caches: the sizes of the common boards (Pi 3, Pi 4, Jetson, Pi 5); used only where the kernel of a
# board does not report them.
_ARM_CORES = {
    0xD03: _ArmCore(1.0, True, 32, 512, l2_shared=True),  # Cortex-A53
    0xD05: _ArmCore(1.0, True, 32, 128),  # Cortex-A55
    0xD07: _ArmCore(1.0, False, 32, 2048, l2_shared=True),  # Cortex-A57
    0xD08: _ArmCore(1.0, False, 32, 1024, l2_shared=True),  # Cortex-A72
    0xD09: _ArmCore(1.0, False, 32, 1024, l2_shared=True),  # Cortex-A73
    0xD0B: _ArmCore(2.0, False, 64, 512),  # Cortex-A76
    0xD0C: _ArmCore(2.0, False, 64, 1024),  # Neoverse N1
    0xD0D: _ArmCore(2.0, False, 64, 256),  # Cortex-A77
    0xD41: _ArmCore(2.0, False, 64, 256),  # Cortex-A78
    0xD42: _ArmCore(2.0, False, 64, 256),  # Cortex-A78AE
}
_UNKNOWN_CORE = _ArmCore(1.0, False, 32, 256)
_ARM_LTD = 0x41

# What to name where nothing can be detected.
_TARGET_OF = {"x86_64": "x86-64", "aarch64": "raspberry-pi-4"}

# Linking against an old glibc lets the artifact run on newer ones; 2.27 is what TVM's own wheels ask for.
_NEWEST_GLIBC_BASELINE = (2, 27)


def detect_cpu(root: Path = Path("/"), machine: str | None = None, cpus: Collection[int] | None = None) -> CpuSpec:
    """Describe this machine's CPU.

    Parameters
    ----------
    root : Path
        The folder that stands for ``/``.
    machine : str, optional
        The architecture as ``uname -m`` names it; by default this machine's.
    cpus : collection of int, optional
        Numbers of the logical CPUs this process may use; by default from ``os.sched_getaffinity``.

    Returns
    -------
    CpuSpec
        ``cores`` counts physical cores (two hardware threads share one core's multipliers) and is no more than the
        CPU quota of the process's control group. ``memory_gb_s`` is 0: it cannot be read, only measured.

    Raises
    ------
    CardError
        The machine is not Linux on x86-64 or 64-bit Arm, or does not tell what CPU it has.
    """
    machine = machine or _machine()
    usable = sorted(cpus if cpus is not None else _affinity())
    processors = processors_of(cpuinfo(root))
    processors = [table for table in processors if int(table["processor"]) in usable] or processors
    if platform.system() != "Linux" or machine not in ("x86_64", "aarch64"):
        raise CardError(
            f"target 'native': this is {platform.system()} on {machine}, expected Linux on x86_64 or aarch64",
            "name the target instead, for example: tsm-edge compile --target x86-64",
        )
    if not processors:
        file = root / CPUINFO.lstrip("/")
        raise CardError(
            f"target 'native': {file} cannot be read or lists no CPU (is /proc hidden from this process?)",
            f"name the target instead, for example: tsm-edge compile --target {_TARGET_OF[machine]}",
        )
    describe = _x86_cpu if machine == "x86_64" else _arm_cpu
    return describe(root, processors, usable)


def detect_libc(root: Path = Path("/"), libc_ver: tuple[str, str] | None = None) -> str:
    """Name the C library to link against: ``musl``, or ``glibc-`` and this machine's version, at most 2.27.

    Parameters
    ----------
    root : Path
        The folder that stands for ``/``.
    libc_ver : (str, str), optional
        Name and version as ``platform.libc_ver`` gives them, which is the default.

    Raises
    ------
    CardError
        It is neither.
    """
    name, version = libc_ver if libc_ver is not None else platform.libc_ver()
    if name == "glibc":
        major, minor = (int(part) for part in version.split(".")[:2])
        return "glibc-{}.{}".format(*min((major, minor), _NEWEST_GLIBC_BASELINE))
    if name == "musl" or any((root / "lib").glob("ld-musl-*")):
        return "musl"
    raise CardError(
        f"target 'native': the C library is {name or 'unknown'}, expected glibc or musl",
        "name the target instead, for example: tsm-edge compile --target x86-64",
    )


def _x86_cpu(root: Path, processors: list[dict[str, str]], cpus: list[int]) -> CpuSpec:
    flags = set.intersection(*(set(processor.get("flags", "").split()) for processor in processors))
    level = next(level for level in _X86_LEVELS if flags.issuperset(X86_LEVELS[level.cpu]))
    caches = _caches(root, cpus)
    dots = level.dot_product in flags
    dot_product: tuple[Ability, ...] = ("dot-product",) if dots else ()
    return CpuSpec(
        triple="x86_64-unknown-linux-gnu",
        cpu=level.cpu,
        features=(X86_FEATURES[level.dot_product],) if dots else (),
        vector_lanes=level.lanes,
        vector_registers=level.registers,
        # Where /sys is hidden (some containers): what the smallest common x86-64 cores have.
        l1d_kib=caches.get(1, 32),
        l2_kib=caches.get(2, 256),
        l3_kib=caches.get(3, 0),
        cores=_cores(root, cpus),
        clock_mhz=_clock_mhz(root, processors, cpus),
        fma_per_cycle=2.0 if level.lanes > 4 else 1.0,
        abilities=(*level.abilities, *dot_product),
    )


def _arm_cpu(root: Path, processors: list[dict[str, str]], cpus: list[int]) -> CpuSpec:
    features = set.intersection(*(set(processor.get("Features", "").split()) for processor in processors))
    # Threads are kept in step by the slowest core of a big.LITTLE chip, so that is the one described.
    core = min((_arm_core(processor) for processor in processors), key=lambda core: (not core.in_order, core.l2_kib))
    caches = _caches(root, cpus)
    return CpuSpec(
        triple="aarch64-unknown-linux-gnu",
        cpu="generic",
        features=tuple(llvm for name, llvm in ARM_FEATURES.items() if name in features),
        vector_lanes=4,
        vector_registers=32,
        l1d_kib=caches.get(1, core.l1d_kib),
        l2_kib=caches.get(2, core.l2_kib),
        l3_kib=caches.get(3, 0),
        cores=_cores(root, cpus),
        clock_mhz=_clock_mhz(root, processors, cpus),
        fma_per_cycle=core.fma_per_cycle,
        in_order=core.in_order,
        l2_shared=core.l2_shared,
        abilities=("multiply-by-lane", *(ability for flag, ability in _ARM_ABILITIES.items() if flag in features)),
    )


def _arm_core(processor: dict[str, str]) -> _ArmCore:
    implementer, part = arm_core(processor) or (0, 0)
    return _ARM_CORES.get(part, _UNKNOWN_CORE) if implementer == _ARM_LTD else _UNKNOWN_CORE


def _machine() -> str:
    """Return what ``uname -m`` says, or, where a 64-bit kernel runs 32-bit programs (Raspberry Pi OS), just that."""
    name = platform.machine()
    return name if sys.maxsize > 2**32 else f"{name} with 32-bit programs"


def _affinity() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _cores(root: Path, cpus: list[int]) -> int:
    """Count the physical cores among ``cpus``, no more than the control group's quota."""
    folder = root / "sys/devices/system/cpu"
    siblings = {_read(folder / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in cpus}
    quota, _, period = _read(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        return max(1, min(len(siblings), int(quota) // int(period)))
    return max(1, len(siblings))


def _caches(root: Path, cpus: list[int]) -> dict[int, int]:
    """Return level -> KiB of the data caches of the first usable CPU, as far as the kernel reports them."""
    sizes = {}
    for folder in sorted((root / f"sys/devices/system/cpu/cpu{cpus[0]}/cache").glob("index*")):
        size = _kib(_read(folder / "size"))
        level = _read(folder / "level")
        if size and level.isdigit() and _read(folder / "type") in ("Data", "Unified"):
            sizes[int(level)] = size
    return sizes


def _kib(text: str) -> int:
    """``48K`` -> 48, ``2M`` -> 2048; 0 if it is neither."""
    factor = {"K": 1, "M": 1024}.get(text[-1:], 0)
    return int(text[:-1]) * factor if factor and text[:-1].isdigit() else 0


def _clock_mhz(root: Path, processors: list[dict[str, str]], cpus: list[int]) -> int:
    """Return the clock in MHz: the base frequency where known, else the highest; else 0."""
    folder = root / f"sys/devices/system/cpu/cpu{cpus[0]}/cpufreq"
    for name in ("base_frequency", "cpuinfo_max_freq"):
        khz = _read(folder / name)
        if khz.isdigit():
            return round(int(khz) / 1000)
    try:
        return round(float(processors[0]["cpu MHz"]))
    except (KeyError, ValueError):
        return 0


def _read(path: Path) -> str:
    """Return a small file's text without surrounding space; empty if it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""
