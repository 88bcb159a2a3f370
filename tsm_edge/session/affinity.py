"""Keeping the threads of a step on some cores: workers for ever, the thread that steps until the stream is closed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from tsm_edge.cards.threads import Threads


def fitting(threads: Threads) -> Threads:
    """What this process can do of some advice: no more threads than it has cores, and no cores that it has not."""
    if not hasattr(os, "sched_getaffinity"):
        return Threads(threads.count)
    allowed = os.sched_getaffinity(0)
    cores = tuple(core for core in threads.cores if core in allowed)
    return Threads(min(threads.count, len(allowed)), cores if len(cores) == len(threads.cores) else ())


class Cores:
    """The cores of a stream.

    Parameters
    ----------
    cores : tuple of int
        Empty: any, and nothing is ever done.
    """

    def __init__(self, cores: tuple[int, ...]) -> None:
        self._cores = frozenset(cores)
        self._thread = threading.local()

    def __bool__(self) -> bool:
        return bool(self._cores)

    @contextlib.contextmanager
    def workers_begin(self) -> Iterator[None]:
        """Threads that are started meanwhile keep to the cores."""
        if not self._cores:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def keep(self) -> None:
        """This thread keeps to the cores from now on."""
        if getattr(self._thread, "before", None) is None:
            self._thread.before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, self._cores)

    def release(self) -> None:
        """This thread may go where it could before."""
        before = getattr(self._thread, "before", None)
        if before is not None:
            self._thread.before = None
            with contextlib.suppress(OSError):  # none of them is there any more
                os.sched_setaffinity(0, before)
