"""Several results side by side: their figures in a table, their medians as bars, their frames on one axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tsm_edge.bench.page import svg
from tsm_edge.bench.page.html import Html, element, join, legend, section, table
from tsm_edge.bench.page.style import SERIES
from tsm_edge.bench.page.svg import Axis
from tsm_edge.bench.result import Result
from tsm_edge.bench.verdicts import shown_ms, shown_rate

_NONE = "–"
_CURVE = 160  # steps of the cumulative curves


def side_by_side(results: Sequence[Result]) -> Html:
    """Empty for one result."""
    if len(results) < 2:
        return Html("")
    names = unique_names(results)
    colours = [SERIES[index % len(SERIES)] for index in range(len(results))]
    units = {result.model.unit for result in results}
    unit = units.pop() if len(units) == 1 else "step"
    columns = ("", *names)
    rows = [(name.format(unit=unit), *(_cell(read(result)) for result in results)) for name, read in _ROWS]
    filled = [row for row in rows if any(cell != _NONE for cell in row[1:])]
    return join(
        [
            section(
                "Side by side",
                table(columns, filled, "beside"),
                element("h4", "Median and 99 % interval, p99"),
                svg.drawings(lambda width: _bars(results, names, colours, unit, width), "medians side by side"),
            ),
            section(
                f"{unit.capitalize()}s side by side",
                legend(zip(colours, names, strict=True)),
                svg.drawings(lambda width: _curves(results, colours, unit, width), f"share of {unit}s within a time"),
                note=f"The share of {unit}s that take no longer.",
            ),
        ]
    )


def unique_names(results: Sequence[Result]) -> list[str]:
    """Names of the results; those that are not alone get a number."""
    names = [result.name for result in results]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def _ms(value: float | None) -> str | None:
    return None if value is None else shown_ms(value)


def _trust(result: Result) -> str:
    bad = list(dict.fromkeys(item.name for item in result.verdicts if item.level == "bad"))
    notes = sum(item.level == "note" for item in result.verdicts)
    return f"✕ {', '.join(bad)}" if bad else f"✓ ({notes} note{'s' if notes > 1 else ''})" if notes else "✓"


_ROWS: tuple[tuple[str, Callable[[Result], str | None]], ...] = (
    ("median", lambda result: _ms(result.latency_ms.p50)),
    ("p90", lambda result: _ms(result.latency_ms.p90)),
    ("p99", lambda result: _ms(result.latency_ms.p99)),
    ("fastest", lambda result: _ms(result.latency_ms.min)),
    ("{unit}s a second", lambda result: None if result.fps is None else f"{shown_rate(result.fps)}"),
    ("above idle", lambda result: None if result.power is None else f"{result.power.net_w:.2f} W"),
    (
        "energy a {unit}",
        lambda result: None if result.power is None else f"{1e3 * result.power.net_j_per_frame:.3g} mJ",
    ),
    ("first label", lambda result: _ms(result.startup.first_label_ms)),
    ("{unit}s", lambda result: str(result.latency_ms.count)),
    ("board", lambda result: result.environment_before.board if result.environment_before else None),
    ("target", lambda result: result.model.target),
    ("model", lambda result: f"{result.model.name}, {result.model.precision}"),
    ("threads", lambda result: None if result.settings.threads is None else str(result.settings.threads)),
    ("to rely on", _trust),
)


def _cell(value: str | None) -> str:
    return value or _NONE


def _bars(
    results: Sequence[Result], names: Sequence[str], colours: Sequence[str], unit: str, width: int
) -> tuple[Html, int]:
    most = max((max(result.latency_ms.p50 or 0, result.latency_ms.p99 or 0) for result in results), default=1.0) or 1.0
    x = Axis(0.0, most * 1.06, 8, width - 12)
    row, bottom = 44, 6 + 44 * len(results)
    parts = [svg.across(x, Axis(0, 1, bottom, 6), width // 100, f"ms a {unit}")]
    for index, (result, name, colour) in enumerate(zip(results, names, colours, strict=True)):
        latency, top = result.latency_ms, 6 + index * row
        parts.append(svg.label(x.start + 2, top + 13, name, "head", "start"))
        if latency.p50 is None:
            parts.append(svg.label(x.start + 2, top + 31, "nothing was measured", anchor="start"))
            continue
        parts.append(svg.box(x.start, top + 19, x.at(latency.p50) - x.start, 16, fill=colour, rx=3))
        if latency.p50_low is not None and latency.p50_high is not None:
            parts.append(svg.line(x.at(latency.p50_low), top + 27, x.at(latency.p50_high), top + 27, "zero"))
        if latency.p99 is not None:
            parts.append(svg.line(x.at(latency.p99), top + 17, x.at(latency.p99), top + 37, "mark"))
        inside = latency.p50 > most / 2
        place = x.at(latency.p50) - 6 if inside else x.at(max(latency.p50, latency.p99 or 0)) + 6
        style = "fill:#fff" if inside else None
        parts.append(
            svg.label(place, top + 31, shown_ms(latency.p50), "head", "end" if inside else "start", style=style)
        )
    return join(parts), bottom + 42


def _curves(results: Sequence[Result], colours: Sequence[str], unit: str, width: int) -> tuple[Html, int]:
    ordered = [sorted(result.samples.step_ms) for result in results]
    given = [samples for samples in ordered if samples]
    if not given:
        return Html(""), 1
    # The slowest frame in a hundred would push all others to the left.
    high = max(samples[min(len(samples) - 1, int(0.995 * len(samples)))] for samples in given)
    low = min(samples[0] for samples in given)
    x = Axis(*svg.spread((low, high), 0.04), 46, width - 14)
    y = Axis(0.0, 100.0, 222, 12)
    parts = [svg.across(x, y, width // 90, f"ms a {unit}"), svg.upwards(y, x, 4, lambda value: f"{value:.0f} %")]
    for samples, colour in zip(ordered, colours, strict=True):
        if samples:
            ranks = sorted({round(step * (len(samples) - 1) / _CURVE) for step in range(_CURVE + 1)})
            points = [(min(x.at(samples[rank]), x.stop), y.at(100 * (rank + 1) / len(samples))) for rank in ranks]
            parts.append(svg.path(points, "curve", stroke=colour))
    return join(parts), 262
