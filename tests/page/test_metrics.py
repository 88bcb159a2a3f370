"""Counts of a run, and what Prometheus's own reader makes of them."""

from __future__ import annotations

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from tsm_edge.live.result import FrameResult
from tsm_edge.machine.heat import Temperature
from tsm_edge.page.metrics import to_text
from tsm_edge.page.readings import Readings
from tsm_edge.page.state import State
from tsm_edge.page.tally import Tally
from tsm_edge.page.wire import About, pack


def prediction(step_ms: float, label: int = 0, reset: str = "") -> FrameResult:
    logits = np.zeros(3, np.float32)
    return FrameResult(0, 0.0, f"class {label}", label, 0.5, 1.0, 2.0, step_ms, step_ms + 3, reset, logits)  # type: ignore[arg-type]


def state_of(tally: Tally, **more: object) -> State:
    state = State(About("model", "camera 0", ("a", "b", "c"), False, ""))
    state.take({**tally.news(0, -1), "began_s": 0.0, **more}, b"")
    return state


def test_prometheus_reads_what_was_counted() -> None:
    tally = Tally()
    for step_ms in (0.9, 1.0, 4.0, 40.0, 9_000.0):
        tally.add(1.0, prediction(step_ms))
    tally.add(2.0, prediction(4.0, reset="gap"))
    receivers = [{"name": 'a"b\\c\n', "delivered": 3, "retries": 2, "waiting": 1, "lost": 4}]
    state = state_of(tally, frames=8, predictions=6, dropped=2, receivers=receivers)
    state.readings = Readings((Temperature("cpu-thermal", 51.5),), 1400.0, None, 2.5, "the board")
    families = {family.name: family for family in text_string_to_metric_families(to_text(state))}
    values = {(item.name, *item.labels.values()): item.value for family in families.values() for item in family.samples}
    assert families["tsm_edge_step_seconds"].type == "histogram"
    assert values["tsm_edge_step_seconds_bucket", "0.001"] == 2  # a bound belongs to its bucket
    assert values["tsm_edge_step_seconds_bucket", "0.005"] == 4
    assert values["tsm_edge_step_seconds_bucket", "5.0"] == 5
    assert values["tsm_edge_step_seconds_bucket", "+Inf"] == values["tsm_edge_step_seconds_count",] == 6
    assert abs(values["tsm_edge_step_seconds_sum",] - 9.0499) < 1e-6
    assert values["tsm_edge_frames_total",] == 8
    assert values["tsm_edge_frames_dropped_total",] == 2
    assert values["tsm_edge_cache_resets_total", "gap"] == 1
    assert values["tsm_edge_temperature_celsius", "cpu-thermal"] == 51.5
    assert values["tsm_edge_cpu_clock_hertz",] == 1.4e9
    assert values["tsm_edge_power_watts",] == 2.5
    assert values["tsm_edge_events_lost_total", 'a"b\\c\n'] == 4
    assert values["tsm_edge_events_waiting", 'a"b\\c\n'] == 1


def test_before_the_first_prediction_everything_is_zero() -> None:
    text = to_text(State(About("model", "camera 0", (), False, "")))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["tsm_edge_up"].samples[0].value == 0
    assert families["tsm_edge_predictions"].samples[0].value == 0


def test_only_what_is_new_is_sent() -> None:
    tally = Tally()
    tally.add(1.0, prediction(1.0, label=1, reset="start"))
    tally.add(1.1, prediction(2.0, label=1))
    first = tally.news(0, -1)
    assert (first["steps"], first["segments"]) == ([1.0, 2.0], [[0, 1, 1.0, 1.1]])
    tally.add(1.2, prediction(3.0, label=1))
    tally.add(1.3, prediction(4.0, label=2))
    second = tally.news(first["step_count"], 0)
    assert (second["steps"], second["segments"]) == ([3.0, 4.0], [[0, 1, 1.0, 1.2], [1, 2, 1.3, 1.3]])
    # A break in the source ends a segment, though its label goes on.
    tally.add(9.0, prediction(5.0, label=2, reset="gap"))
    assert tally.news(4, 1)["segments"] == [[1, 2, 1.3, 1.3], [2, 2, 9.0, 9.0]]


def test_history_is_bounded() -> None:
    tally = Tally()
    for index in range(5_000):
        tally.add(0.2 * index, prediction(1.0, label=index % 2))
    news = tally.news(0, -1)
    assert len(news["steps"]) == 600
    assert news["step_count"] == 5_000
    assert all(end_s >= 0.2 * 4_999 - 300 for _, _, _, end_s in news["segments"])
    assert len(pack(news)) < 100_000
