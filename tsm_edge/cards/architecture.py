"""Names of processor architectures, and what a processor must have to run an artifact: no tool, no compiler."""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tsm_edge.cards.cpuinfo import cpuinfo, features_of
from tsm_edge.errors import ArtifactError

if TYPE_CHECKING:
    from tsm_edge.cards.target import TargetCard

MOST_THREADS = 64  # TSM_MOST_THREADS of tsm_edge.h

# /proc/cpuinfo of 64-bit Arm -> LLVM feature, of those that matter to the kernels.
ARM_FEATURES = {
    "asimd": "+neon",
    "asimddp": "+dotprod",
    "fphp": "+fullfp16",
    "i8mm": "+i8mm",
    "bf16": "+bf16",
}

# The same of x86-64, beyond its levels.
X86_FEATURES = {"avx512_vnni": "+avx512vnni", "avx_vnni": "+avxvnni"}

# Levels of the x86-64 psABI, and what code for each traps without, as /proc/cpuinfo spells it (LZCNT is abm there).
_X86_V2 = ("sse4_1", "sse4_2", "ssse3", "popcnt", "cx16", "lahf_lm")
_X86_V3 = ("avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe", "xsave")
_X86_V4 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
X86_LEVELS: dict[str, tuple[str, ...]] = {
    "x86-64": (),
    "x86-64-v2": _X86_V2,
    "x86-64-v3": (*_X86_V2, *_X86_V3),
    "x86-64-v4": (*_X86_V2, *_X86_V3, *_X86_V4),
}

# The same of other CPUs that LLVM names.
_ARMV8_2 = ("asimd", "atomics", "fphp")
_ARMV7_FMA, _ARMV8_32_BIT = ("neon", "vfpv4"), ("neon", "vfpv4", "crc32")
_NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": X86_LEVELS,
    "aarch64": dict.fromkeys(
        ("cortex-a55", "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78", "neoverse-n1"), _ARMV8_2
    ),
    # A 32-bit kernel calls an Armv8 core Armv7; what tells them apart is crc32, which every Armv8 core here has.
    "arm": {
        **dict.fromkeys(("cortex-a7", "cortex-a15", "cortex-a17"), _ARMV7_FMA),
        **dict.fromkeys(("cortex-a35", "cortex-a53", "cortex-a55", "cortex-a57"), _ARMV8_32_BIT),
        **dict.fromkeys(("cortex-a72", "cortex-a73", "cortex-a75", "cortex-a76"), _ARMV8_32_BIT),
    },
}
_NEEDS_OF_FEATURES: dict[str, dict[str, str]] = {
    "x86_64": {feature: flag for flag, feature in X86_FEATURES.items()},
    "aarch64": {feature: flag for flag, feature in ARM_FEATURES.items()},
    "arm": {"+neon": "neon", "+vfp4": "vfpv4", "+crc": "crc32"},
}
_ELF_MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64"}  # e_machine of the ELF specification
_32_BIT = {"aarch64": "arm", "x86_64": "i686"}


def architecture(name: str) -> str:
    """The architecture a ``uname -m``, an LLVM triple or ``platform.machine()`` names, in one spelling.

    Returns
    -------
    str
        ``x86_64``, ``aarch64``, ``arm`` (32-bit), ``i686``, or the name as it is.
    """
    first = name.strip().lower().split("-")[0]
    if first in ("x86_64", "amd64", "x64"):
        return "x86_64"
    if first in ("aarch64", "arm64"):
        return "aarch64"
    if first.startswith(("arm", "thumb")):
        return "arm"
    return "i686" if first in ("i386", "i486", "i586", "i686", "x86") else first


def this_architecture() -> str:
    """The architecture of this process (a 64-bit kernel may run 32-bit programs: Raspberry Pi OS)."""
    found = architecture(platform.machine())
    return found if sys.maxsize > 2**32 else _32_BIT.get(found, found)


def elf_architecture(head: bytes) -> str | None:
    """The architecture an ELF file is for, from its first 20 bytes; None if it is not one, or of another machine."""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    order = ">" if head[5] == 2 else "<"
    return _ELF_MACHINES.get(struct.unpack(f"{order}H", head[18:20])[0])


def cpu_flags(root: Path = Path("/")) -> tuple[str, ...]:
    """The features ``/proc/cpuinfo`` lists for the first CPU; empty where there is no such file."""
    return features_of(cpuinfo(root))


def missing_features(target: TargetCard, flags: Collection[str], machine: str = "") -> list[str]:
    """What a target's code needs that a CPU does not have.

    Parameters
    ----------
    target : TargetCard
    flags : collection of str
        The features ``/proc/cpuinfo`` lists; empty: not known.
    machine : str, optional
        What ``uname -m`` says; its Arm version tells something where the features are not known.

    Returns
    -------
    list of str
        As ``/proc/cpuinfo`` spells them; empty where nothing is known.
    """
    family = architecture(target.cpu.triple)
    of_feature = _NEEDS_OF_FEATURES.get(family, {})
    needs = [*_NEEDS.get(family, {}).get(target.cpu.cpu, ())]
    needs += [of_feature[feature] for feature in target.cpu.features if feature in of_feature]
    has = set(flags)
    if family == "arm" and "asimd" in has:  # a 64-bit kernel's names for what it has in 32-bit state, too
        has |= {"neon", "vfpv4"}
    known = bool(has) or machine.startswith(("armv4", "armv5", "armv6"))
    return [flag for flag in dict.fromkeys(needs) if known and flag not in has]


def check_threads(count: int) -> None:
    """Refuse a number of threads a model cannot run with, before the C interface takes its last 32 bits.

    Raises
    ------
    ArtifactError
        It is no whole number from 1 to :data:`MOST_THREADS`.
    """
    if not isinstance(count, int) or not 1 <= count <= MOST_THREADS:
        raise ArtifactError(
            f"threads is {count}, expected 1 to {MOST_THREADS}", "as many as the CPU has cores, at most"
        )


def misfit(name: str, target: TargetCard, family: str, flags: Collection[str], machine: str = "") -> str:
    """Why a machine's CPU cannot run a target's code, as a sentence for people.

    Parameters
    ----------
    name : str
        Of the machine, for the sentence.
    target : TargetCard
    family : str
        Its architecture (:func:`architecture`); empty: not known.
    flags, machine
        As :func:`missing_features` takes them.

    Returns
    -------
    str
        Empty: it can, as far as is known.
    """
    wanted = architecture(target.cpu.triple)
    if family and family != wanted:
        return f"{name} is {family}, the model is compiled for {target.name} ({wanted})"
    if lacking := missing_features(target, flags, machine):
        return f"{name}'s CPU lacks {', '.join(lacking)}, the model is compiled for {target.name} ({target.cpu.cpu})"
    return ""


def misfit_here(target: TargetCard) -> str:
    """:func:`misfit` of this machine."""
    return misfit("this machine", target, this_architecture(), cpu_flags())


def why_not_here(target: TargetCard) -> str:
    """Why this machine cannot load a library made for a target: its CPU, or its kind of C library; empty: it can."""
    here = "glibc" if platform.libc_ver()[0] == "glibc" else "musl"
    of_cpu = misfit_here(target)
    if of_cpu or target.libc.startswith(here):
        return of_cpu
    return f"this machine's C library is {here}, the model is compiled for {target.name} ({target.libc})"


def runs_here(target: TargetCard) -> bool:
    """Whether this machine can load a library made for a target."""
    return not why_not_here(target)
