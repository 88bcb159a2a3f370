"""The log of any other meter, as CSV, whose clock is aligned by a start and a stop marker."""

from __future__ import annotations

import contextlib
import csv
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from tsm_edge.errors import PowerError, TsmEdgeError
from tsm_edge.files.atomic import read_text
from tsm_edge.power.measure import EnergyReport, Measured, T, energy_report
from tsm_edge.power.sampler import SYSTEM_CLOCK, Clock
from tsm_edge.power.sensor import Rail, SensorInfo, check_watts, number
from tsm_edge.power.trace import Sample, Trace, Window

# Factor to s, W, V and A by a column's name: its letters and digits in lower case, the rest as "_".
_TIME = {"time_s": 1.0, "seconds": 1.0, "time": 1.0, "t": 1.0, "timestamp": 1.0, "time_ms": 1e-3, "timestamp_ms": 1e-3}
_POWER = {"power_w": 1.0, "watts": 1.0, "power": 1.0, "w": 1.0, "power_mw": 1e-3, "power_uw": 1e-6}
_VOLTS = {"voltage_v": 1.0, "volts": 1.0, "voltage": 1.0, "v": 1.0, "voltage_mv": 1e-3}
_AMPS = {"current_a": 1.0, "amps": 1.0, "current": 1.0, "a": 1.0, "current_ma": 1e-3, "current_ua": 1e-6}
_MARKER = "marker"
_LOG = "log while tsm-edge measures"
_EXPECTED = "columns time_s, power_w (or voltage_v and current_a) and marker"
# The log's window and the work may differ by this share: two clocks, and the person or pin that set the marker.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class CsvLog:
    """A log that was read.

    Attributes
    ----------
    trace : Trace
    window : Window
        From the start to the stop marker, on the log's clock.
    """

    trace: Trace
    window: Window

    def report(self) -> EnergyReport:
        """The energy between the markers. What was logged before and after is taken as idle.

        Raises
        ------
        PowerError
            There are too few samples in one of the three.
        """
        before = Window(self.trace.samples[0].seconds, self.window.start_s)
        after = Window(self.window.stop_s, self.trace.samples[-1].seconds)
        return energy_report(self.trace, before, self.window, after)


class LogMeter:
    """Measures by a log that another program writes meanwhile, and that is whole when the work is done.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def measure(self, work: Callable[[], T], idle_s: float, clock: Clock = SYSTEM_CLOCK) -> Measured[T]:
        """Do some work; then read the log. See :func:`tsm_edge.power.measure.measure`."""
        clock.sleep(idle_s)
        start = clock.now()
        result = work()
        seconds = clock.now() - start
        clock.sleep(idle_s)
        try:
            log = read_log(self._path)
            self._check_length(log.window.seconds, seconds, log.trace.info.period_s)
            report = log.report()
        except TsmEdgeError as error:
            return Measured(result, None, str(error), ())
        watts = tuple((sample.seconds - log.window.start_s, sample.values[0]) for sample in log.trace.samples)
        return Measured(result, report, "", watts)

    def close(self) -> None:
        """Nothing is held."""

    def _check_length(self, logged_s: float, worked_s: float, period_s: float) -> None:
        if abs(logged_s - worked_s) > _TOLERANCE * worked_s + 2 * period_s:
            raise PowerError(
                f"{self._path}: {logged_s:.2f} s between its markers, but the work took {worked_s:.2f} s",
                "set the markers where the work begins and ends",
            )


def read_log(path: Path) -> CsvLog:
    """Read a log.

    Parameters
    ----------
    path : Path
        CSV with a heading. Time is in seconds (or as the column's name says, or ISO 8601). The column ``marker`` says
        ``start`` and ``stop`` once each, or is 1 between them and 0 elsewhere.

    Raises
    ------
    PowerError
        A column is missing, a cell is no number, time runs backwards, or there is not one start and one stop after it.
    TextFileError
        The file cannot be read.
    """
    heading, rows = _table(path)
    value_of = _power_column(path, heading)
    time_name = _column(heading, _TIME) or _missing(path, heading, "time_s")
    if _MARKER not in heading:
        _missing(path, heading, _MARKER)
    samples, marks = [], []
    for line, row in rows:
        where = f"{path}, line {line}"
        seconds = _seconds(row[time_name], _TIME[time_name], where)
        marks.append((seconds, row[_MARKER].strip().lower()))
        watts = value_of(row, where)
        if watts is not None:
            samples.append(Sample(seconds, (watts,)))
    for before, after in pairwise(samples):
        if after.seconds <= before.seconds:
            raise PowerError(
                f"{path}: time runs from {before.seconds:g} s back to {after.seconds:g} s", "sort it by time"
            )
    if len(samples) < 2:
        raise PowerError(f"{path}: holds {len(samples)} samples", _LOG)
    info = SensorInfo(
        name=f"csv:{path}",
        rails=(Rail("logged"),),
        boundary="unknown",
        covers="what the meter that wrote the log was wired to",
        quantity="power",
        period_s=statistics.median(after.seconds - before.seconds for before, after in pairwise(samples)),
        uncertainty_percent=None,
        uncertainty="see the meter's data sheet",
    )
    for sample in samples:
        check_watts(info, sample.values)
    return CsvLog(Trace(info, tuple(samples)), _window(path, marks))


def _table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The names of the columns, and each row with the number of its line. Lines that begin with # are left out."""
    lines = [(line, text) for line, text in enumerate(read_text(path).split("\n"), 1) if _holds_data(text)]
    if not lines:
        raise PowerError(f"{path}: is empty, expected {_EXPECTED}", _LOG)
    delimiter = max(",;\t", key=lines[0][1].count)
    (_, names), *others = [(line, _cells(text, delimiter, f"{path}, line {line}")) for line, text in lines]
    heading = [re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in names]
    rows = []
    for line, cells in others:
        if len(cells) != len(heading):
            raise PowerError(
                f"{path}, line {line}: {len(cells)} cells, expected {len(heading)}", "mend or leave out the line"
            )
        if delimiter == ";":  # where the comma stands before decimals
            cells = [cell.replace(",", ".") for cell in cells]
        rows.append((line, dict(zip(heading, cells, strict=True))))
    return heading, rows


def _cells(text: str, delimiter: str, where: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter))
    except csv.Error as error:
        raise PowerError(f"{where}: is no line of CSV ({error})", "mend or leave out the line") from None


def _holds_data(text: str) -> bool:
    return bool(text.strip()) and not text.lstrip().startswith("#")


def _power_column(path: Path, heading: Sequence[str]) -> Callable[[Mapping[str, str], str], float | None]:
    """How to get a row's W; None where its cells are empty (a row with a marker only)."""
    power, volts, amps = (_column(heading, known) for known in (_POWER, _VOLTS, _AMPS))
    if power:
        factors = {power: _POWER[power]}
    elif volts and amps:
        factors = {volts: _VOLTS[volts], amps: _AMPS[amps]}
    else:
        _missing(path, heading, "power_w")

    def watts(row: Mapping[str, str], where: str) -> float | None:
        if not any(row[name].strip() for name in factors):
            return None
        product = 1.0
        for name, factor in factors.items():
            product *= factor * number(row[name].strip(), f"{where}: {name}")
        return product

    return watts


def _column(heading: Sequence[str], known: Mapping[str, float]) -> str:
    return next((name for name in heading if name in known), "")


def _missing(path: Path, heading: Sequence[str], name: str) -> NoReturn:
    raise PowerError(f"{path}: has no column {name}, only {', '.join(heading)[:100]}", f"expected {_EXPECTED}")


def _seconds(text: str, factor: float, where: str) -> float:
    with contextlib.suppress(PowerError):
        return factor * number(text.strip(), where)
    try:
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):  # the last two: years that the system's clock does not have
        raise PowerError(
            f"{where}: time is {text[:40]!r}, expected seconds or a date as 2026-01-31T12:00:00.500",
            "mend or leave out the line",
        ) from None


def _window(path: Path, marks: Sequence[tuple[float, str]]) -> Window:
    words = {text for _, text in marks}
    if words & {"start", "stop"}:
        starts = [seconds for seconds, text in marks if text == "start"]
        stops = [seconds for seconds, text in marks if text == "stop"]
    else:
        levels = [(seconds, text not in ("", "0")) for seconds, text in marks]
        starts = [after[0] for before, after in pairwise(levels) if after[1] and not before[1]]
        stops = [after[0] for before, after in pairwise(levels) if before[1] and not after[1]]
    if len(starts) != 1 or len(stops) != 1 or stops[0] <= starts[0]:
        raise PowerError(
            f"{path}: column marker has {len(starts)} starts and {len(stops)} stops, expected one start, then one stop",
            "write start and stop there, or 1 while measured and 0 else",
        )
    return Window(starts[0], stops[0])
