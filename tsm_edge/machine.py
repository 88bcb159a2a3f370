"""Names of processor architectures, and what a processor must have to run an artifact: no tool, no compiler."""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Collection
from pathlib import Path

# What each x86-64 level adds that a kernel would trap on (x86-64 psABI), as /proc/cpuinfo spells it.
_LEVEL_FLAGS = {
    "x86-64-v2": ("sse4_1", "sse4_2", "ssse3", "popcnt"),
    "x86-64-v3": ("avx2", "fma", "bmi2", "f16c"),
    "x86-64-v4": ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"),
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
    try:
        text = (root / "proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        return ()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return tuple(line.partition(":")[2].split())


def missing_features(cpu: str, flags: Collection[str]) -> list[str]:
    """What an LLVM CPU name asks for that is not among ``flags``; empty when nothing is known of either."""
    return [flag for flag in _LEVEL_FLAGS.get(cpu, ()) if flags and flag not in flags]
