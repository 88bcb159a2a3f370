"""The state as Prometheus reads it: the text exposition format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from tsm_edge.page.state import State
from tsm_edge.page.wire import BOUNDS_S

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "tsm_edge_"
Sample = tuple[str, dict[str, str], float]
_DURATIONS = {
    "decode": "Decoding a frame and converting it to RGB.",
    "preprocess": "Resizing and normalising a frame.",
    "step": "The network, with its shift caches.",
    "latency": "From the arrival of a frame to its label.",
}


def to_text(state: State) -> str:
    """Return all metrics, each with its help and type."""
    latest = state.latest
    families = [
        _counter("frames_total", "Frames read from the source.", latest.get("frames", 0)),
        _counter("predictions_total", "Frames the network predicted.", latest.get("predictions", 0)),
        _counter("frames_dropped_total", "Frames passed over to stay up to date.", latest.get("dropped", 0)),
        _family(
            "cache_resets_total",
            "counter",
            "Times the shift caches were reset in the middle, by reason.",
            [("", {"reason": reason}, count) for reason, count in sorted(latest.get("reset_reasons", {}).items())],
        ),
        *(_histogram(state, part, help_) for part, help_ in _DURATIONS.items()),
        _gauge("prediction_age_seconds", "Since the last prediction, or the start.", state.age_s),
        _gauge("up", "1: predictions come.", int(state.healthy)),
        _gauge("viewers", "Browsers that show the page.", state.viewers),
        _counter("page_restarts_total", "Times the page's own process was started again.", _of(state, "page_restarts")),
        *_receivers(state),
        *_machine(state),
    ]
    return "".join(families)


def _of(state: State, name: str) -> float:
    return float(state.latest.get(name, 0))


def _receivers(state: State) -> Iterator[str]:
    """What became of events, by who gets them."""
    receivers = state.latest.get("receivers", [])
    for name, help_ in (
        ("delivered", "Events that arrived."),
        ("retries", "Tries to deliver an event that failed."),
        ("lost", "Events given up: no room was left, or the receiver refused them."),
    ):
        samples: list[Sample] = [("", {"receiver": item["name"]}, item[name]) for item in receivers]
        yield _family(f"events_{name}_total", "counter", help_, samples)
    waiting: list[Sample] = [("", {"receiver": item["name"]}, item["waiting"]) for item in receivers]
    yield _family("events_waiting", "gauge", "Events that wait to be delivered.", waiting)


def _machine(state: State) -> Iterator[str]:
    readings = state.readings
    zones: list[Sample] = [("", {"zone": item.zone}, item.value_c) for item in readings.temperatures]
    yield _family("temperature_celsius", "gauge", "Of a part of this machine.", zones)
    if readings.cpu_mhz is not None:
        yield _gauge("cpu_clock_hertz", "Of the fastest core now.", readings.cpu_mhz * 1e6)
    if readings.gpu_mhz is not None:
        yield _gauge("gpu_clock_hertz", "Of the GPU now.", readings.gpu_mhz * 1e6)
    if readings.power_w is not None:
        yield _gauge("power_watts", f"Drawn by {readings.power_covers}.", readings.power_w)


def _histogram(state: State, part: str, help_: str) -> str:
    counts, sum_s = state.latest.get("histograms", {}).get(part, ([0] * (len(BOUNDS_S) + 1), 0.0))
    bounds = [*(repr(bound) for bound in BOUNDS_S), "+Inf"]
    samples: list[Sample] = [
        ("_bucket", {"le": bound}, total) for bound, total in zip(bounds, accumulate(counts), strict=True)
    ]
    samples += [("_sum", {}, sum_s), ("_count", {}, sum(counts))]
    return _family(f"{part}_seconds", "histogram", help_, samples)


def _counter(name: str, help_: str, value: float) -> str:
    return _family(name, "counter", help_, [("", {}, value)])


def _gauge(name: str, help_: str, value: float) -> str:
    return _family(name, "gauge", help_, [("", {}, value)])


def _family(name: str, kind: str, help_: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {_PREFIX}{name} {_escaped(help_)}", f"# TYPE {_PREFIX}{name} {kind}"]
    for suffix, labels, value in samples:
        inside = ",".join(f'{key}="{_escaped_value(text)}"' for key, text in labels.items())
        lines.append(
            f"{_PREFIX}{name}{suffix}{{{inside}}} {value:.10g}" if inside else f"{_PREFIX}{name}{suffix} {value:.10g}"
        )
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escaped_value(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
