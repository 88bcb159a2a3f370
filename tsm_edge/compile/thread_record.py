"""The tuning record of a whole step: how many threads it is fastest with on a board, and on which cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tsm_edge.cards.threads import Threads, threads_from
from tsm_edge.compile.record_lines import sealed


@dataclass(frozen=True)
class ThreadRecord:
    """Threads that were measured to be the best for a network.

    Attributes
    ----------
    network : str
        What it is for: :func:`tsm_edge.compile.record_keys.network_key`.
    threads : Threads
    ratio : tuple of float
        The step's time with them over that with one: median, and its 95 % interval.
    step_us : float
        With them.
    about : mapping of str to str
        Machine, date, versions, and the model's name, for people.
    """

    network: str
    threads: Threads
    ratio: tuple[float, float, float]
    step_us: float
    about: dict[str, str]

    def line(self) -> str:
        """As a line of a file."""
        return sealed(dataclasses.asdict(self))


def thread_record(table: Mapping[str, Any]) -> ThreadRecord:
    """Read what a line has.

    Raises
    ------
    ValueError, KeyError, TypeError, IndexError
        It is no record of threads.
    """
    median, low, high = map(float, table["ratio"])
    return ThreadRecord(
        network=str(table["network"]),
        threads=threads_from(table["threads"]),
        ratio=(median, low, high),
        step_us=float(table["step_us"]),
        about=dict(table["about"]),
    )
