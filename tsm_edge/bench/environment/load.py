"""Who else wants the machine: CPU time, load, memory, quotas, and other runs of this project."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tsm_edge.machine.files import Files, text_of
from tsm_edge.power.system import System

PATTERNS = (
    "/proc/loadavg",
    "/proc/stat",
    "/proc/self/stat",
    "/proc/meminfo",
    "/sys/fs/cgroup/cpu.stat",
    "/sys/fs/cgroup/cpu/cpu.stat",
)
PROCESSES = ("/proc/[0-9]*/cmdline",)
_TICK_S = 0.01
_OURS = re.compile(r"(^|/)(tsm-edge|tsm-runner)$|^tsm_edge(\.cli)?$")
# They wait for work; what they do then shows in the CPU time.
_WAITING = ("serve", "tracker")


@dataclass(frozen=True)
class Load:
    """The machine's work so far.

    Attributes
    ----------
    load_1min : float or None
        Processes that run or wait to, mean of a minute.
    busy_s, stolen_s : float or None
        CPU time since the machine started, summed over CPUs: used here, and given to other virtual machines.
    own_s : float or None
        CPU time of the process that looked.
    quota_waits : int or None
        How often the control group had used up its CPU quota.
    memory_mb, free_memory_mb, used_swap_mb : float or None
        MB (10^6 bytes); free: what programs can still get.
    """

    load_1min: float | None
    busy_s: float | None
    stolen_s: float | None
    own_s: float | None
    quota_waits: int | None
    memory_mb: float | None
    free_memory_mb: float | None
    used_swap_mb: float | None


def read_load(files: Files) -> Load:
    """What is not shown is None."""
    busy, stolen = _cpu_time(text_of(files, "/proc/stat"))
    memory = _memory(text_of(files, "/proc/meminfo"))
    total, left = memory.get("SwapTotal"), memory.get("SwapFree")
    average = re.match(r"(\d+\.\d+)\s", text_of(files, "/proc/loadavg"))
    quota = re.search(r"^nr_throttled (\d+)$", _first(files, "/sys/fs/cgroup/cpu"), re.MULTILINE)
    return Load(
        load_1min=float(average[1]) if average else None,
        busy_s=busy,
        stolen_s=stolen,
        own_s=_own(text_of(files, "/proc/self/stat")),
        quota_waits=int(quota[1]) if quota else None,
        memory_mb=memory.get("MemTotal"),
        free_memory_mb=memory.get("MemAvailable"),
        used_swap_mb=None if total is None or left is None else round(total - left, 1),
    )


def other_runs(system: System, files: Files, own: Collection[int]) -> tuple[str, ...]:
    """Processes of this project that do something, without those whose numbers are in ``own``, and their children.

    Raises
    ------
    PowerError
        The way to the machine failed.
    """
    found: dict[int, str] = {}
    for path, text in files.items():
        match = re.fullmatch(r"/proc/(\d+)/cmdline", path)
        if match is None or int(match[1]) in own:
            continue
        words = [word for word in text.split("\0") if word]
        start = next((index for index, word in enumerate(words[:4]) if _OURS.search(word)), None)
        if start is not None and not set(words[start + 1 : start + 2]) & set(_WAITING):
            found[int(match[1])] = _shown(words[start:])
    parents = _parents(system, list(found)) if own else {}
    return tuple(f"{words} (process {pid})" for pid, words in sorted(found.items()) if parents.get(pid) not in own)


def _parents(system: System, pids: Sequence[int]) -> dict[int, int]:
    """proc(5): the parent is the fourth field."""
    files = system.gather([f"/proc/{pid}/stat" for pid in pids]) if pids else {}
    fields = {int(path.split("/")[2]): text.rpartition(")")[2].split() for path, text in files.items()}
    return {pid: int(words[1]) for pid, words in fields.items() if len(words) > 1 and words[1].isdigit()}


def _shown(words: list[str]) -> str:
    """The command alone: what follows can be a password in a URL."""
    return " ".join([words[0].rpartition("/")[2], *words[1:2]])[:60]


def _cpu_time(text: str) -> tuple[float | None, float | None]:
    """proc(5): user, nice (guests are in them), system, idle, iowait, irq, softirq, steal."""
    found = re.match(r"cpu\s+((?:\d+\s*){8,})", text)
    if found is None:
        return None, None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, found[1].split()[:8])
    return round((user + nice + system + irq + softirq) * _TICK_S, 2), round(steal * _TICK_S, 2)


def _own(text: str) -> float | None:
    """proc(5): utime and stime are the 14th and 15th field; the second, the name, may hold spaces and brackets."""
    fields = text.rpartition(")")[2].split()
    numbers = fields[11:13]
    return round(sum(map(int, numbers)) * _TICK_S, 2) if len(numbers) == 2 and all(map(str.isdigit, numbers)) else None


def _memory(text: str) -> dict[str, float]:
    found = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: round(int(kib) * 1024 / 1e6, 1) for name, kib in found}


def _first(files: Files, start: str) -> str:
    return next((text for path, text in files.items() if path.startswith(start) and path.endswith("cpu.stat")), "")
