"""Numbers on the command line."""

from __future__ import annotations

import math
from typing import Any

import click


class RealRange(click.FloatRange):
    """A range of numbers. Not-a-number lies in none, though no comparison says so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; refuses what is none."""
        number = super().convert(value, param, ctx)
        if isinstance(number, float) and math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number

    def _describe_range(self) -> str:
        """For the help; click writes ``x<=None`` of a range without ends."""
        return "" if self.min is None and self.max is None else super()._describe_range()
