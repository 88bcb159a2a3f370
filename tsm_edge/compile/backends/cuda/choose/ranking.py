"""The order in which candidates are taken: by what the model says that they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import TypeVar

_Candidate = TypeVar("_Candidate")


def best_first(candidates: Iterable[_Candidate], cost: Callable[[_Candidate], float]) -> list[_Candidate]:
    """Those of a finite cost, each once, the least first; of equal ones the earlier first."""
    costs = {candidate: cost(candidate) for candidate in dict.fromkeys(candidates)}
    return sorted((candidate for candidate in costs if costs[candidate] < inf), key=lambda candidate: costs[candidate])
