"""Samples of a sensor over time, and the energy of a window of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tsm_edge.errors import PowerError
from tsm_edge.power.sensor import Quantity, SensorInfo

FEWEST_SAMPLES = 10
# Seconds without a sample that a window can bear: this share of it, or three of the sensor's periods.
_LONGEST_GAP = 0.1
_GAP_PERIODS = 3


@dataclass(frozen=True)
class Sample:
    """One reading.

    Attributes
    ----------
    seconds : float
        Monotonic time, midway through the reading.
    values : tuple of float
        For each rail W, or J since some moment.
    """

    seconds: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Window:
    """A stretch of time on the clock of the samples.

    Attributes
    ----------
    start_s, stop_s : float
    """

    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.stop_s - self.start_s


@dataclass(frozen=True)
class WindowEnergy:
    """What was used within a window.

    Attributes
    ----------
    seconds : float
        Length of the window.
    joules : tuple of float
        For each rail.
    total_j : float
        Of the rails that count.
    samples : int
    rate_hz : float
        Samples a second, as they came.
    jitter_ms : float
        Standard deviation of the time between samples.
    longest_gap_ms : float
        Between two samples, or a sample and an end of the window.
    changes : int
        Samples that differ from the one before. Far fewer than samples: the sensor is slower than it was read.
    """

    seconds: float
    joules: tuple[float, ...]
    total_j: float
    samples: int
    rate_hz: float
    jitter_ms: float
    longest_gap_ms: float
    changes: int

    @property
    def watts(self) -> float:
        """Mean power."""
        return self.total_j / self.seconds

    @property
    def rail_watts(self) -> tuple[float, ...]:
        """Mean power of each rail."""
        return tuple(joules / self.seconds for joules in self.joules)


@dataclass(frozen=True)
class RailWatts:
    """Power of one rail over some time.

    Attributes
    ----------
    rail : str
    in_total : bool
        Whether it counts.
    mean_w, min_w, max_w : float
    """

    rail: str
    in_total: bool
    mean_w: float
    min_w: float
    max_w: float


@dataclass(frozen=True)
class Trace:
    """All samples of one recording.

    Attributes
    ----------
    info : SensorInfo
    samples : tuple of Sample
        By rising time.
    """

    info: SensorInfo
    samples: tuple[Sample, ...]

    def joules_in(self, window: Window, what: str = "") -> WindowEnergy:
        """Add up the energy of a window: by trapezoids, or as a difference of counters.

        Parameters
        ----------
        window : Window
        what : str
            What was done in it, for errors.

        Raises
        ------
        PowerError
            There are too few samples, a hole in them, or a counter that does not move.
        """
        inside = [sample for sample in self.samples if window.start_s <= sample.seconds <= window.stop_s]
        name = f"{window.seconds:.1f} s{f' of {what}' if what else ''}"
        gap_s = self._check_samples(inside, window, name)
        rails = range(len(self.info.rails))
        joules = tuple(_joules(inside, self.info.quantity, rail, window.seconds) for rail in rails)
        total = self.info.total(joules)
        if total <= 0:
            raise PowerError(
                f"power sensor {self.info.name} counted no energy within {name}: it does not measure",
                "name another one: tsm-edge power",
            )
        steps = [after.seconds - before.seconds for before, after in pairwise(inside)]
        return WindowEnergy(
            seconds=window.seconds,
            joules=joules,
            total_j=total,
            samples=len(inside),
            rate_hz=1 / statistics.fmean(steps),
            jitter_ms=1e3 * statistics.pstdev(steps),
            longest_gap_ms=1e3 * gap_s,
            changes=sum(before.values != after.values for before, after in pairwise(inside)),
        )

    def watts(self) -> list[tuple[float, tuple[float, ...]]]:
        """The power of each rail over time: (seconds, W). For counters: the mean since the sample before."""
        if self.info.quantity == "power":
            return [(sample.seconds, sample.values) for sample in self.samples]
        return [
            (
                after.seconds,
                tuple(
                    (new - old) / (after.seconds - before.seconds)
                    for old, new in zip(before.values, after.values, strict=True)
                ),
            )
            for before, after in pairwise(self.samples)
            if after.seconds > before.seconds
        ]

    def spread(self) -> tuple[RailWatts, ...]:
        """The power of each rail over the whole trace; empty if there are too few samples to tell."""
        watts = self.watts()
        if not watts:
            return ()
        columns = zip(*(values for _, values in watts), strict=True)
        means = self._mean_watts()
        return tuple(
            RailWatts(rail.name, rail.in_total, mean, min(column), max(column))
            for rail, mean, column in zip(self.info.rails, means, columns, strict=True)
        )

    def _mean_watts(self) -> tuple[float, ...]:
        first, last = self.samples[0], self.samples[-1]
        if self.info.quantity == "power":
            return tuple(map(statistics.fmean, zip(*(sample.values for sample in self.samples), strict=True)))
        seconds = last.seconds - first.seconds
        return tuple((new - old) / seconds for old, new in zip(first.values, last.values, strict=True))

    def _check_samples(self, inside: Sequence[Sample], window: Window, name: str) -> float:
        """Refuse a window that was not looked at closely enough; return its longest gap in seconds."""
        sensor, period = self.info.name, self.info.period_s
        if len(inside) < FEWEST_SAMPLES:
            raise PowerError(
                f"power sensor {sensor} gave {len(inside)} samples in {name}, expected at least {FEWEST_SAMPLES}",
                f"measure for {shortest_window_s(self.info):.1f} s or longer",
            )
        times = [window.start_s, *(sample.seconds for sample in inside), window.stop_s]
        gap = max(after - before for before, after in pairwise(times))
        if gap > max(_LONGEST_GAP * window.seconds, _GAP_PERIODS * period):
            raise PowerError(
                f"power sensor {sensor} gave no sample for {gap:.3g} s within {name}",
                "measure again, with less beside it",
            )
        return gap


def shortest_window_s(info: SensorInfo) -> float:
    """The length of the shortest window for which a sensor gives enough samples, in seconds."""
    return (FEWEST_SAMPLES + 1) * info.period_s


def _joules(inside: Sequence[Sample], quantity: Quantity, rail: int, seconds: float) -> float:
    """The mean power between the first and the last sample, times the window's length.

    Samples outside are left out: the load changes at the ends of a window, which is why it is one.
    """
    first, last = inside[0], inside[-1]
    if quantity == "energy":
        joules = last.values[rail] - first.values[rail]
    else:
        joules = math.fsum(
            (after.seconds - before.seconds) * (before.values[rail] + after.values[rail]) / 2
            for before, after in pairwise(inside)
        )
    return joules * seconds / (last.seconds - first.seconds)
