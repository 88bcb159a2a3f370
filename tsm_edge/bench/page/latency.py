"""How long frames take: a histogram, and the table of percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tsm_edge.bench.page import svg
from tsm_edge.bench.page.html import Html, element, join, section, table
from tsm_edge.bench.page.style import LATENCY
from tsm_edge.bench.page.svg import Axis
from tsm_edge.bench.result import Latency, Result
from tsm_edge.bench.verdicts import shown_ms

_MOST_BINS, _FEWEST_BINS = 60, 12
_FEWEST_FRAMES = 8


def histogram(result: Result) -> Html:
    """Frames by their time, with the percentiles."""
    samples = result.samples.step_ms
    if len(samples) < _FEWEST_FRAMES:
        return Html("")
    low, high, counts = bins(samples)
    above = sum(value > high for value in samples)
    unit = result.model.unit
    note = f"{len(samples)} {unit}s; a bar is {svg.shown(round((high - low) / len(counts), 4))} ms wide."
    if above:
        note += f" Slower than the drawing shows: {above}, up to {max(samples):.4g} ms."

    def draw(width: int) -> tuple[Html, int]:
        x = Axis(low, high, 46, width - 14)
        y = Axis(0, max(counts) * 1.04, 236, 42)
        bar = (x.stop - x.start) / len(counts)
        parts = [svg.across(x, y, width // 90, f"ms a {unit}"), svg.upwards(y, x, 4)]
        for index, count in enumerate(counts):
            start = low + index * (high - low) / len(counts)
            words = f"{count} {unit}s of {start:.3f} to {start + (high - low) / len(counts):.3f} ms"
            place = (x.start + index * bar + 0.5, y.at(count), bar - 1, y.start - y.at(count))
            parts.append(svg.box(*place, svg.title(words), fill=LATENCY, rx=1.5))
        parts += _marks(result.latency_ms, x, y)
        return join(parts), 276

    return section(f"How long a {unit} takes", svg.drawings(draw, "histogram of the latency"), note=note)


def bins(samples: Sequence[float]) -> tuple[float, float, list[int]]:
    """Lowest and highest edge, and frames in each bin, by the rule of Freedman and Diaconis; far outliers beyond."""
    ordered = sorted(samples)
    count = len(ordered)
    quarter, three = ordered[count // 4], ordered[(3 * count) // 4]
    low, high = ordered[0], ordered[-1]
    # One frame in a thousand may lie so far out that the others would be one bar.
    far = three + 12 * max(three - quarter, 1e-3 * three)
    high = max(value for value in ordered if value <= far) if high > far else high
    width = 2 * (three - quarter) / count ** (1 / 3) or (high - low) / _FEWEST_BINS or low * 1e-3 or 1e-6
    number = min(_MOST_BINS, max(_FEWEST_BINS, math.ceil((high - low) / width)))
    low, high = (low, high) if high > low else (low - width, high + width)
    counts = [0] * number
    for value in ordered:
        if value <= high:
            counts[min(number - 1, int((value - low) / (high - low) * number))] += 1
    return low, high, counts


def _marks(latency: Latency, x: Axis, y: Axis) -> list[Html]:
    parts: list[Html] = []
    named = (("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99))
    for index, (name, value) in enumerate((name, value) for name, value in named if value is not None):
        if value > x.high:
            continue
        place, height = x.at(value), y.stop - 4 - 13 * (2 - index)
        parts.append(svg.line(place, height + 3, place, y.start, "mark"))
        end = place > x.stop - 90
        parts.append(
            svg.label(
                place + (-5 if end else 5), height + 8, f"{name} {shown_ms(value)}", "head", "end" if end else "start"
            )
        )
    return parts


def percentiles(result: Result) -> Html:
    """All summaries side by side, with why a figure is missing."""
    video = result.camera_to_label
    named: list[tuple[str, Latency | None]] = [
        ("step, with its copies", result.latency_ms),
        ("kernels alone", result.kernels_ms),
        ("decode", video.decode_ms if video else None),
        ("preprocess", video.preprocess_ms if video else None),
        ("step, with video", video.step_ms if video else None),
        ("camera to label", video.total_ms if video else None),
        ("network, an empty call", result.network_ms),
    ]
    given = [(name, latency) for name, latency in named if latency is not None and latency.count]
    if not given:
        return Html("")
    unit = result.model.unit
    columns = ("ms", f"{unit}s", "min", "p50", "p90", "p99", "max", "mean", "σ", "σ / mean")
    rows = [(name, latency.count, *_cells(latency)) for name, latency in given]
    reasons = [
        f"{name}: {', '.join(f'no {item.key} ({item.reason})' for item in latency.refused)}"
        for name, latency in given
        if latency.refused
    ]
    why = element("p", f"{'; '.join(reasons)}.", class_="note") if reasons else Html("")
    note = (
        "p90 and p99 are MLPerf's early-stopping estimates: with 99 % confidence so many percent of all "
        f"{unit}s are no slower. In brackets: the percentile of these {unit}s."
    )
    return section("Percentiles", table(columns, rows), why, note=note)


def _cells(latency: Latency) -> list[str]:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    def estimate(value: float | None, observed: float | None) -> str:
        return number(value) if observed is None else f"{number(value)} ({observed:.3f})"

    return [
        number(latency.min),
        number(latency.p50),
        estimate(latency.p90, latency.p90_observed),
        estimate(latency.p99, latency.p99_observed),
        *map(number, (latency.max, latency.mean, latency.std)),
        "–" if latency.cv_percent is None else f"{latency.cv_percent:.1f} %",
    ]
