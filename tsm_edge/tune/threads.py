"""How many threads a step is fastest with on a board, and on which cores: raced in turns, as kernels are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.paired import Ratio, paired_ratio
from tsm_edge.cards.architecture import MOST_THREADS
from tsm_edge.cards.cpuinfo import CPUINFO, arm_core, processors_of, tables_of
from tsm_edge.cards.threads import Threads
from tsm_edge.machine.clocks import read_cores
from tsm_edge.machine.files import Files, text_of, to_cpus
from tsm_edge.power.system import System
from tsm_edge.tune.race import Pace, Runner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsm_edge.tune.fleet import Fleet

_STATUS = "/proc/self/status"
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
_PATTERNS = (
    CPUINFO,
    _STATUS,
    "/sys/devices/system/cpu/present",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/cpufreq/policy*/affected_cpus",
    "/sys/devices/system/cpu/cpufreq/policy*/cpuinfo_max_freq",
    _SIBLINGS.format("*"),
)
ONE = Threads(1)


@dataclass(frozen=True)
class ThreadFinish:
    """The best threads of a race.

    Attributes
    ----------
    threads : Threads
    ratio : Ratio
        Its time over that of one thread.
    step_us : float
    rounds : int
    """

    threads: Threads
    ratio: Ratio
    step_us: float
    rounds: int


def ways_of(system: System) -> tuple[Threads, ...]:
    """What may be raced on a machine: one thread first, then more of them, on all cores and on those of a kind.

    Raises
    ------
    PowerError
        The way to the machine failed.
    """
    files = system.gather(_PATTERNS)
    allowed = _allowed(files)
    ways = [ONE, *map(Threads, _counts(len(allowed)))]
    kinds = list(_kinds(files, allowed).values())
    if len(kinds) > 1:
        ways += [Threads(count, kind) for kind in kinds for count in (1, *_counts(len(kind)))]
    whole = _one_of_each(files, allowed)
    if len(kinds) == 1 and 1 < len(whole) < len(allowed):
        ways.append(Threads(min(len(whole), MOST_THREADS), whole))
    return tuple(dict.fromkeys(ways))


def fastest_threads(
    fleet: Fleet,
    artifact: Artifact,
    frames: NDArray[np.float32],
    ways: Sequence[Threads],
    pace: Pace,
    stop: Callable[[], bool],
    program: int = 1,
) -> ThreadFinish | None:
    """Race a program of a library with different threads, the first of ``ways`` being one thread.

    Of ways that the noise does not tell apart the one with the fewest threads is taken: the others' cores are free for
    other work.

    Returns
    -------
    ThreadFinish or None
        None: one thread is the best.
    """
    times: dict[Threads, list[NDArray[np.float64]]] = {way: [] for way in ways}
    count = pace.warm + pace.block
    rounds = 0
    while rounds < pace.rounds and not (rounds >= pace.fewest and stop()):
        turn = rounds % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            timings = fleet.run_on_any(artifact, lambda runner: _measured(runner, program, frames, count), way)
            times[way].append(timings[pace.warm :])
        rounds += 1
    spent = {way: np.array(samples) for way, samples in times.items()}
    best = min(ways, key=lambda way: float(np.median(spent[way])))
    chosen = min(
        (way for way in ways if paired_ratio(spent[best], spent[way]).high >= 1.0),
        key=lambda way: (way.count, bool(way.cores), float(np.median(spent[way]))),
    )
    if chosen == ways[0]:
        return None
    return ThreadFinish(chosen, paired_ratio(spent[chosen], spent[ways[0]]), float(np.median(spent[chosen])), rounds)


def _measured(runner: Runner, program: int, frames: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Microseconds of steps of a program."""
    runner.select(program)
    return runner.measure(frames, 0, count).duration_ns.astype(np.float64) / 1e3


def _allowed(files: Files) -> tuple[int, ...]:
    """The CPUs that a process there may use: those of its control group that are online."""
    status = text_of(files, _STATUS)
    listed = next((line for line in status.splitlines() if line.startswith("Cpus_allowed_list:")), "")
    online = {core.number for core in read_cores(files) if core.online}
    allowed = to_cpus(listed.partition(":")[2]) or tuple(sorted(online))
    return tuple(cpu for cpu in allowed if not online or cpu in online)


def _counts(most: int) -> list[int]:
    """Powers of two, and all."""
    powers = [1 << shift for shift in range(1, 7) if 1 << shift < most]
    return [*powers, min(most, MOST_THREADS)] if most > 1 else []


def _kinds(files: Files, allowed: Sequence[int]) -> Mapping[object, tuple[int, ...]]:
    """CPUs by their kind (clusters of a phone, a TX2's two): the design of the core and its highest clock."""
    clocks = {core.number: core.limit_mhz for core in read_cores(files)}
    designs = {int(table["processor"]): arm_core(table) for table in processors_of(tables_of(text_of(files, CPUINFO)))}
    kinds: dict[object, tuple[int, ...]] = {}
    for cpu in sorted(allowed, key=lambda number: (-(clocks.get(number) or 0.0), number)):
        kind = designs.get(cpu), clocks.get(cpu)
        kinds[kind] = (*kinds.get(kind, ()), cpu)
    return kinds


def _one_of_each(files: Files, allowed: Sequence[int]) -> tuple[int, ...]:
    """A logical CPU of every physical core."""
    cores: dict[object, int] = {}
    for cpu in allowed:
        siblings = to_cpus(text_of(files, _SIBLINGS.format(cpu))) or (cpu,)
        cores.setdefault(siblings, cpu)
    return tuple(sorted(cores.values()))
