"""What a schedule rule is: which layers it takes, and how it turns one into calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.ir import layers as ir


@dataclass(frozen=True)
class Rule:
    """A schedule rule.

    Attributes
    ----------
    name : str
        In choices and tuning records.
    takes : callable
        Whether a layer is the rule's, in the state of the lowering; rules are asked in the order of ``rules.RULES``.
    lower : callable
        Turns a layer it takes into calls.
    settings : type or None
        The frozen dataclass of what the rule chooses for a kernel; None: nothing.
    """

    name: str
    takes: Callable[[Lowering, ir.Layer], bool]
    lower: Callable[[Lowering, Any], None]
    settings: type | None = None
