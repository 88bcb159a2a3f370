"""What a schedule rule is: which units it takes, and how it turns one into calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.plan import Unit


@dataclass(frozen=True)
class Rule:
    """A schedule rule.

    Attributes
    ----------
    name : str
        In choices and tuning records.
    takes : callable
        Whether a unit is the rule's; rules are asked in the order of ``rules.RULES``.
    lower : callable
        Turns a unit it takes into calls.
    settings : type or None
        The frozen dataclass of what the rule chooses for a kernel; None: nothing.
    """

    name: str
    takes: Callable[[Unit], bool]
    lower: Callable[[Lowering, Any], None]
    settings: type | None = None
