"""How fast a core is fed: the level of memory that holds some data, and its bandwidth, from a target card's numbers."""

from __future__ import annotations

from tsm_edge.cards import CpuSpec
from tsm_edge.cards.architecture import architecture

# Sustained vectors a cycle and core from the caches of a core: two loads a cycle from L1, one from L2 (32 bytes on
# Haswell and Zen, 16 on Cortex-A72: Intel 64 Optimization Reference Manual; Arm Cortex-A72 TRM).
_VECTORS_PER_CYCLE = {"L1": 2.0, "L2": 1.0}
# From the cache they share; a core of a server Xeon streamed 3 (7.5 GB/s, beside other guests), desktops do better.
_L3_BYTES_PER_CYCLE = 4.0
# Where a card does not say: the cores of a small board get about this from DRAM, all together.
_BOARD_BYTES_PER_CYCLE = 2.5
# A core of a PC or server gets more, and the others hardly take from it: an EPYC (Zen 5) streamed 8. With this number
# Winograd's algorithm is taken where it was faster on a busy Xeon and on that EPYC (docs/tune.md).
_X86_BYTES_PER_CYCLE = 3.5


def level(cpu: CpuSpec, size: int) -> str:
    """The smallest cache that holds ``size`` bytes: ``L1``, ``L2``, ``L3``, else ``memory``."""
    caches = (("L1", cpu.l1d_kib), ("L2", cpu.l2_kib), ("L3", cpu.l3_kib))
    return next((name for name, kib in caches if size <= kib * 1024), "memory")


def bytes_per_cycle(cpu: CpuSpec, where: str) -> float:
    """Modelled bandwidth of a level for one core, bytes a cycle."""
    if where == "L3":
        return _L3_BYTES_PER_CYCLE
    if where != "memory":
        return _VECTORS_PER_CYCLE[where] * cpu.vector_bytes
    if _is_known(cpu):
        return cpu.memory_gb_s * 1e3 / cpu.clock_mhz
    return _X86_BYTES_PER_CYCLE if _is_x86(cpu) else _BOARD_BYTES_PER_CYCLE


def bytes_per_cycle_together(cpu: CpuSpec, where: str) -> float:
    """The same for all cores at once: caches are their own, the memory of a board is theirs together."""
    shared = where == "memory" and (_is_known(cpu) or not _is_x86(cpu))
    return bytes_per_cycle(cpu, where) * (1 if shared else cpu.cores)


def _is_known(cpu: CpuSpec) -> bool:
    return bool(cpu.memory_gb_s and cpu.clock_mhz)


def _is_x86(cpu: CpuSpec) -> bool:
    return architecture(cpu.triple) == "x86_64"
