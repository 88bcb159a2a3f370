"""The energy of some work: idle before, the work, idle after, all from one recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tsm_edge.errors import TsmEdgeError
from tsm_edge.power.sampler import SYSTEM_CLOCK, Clock, Sampler
from tsm_edge.power.sensor import Sensor, SensorInfo
from tsm_edge.power.trace import Trace, Window

T = TypeVar("T")

# Idle power before and after that differ by more than this share of the net power: the board had not calmed down.
_IDLE_DRIFT = 0.1
# Of the idle power: what is less above it says nothing.
_LEAST_NET = 0.01
# A gauge that renews its figure less often says little about the time between.
_FEWEST_CHANGES = 5


@dataclass(frozen=True)
class RailPower:
    """Mean power of one rail.

    Attributes
    ----------
    rail : str
    in_total : bool
        Whether it counts.
    gross_w, idle_w, net_w : float
    """

    rail: str
    in_total: bool
    gross_w: float
    idle_w: float
    net_w: float


@dataclass(frozen=True)
class EnergyReport:
    """Power and energy of some work.

    Attributes
    ----------
    sensor : SensorInfo
    rails : tuple of RailPower
    seconds : float
        The work took.
    gross_w, idle_w, net_w : float
        Mean power while working, while idle (before and after, weighted alike), and the difference.
    idle_before_w, idle_after_w : float
    gross_j, idle_j, net_j : float
        The same times the seconds.
    samples : int
        While working.
    rate_hz, jitter_ms, longest_gap_ms : float
        How they came; jitter is the standard deviation of the time between samples.
    changes : int
        Samples that differ from the one before.
    remarks : tuple of str
        Why the figures may mean less than they seem to.
    """

    sensor: SensorInfo
    rails: tuple[RailPower, ...]
    seconds: float
    gross_w: float
    idle_w: float
    net_w: float
    idle_before_w: float
    idle_after_w: float
    gross_j: float
    idle_j: float
    net_j: float
    samples: int
    rate_hz: float
    jitter_ms: float
    longest_gap_ms: float
    changes: int
    remarks: tuple[str, ...]

    def gross_j_per_frame(self, frames: int) -> float:
        """Energy of one of ``frames`` frames."""
        return self.gross_j / frames

    def net_j_per_frame(self, frames: int) -> float:
        """Energy of one of ``frames`` frames, less that of idling as long."""
        return self.net_j / frames


@dataclass(frozen=True)
class Measured(Generic[T]):
    """What some work returned, and what it took.

    Attributes
    ----------
    result
        Of the work.
    report : EnergyReport or None
    reason : str
        Why there is no report; empty if there is one.
    watts : tuple of (float, float)
        Total power over time: seconds since the work began, W.
    """

    result: T
    report: EnergyReport | None
    reason: str
    watts: tuple[tuple[float, float], ...]


def measure(sensor: Sensor, work: Callable[[], T], idle_s: float, clock: Clock = SYSTEM_CLOCK) -> Measured[T]:
    """Do some work and measure its energy.

    Parameters
    ----------
    sensor : Sensor
        Stays open.
    work : callable
        Its result is never lost: what goes wrong with the sensor meanwhile is the ``reason`` of the answer.
    idle_s : float
        Seconds of idling before and after; at least :func:`tsm_edge.power.trace.shortest_window_s`.
    clock : Clock

    Raises
    ------
    PowerError
        The sensor cannot be read to begin with.
    """
    with Sampler(sensor, clock) as sampler:
        before = sampler.idle(idle_s)
        start = clock.now()
        result = work()
        active = Window(start, clock.now())
        after = sampler.idle(idle_s)
    watts = tuple((seconds - start, sensor.info.total(values)) for seconds, values in sampler.latest.watts())
    try:
        report = energy_report(sampler.trace(), before, active, after)
    except TsmEdgeError as error:
        return Measured(result, None, str(error), watts)
    return Measured(result, report, "", watts)


def energy_report(trace: Trace, before: Window, active: Window, after: Window) -> EnergyReport:
    """Subtract the idle power before and after from that of a window between.

    Raises
    ------
    PowerError
        One of the windows has too few samples (see :meth:`Trace.joules_in`).
    """
    idles = (trace.joules_in(before, "idling before"), trace.joules_in(after, "idling after"))
    work = trace.joules_in(active, "work")
    idle_w = (idles[0].watts + idles[1].watts) / 2
    net_w = work.watts - idle_w
    rails = tuple(
        RailPower(rail.name, rail.in_total, gross, (first + last) / 2, gross - (first + last) / 2)
        for rail, gross, first, last in zip(
            trace.info.rails, work.rail_watts, idles[0].rail_watts, idles[1].rail_watts, strict=True
        )
    )
    return EnergyReport(
        sensor=trace.info,
        rails=rails,
        seconds=work.seconds,
        gross_w=work.watts,
        idle_w=idle_w,
        net_w=net_w,
        idle_before_w=idles[0].watts,
        idle_after_w=idles[1].watts,
        gross_j=work.total_j,
        idle_j=idle_w * work.seconds,
        net_j=net_w * work.seconds,
        samples=work.samples,
        rate_hz=work.rate_hz,
        jitter_ms=work.jitter_ms,
        longest_gap_ms=work.longest_gap_ms,
        changes=work.changes,
        remarks=_remarks(work.changes, idles[1].watts - idles[0].watts, net_w, idle_w),
    )


def _remarks(changes: int, drift_w: float, net_w: float, idle_w: float) -> tuple[str, ...]:
    remarks = []
    if net_w < _LEAST_NET * idle_w:
        remarks.append("hardly more power than idle: the machine was not idle, or the sensor is too coarse")
    elif abs(drift_w) > _IDLE_DRIFT * net_w:
        remarks.append(f"idle power changed by {drift_w:+.2f} W from before to after: let the machine calm down longer")
    if changes < _FEWEST_CHANGES:
        remarks.append(f"the sensor's figure changed {changes} times during the work: it is slow, too coarse or stuck")
    return tuple(remarks)
