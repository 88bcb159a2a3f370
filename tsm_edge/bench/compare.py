"""Two runs, one after the other: faster, slower, or not to be told apart.

What a machine does between two runs must not be called a change of the model. So only stretches of both runs are
compared during which the machine had one speed (:mod:`tsm_edge.bench.speed`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tsm_edge.bench.result import Result
from tsm_edge.bench.speed import (
    ARITHMETIC_BAND,
    FEWEST_STRETCHES,
    MEMORY_BAND,
    Stretch,
    at_one_speed,
    speed_ratio,
    stretches,
)
from tsm_edge.bench.statistics import BATCHES, CONFIDENCE, student_t
from tsm_edge.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Verdicts after which a time says nothing of the model; the last one is on its answers, all others on the machine. Not
# among them is what slows down the yardstick, too: a moving clock, and others on the cores.
_WRONG = "verified"
_DISTURBANCES = ("throttled", "gpu", "memory", "rebooted", "partial", _WRONG)
_CLOCKS = ("shared", "clock", "speed")  # where there is no yardstick, these are disturbances, too
_FEWEST_FRAMES = 40

Finding = Literal["faster", "slower", "not distinguishable"]


@dataclass(frozen=True)
class Comparison:
    """A run against an earlier one.

    Attributes
    ----------
    name : str
        Of the newer result.
    old_ms, new_ms : float
        Medians, of the stretches that are compared.
    change_percent, low_percent, high_percent : float
        Of the median, and its 99 % interval. What the runs' parts differ by is in it, so that a machine that wanders
        while it measures gives a wide one; and what the yardstick differs by.
    tolerance_percent : float
    reason : str
        Why nothing can be told of the model's speed; empty: something can.
    basis : str
        What was compared, in words.
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
    reason: str = ""
    basis: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def finding(self) -> Finding:
        """Whether the interval, or what happened to the machine, leaves a doubt."""
        if self.reason:
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
        if self.reason:
            return f"not distinguishable: {self.reason} ({self.change_percent:+.1f} %; {medians})"
        basis = f"; {self.basis}" if self.basis else ""
        if self.finding == "not distinguishable":
            return f"not distinguishable: {self.change_percent:+.1f} % ({interval}; {medians}{basis})"
        end = f", more than {self.tolerance_percent:g} %: a regression" if self.is_regression else ""
        return f"{self.finding} by {abs(self.change_percent):.1f} % ({interval}; {medians}{basis}){end}"


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
    for result in (old, new):
        if len(result.samples.step_ms) < _FEWEST_FRAMES or min(result.samples.step_ms) <= 0:
            raise BenchError(
                f"{result.name}: {len(result.samples.step_ms)} {result.model.unit}s are too few to compare, expected "
                f"{_FEWEST_FRAMES}",
                "measure longer: --duration 10",
            )
    if old.model.device == "cpu" and old.yardstick and new.yardstick:
        return _by_stretches(old, new, tolerance_percent)
    reason = _disturbed(old, new, (*_DISTURBANCES, *_CLOCKS))
    if not reason and old.model.device == "cpu":
        missing = " and ".join(word for word, run in (("then", old), ("now", new)) if not run.yardstick)
        reason = f"the machine's own speed was not measured ({missing}): measure again with this version"
    logs = [np.log(result.samples.step_ms) for result in (old, new)]
    return _comparison(old, new, [_batched(values) for values in logs], tolerance_percent, reason)


def _by_stretches(old: Result, new: Result, tolerance_percent: float) -> Comparison:
    """Compare where the machine had one speed."""
    runs = [stretches(result) for result in (old, new)]
    reason = _disturbed(old, new, _DISTURBANCES)
    chosen = at_one_speed(runs[0], runs[1])
    if chosen is None:
        logs = [np.log(result.samples.step_ms) for result in (old, new)]
        return _comparison(
            old, new, [_batched(values) for values in logs], tolerance_percent, reason or _no_one_speed(old, new, runs)
        )
    basis = "at one speed of the machine, in " + " and ".join(
        f"{len(some)} of {len(run)} stretches" for some, run in zip(chosen, runs, strict=True)
    )
    parts = [_batched(np.array([one.log_ms for one in some])) for some in chosen]
    off = [float(np.mean([getattr(one, key) for one in some])) for key in ("arithmetic", "memory") for some in chosen]
    return _comparison(old, new, parts, tolerance_percent, reason, basis, (off[1] - off[0], off[3] - off[2]))


def _no_one_speed(old: Result, new: Result, runs: Sequence[Sequence[Stretch]]) -> str:
    """Why two runs have no stretches to compare."""
    if any(len(run) < FEWEST_STRETCHES for run in runs):
        return f"fewer than {FEWEST_STRETCHES} stretches between looks at the machine's speed: measure longer"
    arithmetic, memory = speed_ratio(old, new)
    if abs(math.log(arithmetic)) <= ARITHMETIC_BAND and abs(math.log(memory)) <= MEMORY_BAND:
        return "the machine's own speed changed all the time: measure longer, or on a machine that others leave alone"
    return (
        f"the machine itself ran at another speed (fixed work took ×{arithmetic:.2f}, reading memory ×{memory:.2f}): "
        "measure both again, one right after the other"
    )


def _batched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians of consecutive parts, so that what lasts longer than a frame counts once."""
    return np.array([np.median(part) for part in np.array_split(values, min(BATCHES, len(values)))])


def _comparison(
    old: Result,
    new: Result,
    parts: Sequence[NDArray[np.float64]],
    tolerance_percent: float,
    reason: str,
    basis: str = "",
    machine: tuple[float, ...] = (),
) -> Comparison:
    """The change of the mean of parts (logarithms), with its interval.

    ``machine``: by how much the yardstick differs, in logarithms. That much of the change may be the machine's.
    """
    errors = [float(values.var(ddof=1)) / len(values) for values in parts]
    reach = student_t((1 + CONFIDENCE) / 2, _freedom(errors, [len(values) for values in parts])) * math.sqrt(
        sum(errors)
    )
    centres = [float(values.mean()) for values in parts]
    change = centres[1] - centres[0]
    low, high = change - reach - max((0.0, *machine)), change + reach - min((0.0, *machine))
    return Comparison(
        new.name,
        math.exp(centres[0]),
        math.exp(centres[1]),
        100 * math.expm1(change),
        100 * math.expm1(low),
        100 * math.expm1(high),
        tolerance_percent,
        reason,
        basis,
        _remarks(old, new),
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


def _freedom(errors: Sequence[float], counts: Sequence[int]) -> int:
    """Degrees of freedom of a difference (Welch, Satterthwaite)."""
    total = sum(errors)
    parts = sum(error**2 / (count - 1) for error, count in zip(errors, counts, strict=True))
    least = min(counts) - 1
    return max(least, int(total**2 / parts)) if parts else least


def _disturbed(old: Result, new: Result, names: Sequence[str]) -> str:
    """What happened during one of the runs; empty: nothing that matters."""
    bad = (verdict.name for result in (old, new) for verdict in result.verdicts if verdict.level == "bad")
    found = list(dict.fromkeys(name for name in bad if name in names))
    if _WRONG in found:
        return "a run gave wrong answers, so its time means nothing: tsm-edge verify"
    return f"a run was disturbed ({', '.join(found)}): measure again" if found else ""


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
