"""Several machines: those that are different ones at the same time, several places of one machine in turn.

Two places are one machine where both have the same boot's number (``/proc/sys/kernel/random/boot_id``, which containers
share with their host). Measured at the same time there, each would take the other's cores.
"""

from __future__ import annotations

import ctypes
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tsm_edge.bench.run import Outcome, Show
from tsm_edge.errors import TsmEdgeError
from tsm_edge.power.system import LocalSystem, System

_BOOT = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Job:
    """A machine to measure.

    Attributes
    ----------
    name : str
    machine : str
        Equal for two places on one machine.
    measure : callable
        Is told where to show what it does.
    """

    name: str
    machine: str
    measure: Callable[[Show], Outcome]


def machine_behind(system: System | None, address: str | None) -> str:
    """What tells a machine from others: its boot's number, or its address where it shows no files.

    Parameters
    ----------
    system : System or None
    address : str or None
        Begins with host and port, as :class:`tsm_edge.rpc.place.Endpoint` writes them; None: this machine.
    """
    boot = "" if system is None else _boot_of(system)
    if boot:
        return boot
    words = (address or "").split()
    if not words or words[0].startswith("unix:"):
        return _boot_of(LocalSystem()) or "here"
    host = words[0].rpartition(":")[0].strip("[]")
    try:
        number = str(socket.getaddrinfo(host, None)[0][4][0])
    except (OSError, UnicodeError):
        return host
    return (_boot_of(LocalSystem()) or "here") if _is_here(number) else number


def _is_here(number: str) -> bool:
    """Whether an address is one of this machine's: only then can it be bound to."""
    family = socket.AF_INET6 if ":" in number else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((number, 0))
    except OSError:
        return False
    return True


def _boot_of(system: System) -> str:
    try:
        [boot] = system.read([_BOOT])
    except (OSError, TsmEdgeError, ValueError):
        return ""
    return boot.strip()


def in_turn(jobs: Sequence[Job], one_at_a_time: bool) -> list[list[int]]:
    """Which jobs run one after the other: lists that may run at the same time."""
    if one_at_a_time:
        return [list(range(len(jobs)))]
    machines = dict.fromkeys(job.machine for job in jobs)
    return [[index for index, job in enumerate(jobs) if job.machine == machine] for machine in machines]


def shared_machines(jobs: Sequence[Job]) -> list[list[str]]:
    """The names of places that are one machine."""
    groups = [[jobs[index].name for index in group] for group in in_turn(jobs, one_at_a_time=False)]
    return [names for names in groups if len(names) > 1]


@dataclass
class _Running:
    """Threads that measure, and a way to interrupt them.

    Each enters itself: a signal may come in the middle of ``Thread.start``, and then nobody else knows of it.
    """

    threads: set[int] = field(default_factory=set)
    defects: list[BaseException] = field(default_factory=list)
    stopped: bool = False

    def work(self, measure: Callable[[], None]) -> None:
        """Measure in this thread, unless all were stopped."""
        own = threading.get_ident()
        try:
            self.threads.add(own)
            if not self.stopped:
                measure()
        except KeyboardInterrupt:
            return
        except BaseException as error:  # noqa: BLE001 (the main thread raises it)
            self.defects.append(error)
        finally:
            self.threads.discard(own)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in all of them, as soon as each is back in Python; return once they have ended."""
        self.stopped = True
        for thread in list(self.threads):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))
        while self.threads:
            time.sleep(0.01)


def measure_together(jobs: Sequence[Job], one_at_a_time: bool, show: Show) -> Iterator[Outcome | TsmEdgeError]:
    """Measure all; yields what came of each, in their order, once all are done.

    A machine that fails takes nothing from the others. Ctrl-C ends all of them, each with what it has until then.

    Raises
    ------
    KeyboardInterrupt
        Before anything was measured.
    """
    groups = in_turn(jobs, one_at_a_time)
    if len(groups) == 1:
        yield from _alone([jobs[index] for index in groups[0]], show)
        return
    running = _Running()
    found: dict[int, Outcome | TsmEdgeError] = {}

    def measure(group: list[int]) -> None:
        for index, outcome in zip(group, _alone([jobs[index] for index in group], show), strict=False):
            found[index] = outcome
            if running.stopped:
                return

    threads = [threading.Thread(target=running.work, args=[functools.partial(measure, group)]) for group in groups]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # not for ever: a signal that another thread takes does not wake this one
    except KeyboardInterrupt:
        running.interrupt()
        if not found:
            raise
    except BaseException:
        running.interrupt()
        raise
    if running.defects:
        raise running.defects[0]
    yield from (found[index] for index in sorted(found))


def _alone(jobs: Sequence[Job], show: Show) -> Iterator[Outcome | TsmEdgeError]:
    """One after the other."""
    for job in jobs:
        try:
            outcome = job.measure(show)
        except TsmEdgeError as error:
            yield error
            continue
        yield outcome
        if isinstance(outcome.error, KeyboardInterrupt):
            return
