"""What a schedule rule is: which units it takes, and how it turns one into calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tsm_edge.compile.backends.cpu.core import Core
from tsm_edge.compile.backends.cpu.lowering import Lowering
from tsm_edge.compile.backends.cpu.unit import Group, Unit
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.graph import OnlineGraph


@dataclass(frozen=True)
class Search:
    """Where a rule looks for groups.

    Attributes
    ----------
    graph : OnlineGraph
    layers : sequence of Layer
        All of the network's.
    chosen : frozenset of str
        What layers make that a choice has given to a kernel: not to be taken.
    free : sequence of Layer
        Those that no choice and no rule before has taken.
    core : Core
    """

    graph: OnlineGraph
    layers: Sequence[ir.Layer]
    chosen: frozenset[str]
    free: Sequence[ir.Layer]
    core: Core


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
    find : callable or None
        The groups that are worth a kernel of this rule, none with a layer of another; None: it takes single layers.
    group : callable or None
        Of a rule that finds groups: makes one of the layers and settings of a choice; None: they are not one.
    """

    name: str
    takes: Callable[[Unit], bool]
    lower: Callable[[Lowering, Any], None]
    settings: type | None = None
    find: Callable[[Search], Sequence[Group]] | None = None
    group: Callable[[OnlineGraph, tuple[ir.Layer, ...], Any], Group | None] | None = None
