"""A machine at a moment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tsm_edge.bench.environment import alarms, board, load
from tsm_edge.bench.environment.alarms import Alarm, Way, ask_alarms, read_alarms
from tsm_edge.bench.environment.board import read_board, way_of
from tsm_edge.bench.environment.load import other_runs, read_load
from tsm_edge.bench.result import AlarmCount, Environment, Refused
from tsm_edge.machine import clocks, heat, nvidia
from tsm_edge.machine.clocks import Gpu, read_cores, read_gpus, read_residency
from tsm_edge.machine.files import Files, ask, number_of, text_of
from tsm_edge.machine.heat import Temperature, read_temperatures
from tsm_edge.machine.nvidia import ask_card
from tsm_edge.power.system import System

_SUPPLY = (
    "/sys/class/hwmon/hwmon*/in[0-9]*_label",
    "/sys/class/hwmon/hwmon*/in[0-9]*_input",
    "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*",
    "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_voltage*_input",
)
_ALL = (
    *board.PATTERNS,
    *clocks.PATTERNS,
    *heat.PATTERNS,
    *nvidia.PATTERNS,
    *alarms.PATTERNS,
    *load.PATTERNS,
    *load.PROCESSES,
    *_SUPPLY,
)
_MOVING = (*board.WAY, *clocks.MOVING, *heat.PATTERNS, *nvidia.PATTERNS, *alarms.PATTERNS, *load.PATTERNS)
# Rails that a board is fed by.
_SUPPLY_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0")


def snapshot(system: System, at_s: float = 0.0) -> Environment:
    """Look at all of a machine. Over a shell: one call for the files, and one for each program it has.

    Parameters
    ----------
    system : System
    at_s : float
        Seconds since the first measured frame.

    Raises
    ------
    PowerError
        The way to the machine failed. What the machine does not have, or does not let us read, is in ``unknown``.
    """
    files = system.gather(_ALL)
    machine = read_board(system, files)
    found = _alarms(system, files, machine.way)
    work = read_load(files)
    gpus, temperatures = _gpus_and_heat(system, files)
    pi = machine.way == "raspberry-pi"
    environment = Environment(
        at_s=at_s,
        board=machine.name or None,
        cpu_model=machine.cpu or None,
        architecture=ask(system.run, "uname", "-m").strip() or None,
        kernel=machine.system or None,
        kind=machine.way,
        virtual=machine.virtual,
        boot_id=machine.boot_id or None,
        cores=read_cores(files),
        gpus=gpus,
        firmware_mhz=_firmware_mhz(system) if pi else None,
        turbo=machine.turbo,
        affinity=machine.allowed,
        temperatures=temperatures,
        throttled_now=_now(found),
        throttled_since_boot=_since_boot(found),
        events=_events(found),
        power_mode=machine.power_mode or None,
        power_modes=machine.power_modes,
        time_in_state=read_residency(files),
        load_1min=work.load_1min,
        busy_s=work.busy_s,
        stolen_s=work.stolen_s,
        own_s=work.own_s,
        quota_waits=work.quota_waits,
        memory_total_mb=work.memory_mb,
        memory_available_mb=work.free_memory_mb,
        swap_used_mb=work.used_swap_mb,
        supply_v=_supply_v(files) or (_pi_supply_v(system) if pi else None),
        # This process and the one that started it: a shell that is called like a command of this project.
        others=other_runs(system, files, {os.getpid(), os.getppid()} if _is_here(system, machine.boot_id) else ()),
    )
    return _with_unknown(environment, found)


def _is_here(system: System, boot_id: str) -> bool:
    """Whether this process runs there: also as the client of a server, which sleeps while frames run."""
    if system.here:
        return True
    try:
        return bool(boot_id) and boot_id == Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return False


def glance(system: System, at_s: float) -> Environment:
    """Look at what moves alone: clocks, temperatures, throttling, load.

    Raises
    ------
    PowerError
        The way to the machine failed.
    """
    files = system.gather(_MOVING)
    way = way_of(system, files)
    found = _alarms(system, files, way)
    work = read_load(files)
    gpus, temperatures = _gpus_and_heat(system, files)
    return Environment(
        at_s=at_s,
        cores=read_cores(files),
        gpus=gpus,
        firmware_mhz=_firmware_mhz(system) if way == "raspberry-pi" else None,
        temperatures=temperatures,
        throttled_now=_now(found),
        throttled_since_boot=_since_boot(found),
        events=_events(found),
        load_1min=work.load_1min,
        busy_s=work.busy_s,
        stolen_s=work.stolen_s,
        own_s=work.own_s,
        quota_waits=work.quota_waits,
        memory_available_mb=work.free_memory_mb,
        swap_used_mb=work.used_swap_mb,
    )


def _alarms(system: System, files: Files, way: Way) -> tuple[Alarm, ...]:
    found = read_alarms(files)
    return (*found, *ask_alarms(system, way, found))


def _now(found: tuple[Alarm, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(alarm.name for alarm in found if alarm.now))


def _since_boot(found: tuple[Alarm, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(alarm.name for alarm in found if alarm.since_boot))


def _events(found: tuple[Alarm, ...]) -> tuple[AlarmCount, ...]:
    """Those that are counted; of a Raspberry Pi's only that there was one is known."""
    return tuple(
        AlarmCount(alarm.name, alarm.since_boot) for alarm in found if alarm.counted and alarm.since_boot is not None
    )


def _with_unknown(environment: Environment, found: tuple[Alarm, ...]) -> Environment:
    return replace(environment, unknown=tuple(_unknown(environment, found)))


def _unknown(environment: Environment, found: tuple[Alarm, ...]) -> Iterator[Refused]:
    virtual = "; a virtual machine does not see its own" if environment.virtual else ""
    if environment.board is None:
        yield Refused("board", "neither device tree nor DMI tables name it")
    if not any(core.current_mhz for core in environment.cores):
        yield Refused("cores", f"cpufreq shows no clock{virtual}")
    if not environment.time_in_state:
        yield Refused("time_in_state", "this kernel does not count the time at each clock")
    if not environment.temperatures:
        yield Refused("temperatures", f"no thermal zone can be read{virtual}")
    if not found:
        asked = {"raspberry-pi": "vcgencmd is not there, or may not be asked", "android": "dumpsys does not tell"}
        yield Refused("throttled_now", asked.get(environment.kind or "", f"no file of this kernel tells{virtual}"))
    if environment.kind == "jetson" and not environment.events:
        yield Refused("events", "this JetPack shows no counter of over-current alarms")
    if environment.supply_v is None:
        yield Refused("supply_v", "no sensor for it")


def _gpus_and_heat(system: System, files: Files) -> tuple[tuple[Gpu, ...], tuple[Temperature, ...]]:
    gpus, temperatures = read_gpus(files), read_temperatures(files)
    card = ask_card(system.run, files)
    if card is None:
        return gpus, temperatures
    return (*gpus, card.clock), (*temperatures, *filter(None, [card.temperature]))


def _firmware_mhz(system: System) -> float | None:
    found = re.search(r"frequency\(\d+\)=(\d+)\s*$", ask(system.run, "vcgencmd", "measure_clock", "arm"))
    return round(int(found[1]) / 1e6, 1) if found and int(found[1]) else None


def _pi_supply_v(system: System) -> float | None:
    """Of a Raspberry Pi 5, whose power chip measures it."""
    found = re.search(r"EXT5V_V\s+volt\(\d+\)=(\d{1,2}\.\d+)V", ask(system.run, "vcgencmd", "pmic_read_adc", "EXT5V_V"))
    return round(float(found[1]), 3) if found else None


def _supply_v(files: Files) -> float | None:
    for path in sorted(files):
        if text_of(files, path) in _SUPPLY_RAILS:
            value = re.sub(r"/in(\d+)_label$", r"/in\1_input", path)
            value = re.sub(r"/rail_name_(\d+)$", r"/in_voltage\1_input", value)
            millivolts = number_of(files, value)
            if value != path and millivolts:
                return round(millivolts / 1e3, 3)
    return None
