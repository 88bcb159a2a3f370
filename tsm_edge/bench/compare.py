"""Two runs, one after the other: faster, slower, or not to be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tsm_edge.bench.result import Result
from tsm_edge.bench.statistics import BATCHES, CONFIDENCE, batch_medians, student_t
from tsm_edge.errors import BenchError

# Verdicts after which a time says nothing of the model; the last one is on its answers, all others on the machine.
_WRONG = "verified"
_DISTURBANCES = ("shared", "throttled", "clock", "gpu", "memory", "rebooted", "partial", _WRONG)

Finding = Literal["faster", "slower", "not distinguishable"]


@dataclass(frozen=True)
class Comparison:
    """A run against an earlier one.

    Attributes
    ----------
    name : str
        Of the newer result.
    old_ms, new_ms : float
        Medians.
    change_percent, low_percent, high_percent : float
        Of the median, and its 99 % interval. What the runs' parts differ by is in it, so that a machine that wanders
        while it measures gives a wide one; what only changes from run to run is not.
    tolerance_percent : float
    disturbed : tuple of str
        What happened during one of the runs (names of verdicts): then nothing can be told of the model's speed.
    remarks : tuple of str
        What else differs.
    """

    name: str
    old_ms: float
    new_ms: float
    change_percent: float
    low_percent: float
    high_percent: float
    tolerance_percent: float
    disturbed: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def finding(self) -> Finding:
        """Whether the interval, or what happened to the machine, leaves a doubt."""
        if self.disturbed:
            return "not distinguishable"
        if self.low_percent > 0:
            return "slower"
        return "faster" if self.high_percent < 0 else "not distinguishable"

    @property
    def is_regression(self) -> bool:
        """Whether it is surely slower by more than is tolerated."""
        return self.finding == "slower" and self.low_percent > self.tolerance_percent

    def text(self) -> str:
        """In a line."""
        interval = f"99 % interval {self.low_percent:+.1f} to {self.high_percent:+.1f} %"
        medians = f"{self.old_ms:.3f} ms then, {self.new_ms:.3f} ms now"
        if self.finding == "not distinguishable":
            return f"not distinguishable: {self.change_percent:+.1f} % ({interval}; {medians}){self._why()}"
        end = f", more than {self.tolerance_percent:g} %: a regression" if self.is_regression else ""
        return f"{self.finding} by {abs(self.change_percent):.1f} % ({interval}; {medians}){end}"

    def _why(self) -> str:
        if _WRONG in self.disturbed:
            return "; a run gave wrong answers, so its time means nothing: tsm-edge verify"
        return f"; a run was disturbed ({', '.join(self.disturbed)}): measure again" if self.disturbed else ""


def compare(old: Result, new: Result, tolerance_percent: float) -> Comparison:
    """Compare the step's latency.

    Raises
    ------
    BenchError
        One of them has too few frames, or the models differ.
    """
    if (old.model.name, old.model.device) != (new.model.name, new.model.device):
        raise BenchError(
            f"the earlier run measured {old.model.name} on its {old.model.device}, this one {new.model.name} on its "
            f"{new.model.device}",
            "compare runs of one model",
        )
    parts = [batch_medians(result.samples.step_ms) for result in (old, new)]
    for result, medians in zip((old, new), parts, strict=True):
        if not len(medians) or not (medians > 0).all():
            raise BenchError(
                f"{result.name}: {len(result.samples.step_ms)} frames are too few to compare, expected 40",
                "measure longer: --duration 10",
            )
    logs = [np.log(medians) for medians in parts]
    errors = [float(values.var(ddof=1)) / BATCHES for values in logs]
    reach = student_t((1 + CONFIDENCE) / 2, _freedom(errors)) * math.sqrt(sum(errors))
    old_ms, new_ms = (float(np.median(result.samples.step_ms)) for result in (old, new))
    change = math.log(new_ms / old_ms)
    percent, low, high = (100 * math.expm1(value) for value in (change, change - reach, change + reach))
    return Comparison(
        new.name, old_ms, new_ms, percent, low, high, tolerance_percent, _disturbed(old, new), _remarks(old, new)
    )


def pairs(old: Sequence[Result], new: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Each newer result with the earlier one of the same name; one alone with one alone.

    Raises
    ------
    BenchError
        There is none.
    """
    if len(old) == len(new) == 1:
        return [(old[0], new[0])]
    named = {result.name: result for result in old}
    missing = [result.name for result in new if result.name not in named]
    if missing:
        raise BenchError(
            f"the earlier file has no result of {missing[0]}: it has {', '.join(named) or 'none'}",
            "measure the same places: --rpc",
        )
    return [(named[result.name], result) for result in new]


def _freedom(errors: Sequence[float]) -> int:
    """Degrees of freedom of a difference (Welch, Satterthwaite)."""
    total = sum(errors)
    parts = sum(error**2 / (BATCHES - 1) for error in errors)
    return max(BATCHES - 1, int(total**2 / parts)) if parts else BATCHES - 1


def _disturbed(old: Result, new: Result) -> tuple[str, ...]:
    bad = (verdict.name for result in (old, new) for verdict in result.verdicts if verdict.level == "bad")
    return tuple(dict.fromkeys(name for name in bad if name in _DISTURBANCES))


def _remarks(old: Result, new: Result) -> tuple[str, ...]:
    """What differs beside the time."""
    looks = [result.environment_before for result in (old, new)]
    differing = [
        ("model.so", old.model.sha256[:12], new.model.sha256[:12]),
        ("target", old.model.target, new.model.target),
        ("precision", old.model.precision, new.model.precision),
        ("threads", old.settings.threads, new.settings.threads),
        ("frame", old.model.frame_shape, new.model.frame_shape),
        ("fps", old.settings.fps, new.settings.fps),
        ("CPU", *(look.cpu_model if look else None for look in looks)),
    ]
    return tuple(f"{name}: {before} then, {now} now" for name, before, now in differing if before != now)
