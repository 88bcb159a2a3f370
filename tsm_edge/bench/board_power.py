"""Which sensor measures the power of a board: one that ``tsm-runner`` reads there, or one that is read from here.

From here are read programs of the board (over its shell), and meters beside it. When frames ran is known by the end of
the runner: it tells how long before they did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tsm_edge.bench.result import Refused, Result, Watts
from tsm_edge.bench.run import figures
from tsm_edge.bench.runner_run import Said
from tsm_edge.errors import PowerError, TsmEdgeError
from tsm_edge.power.measure import EnergyReport, energy_report
from tsm_edge.power.registry import AUTO, NONE, LiveMeter, Meter, open_meter, open_sensor
from tsm_edge.power.sampler import SYSTEM_CLOCK, Clock, Sampler
from tsm_edge.power.system import System
from tsm_edge.power.trace import Trace, Window, shortest_window_s

# Families that are files, which the runner reads itself.
BY_RUNNER = ("ina3221", "battery", "rapl", "hwmon")
# Families that are read on the board, over its shell.
_OVER_SHELL = ("pmic", "odpm")
_DISTURBS = "read over the connection while frames ran, which costs the board some power and time itself"


@dataclass(frozen=True)
class Chosen:
    """What measures.

    Attributes
    ----------
    by_runner : str
        The runner's ``--power``; ``none``: the meter does, or nothing.
    meter : Meter or None
        Open, to be read from here.
    reason : str
        Why there is nothing; empty if there is.
    """

    by_runner: str
    meter: Meter | None = None
    reason: str = ""


def choose_meter(text: str, system: System) -> Chosen:
    """Find what ``--power`` names for the machine ``system``.

    Raises
    ------
    PowerError
        It is named, and not there.
    """
    if text == NONE:
        return Chosen(NONE, reason="--power none was given")
    if text.partition(":")[0] in BY_RUNNER:
        return Chosen(text)
    if text != AUTO:
        return Chosen(NONE, open_meter(text, system))
    try:
        sensor = open_sensor(AUTO, system)
    except PowerError as error:
        return Chosen(NONE, reason=str(error))
    if sensor.info.name.partition(":")[0] not in BY_RUNNER:
        return Chosen(NONE, LiveMeter(sensor))
    sensor.close()
    return Chosen(sensor.info.name)


@dataclass(frozen=True)
class Outside:
    """What the runner said, and what a meter read from here meanwhile.

    Attributes
    ----------
    said : Said
    energy : callable
        From how many seconds before the runner's end frames began, and how long they took.
    trace : Trace or None
    remarks : tuple of str
        On the power.
    """

    said: Said
    energy: Callable[[float, float], EnergyReport]
    trace: Trace | None
    remarks: tuple[str, ...] = ()

    def added_to(self, result: Result) -> Result:
        """The result with its power; or with the reason why there is none."""
        took_s = result.samples.start_s[-1] + result.samples.step_ms[-1] * 1e-3
        after = result.environment_after
        before_end_s = took_s if after is None else max(took_s, after.at_s)
        others = tuple(entry for entry in result.unavailable if entry.key != "power")
        try:
            power = figures(self.energy(before_end_s, took_s), result.latency_ms.count)
        except TsmEdgeError as error:
            return replace(result, unavailable=(*others, Refused("power", str(error))))
        power = replace(power, remarks=(*power.remarks, *self.remarks))
        return replace(result, unavailable=others, power=power, watts=self._watts(before_end_s))

    def _watts(self, before_end_s: float) -> tuple[Watts, ...]:
        if self.trace is None:
            return ()
        zero_s = self.said.ended_s - before_end_s
        return tuple(Watts(at_s - zero_s, self.trace.info.total(values)) for at_s, values in self.trace.watts())


def measure_outside(meter: Meter, idle_s: float, run: Callable[[], Said], clock: Clock = SYSTEM_CLOCK) -> Outside:
    """Run something while a meter is read from here, and idle before and after.

    Raises
    ------
    TsmEdgeError
        The meter cannot be read to begin with, or what is run fails.
    """
    if not isinstance(meter, LiveMeter):
        return _by_log(meter, idle_s, run)
    began_s = clock.now()
    meter.sensor.read()
    # Over a connection a reading may take longer than the sensor's own period.
    slowly = 1 + (clock.now() - began_s) / meter.info.period_s
    idle_s = max(idle_s, slowly * shortest_window_s(meter.info))
    with Sampler(meter.sensor, clock) as sampler:
        before = sampler.idle(idle_s)
        said = run()
        after = sampler.idle(idle_s) if said.stopped is None else None

    def energy(before_end_s: float, took_s: float) -> EnergyReport:
        if after is None:
            raise PowerError("the run ended before the machine had idled again", "measure again")
        began_s = said.ended_s - before_end_s
        return energy_report(sampler.trace(), before, Window(began_s, began_s + took_s), after)

    remarks = (_DISTURBS,) if meter.info.name in _OVER_SHELL else ()
    return Outside(said, energy, sampler.latest, remarks)


def _by_log(meter: Meter, idle_s: float, run: Callable[[], Said]) -> Outside:
    """A log has its own marks of when the work began and ended."""
    measured = meter.measure(run, idle_s)

    def energy(before_end_s: float, took_s: float) -> EnergyReport:
        if measured.report is None:
            raise PowerError(measured.reason, "look at the log")
        return measured.report

    return Outside(measured.result, energy, None)
