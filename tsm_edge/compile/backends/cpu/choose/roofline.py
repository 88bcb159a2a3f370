"""How fast a core is fed: the level of memory that holds some data, and its bandwidth, from a target card's numbers."""

from __future__ import annotations

from tsm_edge.cards import CpuSpec

# Sustained vectors a cycle and core from the caches of a core: two loads a cycle from L1, one from L2 (32 bytes on
# Haswell and Zen, 16 on Cortex-A72: Intel 64 Optimization Reference Manual; Arm Cortex-A72 TRM).
_VECTORS_PER_CYCLE = {"L1": 2.0, "L2": 1.0}
# From the cache they share; a core of a server Xeon streamed 3 (7.5 GB/s, beside other guests), desktops do better.
_L3_BYTES_PER_CYCLE = 4.0
# Where a card does not say: a core of a small board gets about this from DRAM.
_MEMORY_BYTES_PER_CYCLE = 2.5


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
    if cpu.memory_gb_s and cpu.clock_mhz:
        return cpu.memory_gb_s * 1e3 / cpu.clock_mhz
    return _MEMORY_BYTES_PER_CYCLE
