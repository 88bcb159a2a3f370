"""The schedule rules of a GPU: one line each, the first that takes a layer turns it into calls.

A new rule is a module of ``kernels`` with its spec (see ``ir/kernel.py``) and its ``RULE``, and a line here.
"""

from __future__ import annotations

from tsm_edge.compile.backends.cuda.kernels import (
    average_pool,
    convolution,
    dense,
    depthwise_rule,
    direct,
    elementwise,
    expand_depthwise_rule,
    fallback,
    max_pool,
    no_work,
    patches,
    pointwise,
    shift,
    stem,
    stem_halfs,
    winograd,
)
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.backends.cuda.rule import Rule
from tsm_edge.compile.ir import layers as ir

RULES: tuple[Rule, ...] = (
    expand_depthwise_rule.RULE,
    stem_halfs.RULE,
    stem.RULE,
    dense.RULE,
    depthwise_rule.RULE,
    pointwise.RULE,
    winograd.RULE,
    patches.RULE,
    convolution.RULE,
    direct.RULE,
    max_pool.RULE,
    average_pool.RULE,
    elementwise.RULE,
    shift.RULE,
    no_work.VIEW,
    no_work.CACHE_TAP,
    fallback.VIEW,
    fallback.RULE,
)


def rule_for(at: Lowering, layer: ir.Layer) -> Rule:
    """The rule that takes a layer."""
    return next(rule for rule in RULES if rule.takes(at, layer))


def settings_of_rules() -> dict[str, type | None]:
    """Rule → the type of what it chooses; None: it has nothing to choose."""
    return {rule.name: rule.settings for rule in RULES}
