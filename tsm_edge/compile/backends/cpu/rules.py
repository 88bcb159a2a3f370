"""The schedule rules of the CPU: one line each, the first that takes a unit turns it into calls.

A new rule is a module of ``schedules`` with its spec (see ``ir/kernel.py``) and its ``RULE``, and a line here.
"""

from __future__ import annotations

from tsm_edge.compile.backends.cpu.kernels import (
    attention,
    average_pool,
    convolution,
    depthwise,
    elementwise,
    expand_depthwise,
    fallback,
    frame_shift,
    inverted_residual,
    max_pool,
    no_work,
    shift,
    winograd,
)
from tsm_edge.compile.backends.cpu.plan import Unit
from tsm_edge.compile.backends.cpu.rule import Rule

RULES: tuple[Rule, ...] = (
    inverted_residual.RULE,
    expand_depthwise.RULE,
    winograd.RULE,
    depthwise.RULE,
    convolution.RULE,
    max_pool.RULE,
    average_pool.RULE,
    average_pool.FRAME_MEAN,
    attention.RULE,
    elementwise.RULE,
    shift.RULE,
    frame_shift.RULE,
    no_work.VIEW,
    no_work.CACHE_TAP,
    fallback.RULE,
)


def rule_for(unit: Unit) -> Rule:
    """The rule that takes a unit."""
    return next(rule for rule in RULES if rule.takes(unit))


def settings_of_rules() -> dict[str, type | None]:
    """Rule → the type of what it chooses; None: it has nothing to choose."""
    return {rule.name: rule.settings for rule in RULES}
