"""How much is computed or moved a second: by a kernel, and by all that one rule wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def giga_per_second(amount: float, microseconds: float) -> float:
    """GFLOP/s of floating-point operations, GB/s of bytes; 0 of what took no time."""
    return amount / microseconds / 1e3 if microseconds else 0.0


@dataclass(frozen=True)
class RuleTime:
    """All kernels one schedule rule wrote: calls, summed median time, floating-point operations."""

    rule: str
    calls: int
    microseconds: float
    flops: int

    @property
    def gflops(self) -> float:
        """GFLOP/s over all its kernels."""
        return giga_per_second(self.flops, self.microseconds)


def rule_times(kernels: Iterable[tuple[str, float, int]]) -> tuple[RuleTime, ...]:
    """Time by rule, the largest first; of each kernel its rule, median time in microseconds, and operations."""
    groups: dict[str, list[tuple[float, int]]] = {}
    for rule, microseconds, flops in kernels:
        groups.setdefault(rule, []).append((microseconds, flops))
    times = [
        RuleTime(rule, len(group), sum(time for time, _ in group), sum(flops for _, flops in group))
        for rule, group in groups.items()
    ]
    return tuple(sorted(times, key=lambda item: -item.microseconds))
