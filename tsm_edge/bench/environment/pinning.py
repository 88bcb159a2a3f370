"""How to hold the clocks of a machine still while it is measured. Nothing here runs: people do."""

from __future__ import annotations

import re

from tsm_edge.bench.result import Environment

_GOVERNORS = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
_NO_TURBO = "/sys/devices/system/cpu/intel_pstate/no_turbo"
_BOOST = "/sys/devices/system/cpu/cpufreq/boost"


def fix_clock_commands(environment: Environment) -> list[str]:
    """The commands that pin the clocks of a machine, and after them those that undo it; each on the machine itself.

    Lines that start with ``#`` are for people.
    """
    if environment.kind == "jetson":
        return _jetson(environment)
    if environment.kind == "android":
        return _android()
    if not any(core.governor for core in environment.cores):
        why = "a virtual machine cannot hold its clock" if environment.virtual else "this kernel shows no cpufreq"
        return [f"# {why}: hold it on the host" if environment.virtual else f"# {why}: nothing to set"]
    return _linux(environment)


def _linux(environment: Environment) -> list[str]:
    before = sorted({core.governor for core in environment.cores if core.governor})
    fix, undo = [f"echo performance | sudo tee {_GOVERNORS}"], [f"echo {before[0]} | sudo tee {_GOVERNORS}"]
    if environment.turbo:
        intel = "Intel" in (environment.cpu_model or "")
        path, off, on = (_NO_TURBO, 1, 0) if intel else (_BOOST, 0, 1)
        fix.append(f"echo {off} | sudo tee {path}")
        undo.append(f"echo {on} | sudo tee {path}")
    if environment.kind == "raspberry-pi":
        fix.append("# and cool it: from 80 °C on a Raspberry Pi lowers its clock whatever the governor says")
    return [*fix, "# afterwards", *undo]


def _jetson(environment: Environment) -> list[str]:
    best = _fastest_mode(environment)
    commands = []
    if best is not None and best != environment.power_mode:
        commands.append(f"sudo nvpmodel -m {_number(best)}   # {best}; it may ask to restart")
    commands += ["sudo jetson_clocks --store", "sudo jetson_clocks", "# afterwards", "sudo jetson_clocks --restore"]
    if commands[0].startswith("sudo nvpmodel") and environment.power_mode:
        commands.append(f"sudo nvpmodel -m {_number(environment.power_mode)}   # {environment.power_mode}")
    return commands


def _fastest_mode(environment: Environment) -> str | None:
    """The mode without limits. It is not always number 0, and on an Orin Nano there is MAXN_SUPER beside others."""
    modes = [mode for mode in environment.power_modes if mode.startswith("MAXN")]
    return max(modes, key=lambda mode: (mode.startswith("MAXN_SUPER"), -_number(mode)), default=None)


def _number(mode: str) -> int:
    found = re.search(r"mode (\d+)\)?$", mode)
    return int(found[1]) if found else 0


def _android() -> list[str]:
    return [
        "adb shell cmd power set-fixed-performance-mode-enabled true   # Android 11 and later, where the maker has it",
        "# with root: adb shell su -c 'for p in /sys/devices/system/cpu/cpufreq/policy*;"
        " do echo performance > $p/scaling_governor; done'",
        "# afterwards",
        "adb shell cmd power set-fixed-performance-mode-enabled false",
    ]
