"""What a schedule rule is: which layers it takes, and how it turns one into calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tsm_edge.cards import Preprocess
from tsm_edge.compile.backends.cuda.lowering import Lowering
from tsm_edge.compile.ir import layers as ir
from tsm_edge.compile.ir.program import KernelCall


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
    reading_bytes : callable or None
        Of a layer whose only call reads the frame: the same call for frames that come as a camera's bytes; None: the
        rule's kernels read floats.
    """

    name: str
    takes: Callable[[Lowering, ir.Layer], bool]
    lower: Callable[[Lowering, Any], None]
    settings: type | None = None
    reading_bytes: Callable[[Lowering, Any, KernelCall, Preprocess], KernelCall] | None = None
