from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from power_fakes import IDLE_W, KnownPower, StepClock

from tsm_edge.errors import PowerError, TsmEdgeError
from tsm_edge.power.csvlog import LogMeter, read_log

# On the meter's clock, which is not ours.
POWER = KnownPower(work_from=5003.025, work_to=5013.025)
ROWS = [(5000.0 + 0.05 * k, POWER.watts(5000.0 + 0.05 * k)) for k in range(320)]


def marker(seconds: float) -> str:
    """Words in rows of their own kind: that of the first sample after the change."""
    if POWER.work_from < seconds < POWER.work_from + 0.05:
        return "start"
    return "stop" if POWER.work_to < seconds < POWER.work_to + 0.05 else ""


def lines(heading: str, row: Callable[[float, float], str], rows: Sequence[tuple[float, float]] = ROWS) -> str:
    return "\n".join([heading, *(row(seconds, watts) for seconds, watts in rows)]) + "\n"


LOGS = {
    "words": lines("time_s,power_w,marker", lambda t, w: f"{t:.3f},{w:.6f},{marker(t)}"),
    "levels": lines(
        "Time (ms),Voltage (V),Current (mA),Marker",
        lambda t, w: f"{1e3 * t:.0f},5.05,{1e3 * w / 5.05:.4f},{int(POWER.work_from < t < POWER.work_to)}",
    ),
    "decimal commas": lines(
        "# a meter's own words\n\nTimestamp;Power (mW);Marker",
        lambda t, w: f"{t:.3f};{1e3 * w:.3f};{marker(t)}".replace(".", ","),
    ),
    "dates": lines(
        "timestamp\twatts\tmarker",
        lambda t, w: f"2026-01-31T{12 + int(t // 3600)}:{int(t // 60) % 60:02}:{t % 60:09.6f}Z\t{w:.6f}\t{marker(t)}",
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_energy_between_the_markers_is_that_of_the_known_power(name: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOGS[name])
    report = read_log(path).report()
    assert report.seconds == pytest.approx(10.0, abs=0.051)
    assert report.gross_j == pytest.approx(POWER.gross_j, rel=0.01)
    assert report.net_j == pytest.approx(POWER.net_j, rel=0.01)
    assert (report.idle_before_w, report.idle_after_w) == pytest.approx((IDLE_W, IDLE_W), rel=0.02)
    assert report.rate_hz == pytest.approx(20.0)
    assert (report.sensor.name, report.sensor.boundary) == (f"csv:{path}", "unknown")


def test_rows_with_a_marker_only_set_the_time_and_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [(t, f"{t:.3f},{w:.6f},") for t, w in ROWS]
    rows += [(POWER.work_from, f"{POWER.work_from},,start"), (POWER.work_to, f"{POWER.work_to},,stop")]
    path.write_text("\n".join(["time,power,marker", *(text for _, text in sorted(rows))]))
    report = read_log(path).report()
    assert report.seconds == pytest.approx(10.0)
    assert report.net_j == pytest.approx(POWER.net_j, rel=0.01)


def test_a_log_is_read_after_the_work_and_must_be_as_long(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    clock = StepClock()

    def work(seconds: float) -> str:
        clock.sleep(seconds)
        path.write_text(LOGS["words"])
        return "labels"

    measured = LogMeter(path).measure(lambda: work(10.0), 3.0, clock)
    assert measured.result == "labels"
    assert measured.report is not None, measured.reason
    assert measured.report.net_j == pytest.approx(POWER.net_j, rel=0.01)
    assert measured.watts[0][0] == pytest.approx(-3.05)
    other = LogMeter(path).measure(lambda: work(12.0), 3.0, clock)
    assert (other.result, other.report) == ("labels", None)
    assert "10.00 s between its markers, but the work took 12.00 s; set the markers where" in other.reason


def test_a_log_that_was_never_written_costs_the_energy_but_not_the_result(tmp_path: Path) -> None:
    measured = LogMeter(tmp_path / "none.csv").measure(lambda: "labels", 1.0, StepClock())
    assert (measured.result, measured.report) == ("labels", None)
    assert "none.csv: cannot be read (No such file or directory)" in measured.reason


HEAD = "time_s,power_w,marker\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty, expected columns time_s, power_w"),
        ("power_w,marker\n1,\n", "has no column time_s, only power_w, marker; expected columns"),
        ("time_s,volts,marker\n1,5,\n", "has no column power_w, only time_s, volts, marker"),
        ("time_s,power_w\n1,5\n", "has no column marker"),
        (f"{HEAD}0,5,start\n1,5\n", "line 3: 2 cells, expected 3"),
        (f"{HEAD}0,5,start\n1,five,stop\n", "line 3: power_w is 'five', expected a number"),
        (f"{HEAD}0,5,start\nnow,5,stop\n", "line 3: time is 'now', expected seconds or a date"),
        (f"{HEAD}0,5,start\n2,5,\n1,5,stop\n", "time runs from 2 s back to 1 s"),
        (f"{HEAD}0,5,start\n", "holds 1 samples; log while tsm-edge measures"),
        (f"{HEAD}0,5,\n1,5,\n", "column marker has 0 starts and 0 stops, expected one start, then one stop; write"),
        (f"{HEAD}0,5,stop\n1,5,start\n", "column marker has 1 starts and 1 stops"),
        (f"{HEAD}0,5,start\n1,5,start\n2,5,stop\n", "column marker has 2 starts and 1 stops"),
        (f"{HEAD}0,5,0\n1,5,1\n2,5,0\n3,5,1\n4,5,0\n", "column marker has 2 starts and 2 stops"),
        (f"{HEAD}0,5,start\n1,0,\n2,5,stop\n", "reads 0 W in total"),
        (f"{HEAD}0,5,start\n1,-5,\n2,5,stop\n", "reads -5 W, expected no negative power"),
    ],
)
def test_a_log_that_cannot_be_understood_is_refused_with_the_place(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(PowerError, match=reason):
        read_log(path)


def test_a_log_without_idle_time_around_the_work_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    inside = [row for row in ROWS if POWER.work_from - 0.1 < row[0] < POWER.work_to + 0.1]
    path.write_text(lines("time_s,power_w,marker", lambda t, w: f"{t:.3f},{w:.6f},{marker(t)}", inside))
    with pytest.raises(PowerError, match=r"gave 3 samples in 0\.1 s of idling before, expected at least 10"):
        read_log(path).report()


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xff\x00\x01\x02")
    with pytest.raises(TsmEdgeError, match="is not UTF-8"):
        read_log(path)
