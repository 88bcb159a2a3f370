"""What a benchmark says of the machine it ran on, and how it prints and writes its figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tsm_edge import __version__
from tsm_edge.cards.cpuinfo import cpuinfo
from tsm_edge.files.atomic import write_atomic

SHARED = "Shared machine: absolute times move with its other load; ratios are from interleaved turns in one process."


def machine_info(distributions: Iterable[str]) -> dict[str, Any]:
    """Describe this machine: CPU, governor, load, and the versions of ``distributions`` that are installed."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "governor": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or "not readable",
        "clock_mhz": _cpuinfo("cpu MHz"),
        "load_average_1min": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {"tsm-edge": f"{__version__} ({_commit()})"} | _versions(distributions),
    }


def physical_cpus(count: int) -> tuple[int, ...]:
    """Return ``count`` usable logical CPUs, on different cores where there are enough.

    Raises
    ------
    ValueError
        Fewer are usable.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < count:
        raise ValueError(f"{count} threads: only {len(usable)} CPUs are usable")
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    first: dict[str, int] = {}
    for cpu in usable:
        first.setdefault(_read(Path(topology.format(cpu))) or str(cpu), cpu)
    cores = list(first.values())
    return tuple((cores + [cpu for cpu in usable if cpu not in cores])[:count])


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned text table: the first column to the left, the others to the right."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(data, indent=1) + "\n").encode())


def describe(machine: dict[str, Any]) -> str:
    """Return one line on the machine."""
    return (
        f"{machine['date'][:10]}, {machine['cpu']}, {len(machine['cpus'])} CPUs, "
        f"governor {machine['governor']}, load average {machine['load_average_1min']:.1f}"
    )


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str:
    """The checkout's commit, with a plus where tracked files differ from it."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "no checkout"
    return done.stdout.strip()


def _cpu_model() -> str:
    """The model name, with family and model number: virtual machines often hide the marketing name."""
    name = _cpuinfo("model name") or _cpuinfo("Model") or platform.machine()
    number = _cpuinfo("model")
    return f"{name} (family {_cpuinfo('cpu family')}, model {number})" if number.isdigit() else name


def _cpuinfo(key: str) -> str:
    return next((table[key] for table in cpuinfo() if key in table), "")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
