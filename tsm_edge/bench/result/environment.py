"""The machine a model was measured on, at a moment."""

from __future__ import annotations

from dataclasses import dataclass

from tsm_edge.bench.result.latency import Refused
from tsm_edge.machine.clocks import Core, Gpu, Residency
from tsm_edge.machine.heat import Temperature


@dataclass(frozen=True)
class AlarmCount:
    """How often something held the machine back since it started, such as over-current."""

    name: str
    count: int


@dataclass(frozen=True)
class Environment:
    """A machine at a moment. Everything that it does not tell is None or empty.

    Attributes
    ----------
    at_s : float
        Seconds since the first measured frame; negative: before.
    board : str or None
        The device tree's model, the DMI product, or Android's.
    cpu_model, architecture, kernel, libc : str or None
    kind : str or None
        ``raspberry-pi``, ``jetson``, ``android``, ``pc`` or ``other``: whose files and programs it has.
    virtual : bool or None
        Whether it is a virtual machine, as far as that shows.
    boot_id : str or None
        Another one after each start of the machine.
    cores : tuple of Core
    gpus : tuple of Gpu
    firmware_mhz : float or None
        The CPU's clock as a Raspberry Pi's firmware measures it; Linux shows there what it asked for.
    turbo : bool or None
        Whether an x86 may go above its base clock.
    affinity : tuple of int
        Cores this process may use; empty: not known.
    temperatures : tuple of Temperature
    throttled_now, throttled_since_boot : tuple of str
        In words: "under-voltage", "frequency capped", "over-current alarm".
    events : tuple of AlarmCount
        What holds the clock back and is counted.
    power_mode : str or None
        Of a Jetson: nvpmodel's.
    power_modes : tuple of str
        All that it has.
    time_in_state : tuple of Residency
    load_1min : float or None
    busy_s, stolen_s : float or None
        CPU time since the machine started, summed over cores: used by its programs, given to other virtual machines.
    own_s : float or None
        CPU time of the process that looked.
    quota_waits : int or None
        How often the control group had used up its CPU quota.
    memory_total_mb, memory_available_mb : float or None
    swap_used_mb : float or None
    supply_v : float or None
        Where a sensor has it.
    others : tuple of str
        Other runs of tsm-edge or tsm-runner there.
    unknown : tuple of Refused
        Fields that could not be read, and why.
    """

    at_s: float
    board: str | None = None
    cpu_model: str | None = None
    architecture: str | None = None
    kernel: str | None = None
    libc: str | None = None
    kind: str | None = None
    virtual: bool | None = None
    boot_id: str | None = None
    cores: tuple[Core, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    firmware_mhz: float | None = None
    turbo: bool | None = None
    affinity: tuple[int, ...] = ()
    temperatures: tuple[Temperature, ...] = ()
    throttled_now: tuple[str, ...] = ()
    throttled_since_boot: tuple[str, ...] = ()
    events: tuple[AlarmCount, ...] = ()
    power_mode: str | None = None
    power_modes: tuple[str, ...] = ()
    time_in_state: tuple[Residency, ...] = ()
    load_1min: float | None = None
    busy_s: float | None = None
    stolen_s: float | None = None
    own_s: float | None = None
    quota_waits: int | None = None
    memory_total_mb: float | None = None
    memory_available_mb: float | None = None
    swap_used_mb: float | None = None
    supply_v: float | None = None
    others: tuple[str, ...] = ()
    unknown: tuple[Refused, ...] = ()
