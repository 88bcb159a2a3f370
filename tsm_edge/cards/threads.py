"""How many CPU threads run a step, and on which cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tsm_edge.cards.architecture import MOST_THREADS

# Of a Linux kernel's CPU set as C libraries have it.
MOST_CORES = 1024


@dataclass(frozen=True)
class Threads:
    """Threads of a step.

    Attributes
    ----------
    count : int
        The caller's own included.
    cores : tuple of int
        Numbers of the logical CPUs they keep to, as Linux counts them; empty: any.

    Raises
    ------
    ValueError
        There cannot be so many, or a core's number is none.
    """

    count: int
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 1 <= self.count <= MOST_THREADS:
            raise ValueError(f"threads is {self.count!r}, expected 1 to {MOST_THREADS}")
        if not all(type(core) is int and 0 <= core < MOST_CORES for core in self.cores):
            raise ValueError(f"cores are {self.cores!r}, expected numbers of CPUs")

    def __str__(self) -> str:
        threads = f"{self.count} thread{'s' if self.count > 1 else ''}"
        return threads + (f" on CPUs {', '.join(map(str, self.cores))}" if self.cores else "")


def threads_from(table: Mapping[str, Any]) -> Threads:
    """Read what ``dataclasses.asdict`` made of a :class:`Threads`.

    Raises
    ------
    ValueError, KeyError, TypeError
        It is none.
    """
    return Threads(table["count"], tuple(table["cores"]))
