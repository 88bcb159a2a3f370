"""Rules: which labels are events, from a TOML file.

.. code-block:: toml

    [[rule]]
    label = "Swiping Left"
    probability = 0.7
    duration_s = 0.3
    cool_down_s = 5
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.cards.load import read_toml
from tsm_edge.cards.tables import Place, from_table
from tsm_edge.errors import EventError, unknown_name

ANY = "*"
_HINT = "see the rules in docs/live.md"


@dataclass(frozen=True)
class Rule:
    """When a label is an event.

    Attributes
    ----------
    label : str
        ``*``: any.
    probability : float
        The least that counts, 0 to 1.
    duration_s : float
        For so long it must be shown before the event begins, seconds.
    release_s : float
        After so long without it the event ends, seconds.
    cool_down_s : float
        So long after its end the same label begins no other event of this rule, seconds.
    """

    label: str = ANY
    probability: float = 0.5
    duration_s: float = 0.5
    release_s: float = 0.5
    cool_down_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise EventError(f"probability is {self.probability}, expected 0 to 1", _HINT)
        for name in ("duration_s", "release_s", "cool_down_s"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise EventError(f"{name} is {value} s, expected 0 s or more", _HINT)


@dataclass(frozen=True)
class _RuleFile:
    rule: tuple[Rule, ...]


DEFAULT_RULES = (Rule(),)


def read_rules(path: Path, labels: tuple[str, ...]) -> tuple[Rule, ...]:
    """Read a file of rules.

    Parameters
    ----------
    path : Path
    labels : tuple of str
        Of the model; empty: ``class 0`` and so on.

    Raises
    ------
    EventError
        There is no rule in it, a key or value is wrong, or the model has no such label.
    TextFileError
        It cannot be read.
    """
    rules = from_table(_RuleFile, read_toml(path, EventError), Place(str(path), EventError, _HINT)).rule
    if not rules:
        raise EventError(f"{path}: has no rule", "write [[rule]] and a label below it")
    for rule in rules:
        if labels and rule.label not in (*labels, ANY):
            raise EventError(f"{path}: {unknown_name('label', rule.label, labels)}", f'"{ANY}" is any label')
    return rules
