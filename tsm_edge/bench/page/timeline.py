"""Latency, the machine's own speed, clock, temperature and power on one axis of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tsm_edge.bench.disturbances import fastest_mhz
from tsm_edge.bench.page import svg
from tsm_edge.bench.page.html import Html, element, join, legend, section
from tsm_edge.bench.page.style import ARITHMETIC, CLOCK, GPU, HEAT, LATENCY, MEMORY, POWER
from tsm_edge.bench.page.svg import Axis
from tsm_edge.bench.result import Environment, Result

Point = tuple[float, float]
_PANEL, _GAP, _TOP = 108, 30, 24
_MOST_ZONES = 3
_SHADES = (1.0, 0.6, 0.35)


@dataclass(frozen=True)
class Line:
    """One quantity over time.

    Attributes
    ----------
    name, colour : str
    points : tuple of (float, float)
        Seconds, value.
    opacity : float
    """

    name: str
    colour: str
    points: tuple[Point, ...]
    opacity: float = 1.0


@dataclass(frozen=True)
class Panel:
    """Quantities of one unit, one above the other on the page.

    Attributes
    ----------
    title : str
    lines : tuple of Line
    least : float
        Smallest range that the axis shows, so that noise does not look like a change.
    """

    title: str
    lines: tuple[Line, ...]
    least: float


def timeline(result: Result) -> Html:
    """What was seen of each; what was not is left out, and said so."""
    panels = [panel for panel in _panels(result) if panel.lines]
    frames = panels and panels[0].lines[0].points
    if not frames or len(result.samples.step_ms) < 2:
        return Html("")
    seen = {panel.title.split(",")[0] for panel in panels}
    missing = [name for name in ("clock", "temperature", "power") if name not in seen]
    looked = result.environment_before is not None
    note = "The shaded part is measured; before and after it the machine warms up or idles." if looked else ""
    if looked and missing:
        note += f" Not seen on this machine: {', '.join(missing)}."
    low, high = _span(panels)
    entries = [(line.colour, line.name) for panel in panels for line in panel.lines]

    def draw(width: int) -> tuple[Html, int]:
        x = Axis(low, high, 52, width - 20)
        parts = []
        for index, panel in enumerate(panels):
            top = _TOP + index * (_PANEL + _GAP)
            parts.append(_draw(panel, x, top, result, last=index == len(panels) - 1))
        return join(parts), _TOP + len(panels) * (_PANEL + _GAP) - 2

    return section(
        "Over time",
        legend(entries),
        svg.drawings(draw, "latency, the machine's speed, clock, temperature, power over time"),
        note=note,
    )


def _panels(result: Result) -> Iterator[Panel]:
    looks = [look for look in (result.environment_before, *result.environment_during, result.environment_after) if look]
    latency = tuple(zip(result.samples.start_s, result.samples.step_ms, strict=True))
    yield Panel("latency, ms", (Line("latency", LATENCY, latency),), 0.02 * (result.latency_ms.p50 or 1.0))
    yield Panel("fixed work, % of its fastest", tuple(_speeds(result)), 20.0)
    yield Panel("clock, MHz", tuple(_clocks(looks)), 200.0)
    yield Panel("temperature, °C", tuple(_temperatures(looks)), 10.0)
    watts = tuple((item.at_s, item.power_w) for item in result.watts)
    yield Panel(
        "power, W",
        (Line(f"power ({result.power.sensor})" if result.power else "power", POWER, watts),) if watts else (),
        1.0,
    )


def _speeds(result: Result) -> Iterator[Line]:
    """The yardstick: what the machine itself did, whatever the model."""
    for key, name, colour in (
        ("arithmetic_ms", "fixed work", ARITHMETIC),
        ("memory_ms", "reading memory", MEMORY),
    ):
        times = [getattr(pause, key) for pause in result.yardstick]
        if times and min(times) > 0:
            points = (
                (pause.at_s, 100 * took / min(times)) for pause, took in zip(result.yardstick, times, strict=True)
            )
            yield Line(name, colour, tuple(points))


def _clocks(looks: Sequence[Environment]) -> Iterator[Line]:
    cpu = tuple((look.at_s, mhz) for look in looks if (mhz := fastest_mhz(look)) is not None)
    if cpu:
        yield Line("CPU clock", CLOCK, cpu)
    names = dict.fromkeys(gpu.name for look in looks for gpu in look.gpus)
    for name in names:
        points = [(look.at_s, gpu.current_mhz) for look in looks for gpu in look.gpus if gpu.name == name]
        given = tuple((at, mhz) for at, mhz in points if mhz is not None)
        if given:
            yield Line(f"GPU clock ({name})", GPU, given)


def _temperatures(looks: Sequence[Environment]) -> Iterator[Line]:
    zones: dict[str, list[Point]] = {}
    for look in looks:
        for item in look.temperatures:
            zones.setdefault(item.zone, []).append((look.at_s, item.value_c))
    hottest = sorted(zones, key=lambda zone: -max(value for _, value in zones[zone]))[:_MOST_ZONES]
    for zone, opacity in zip(hottest, _SHADES, strict=False):
        yield Line(zone, HEAT, tuple(zones[zone]), opacity)


def _span(panels: Sequence[Panel]) -> tuple[float, float]:
    times = [at for panel in panels for line in panel.lines for at, _ in line.points]
    return min(times), max(max(times), min(times) + 1e-3)


def _draw(panel: Panel, x: Axis, top: float, result: Result, last: bool) -> Html:
    values = [value for line in panel.lines for _, value in line.points]
    y = Axis(*svg.spread(values, least=panel.least), top + _PANEL, top)
    start, stop = x.at(0.0), x.at(_end(result))
    parts = [svg.box(start, top, stop - start, _PANEL, class_="active")]
    parts += [svg.upwards(y, x, 4), svg.label(x.start, top - 8, panel.title, "head", "start")]
    parts += _alarms(result, x, top)
    for item in panel.lines:
        parts.append(_curve(item, x, y))
    if panel.lines[0].name.startswith("power") and result.power is not None:
        idle = y.at(result.power.idle_w)
        if y.stop <= idle <= y.start:
            parts.append(svg.line(x.start, idle, x.stop, idle, "guide"))
            parts.append(svg.label(start + 6, idle - 5, f"idle {result.power.idle_w:.2f} W", anchor="start"))
    parts.append(svg.line(x.start, y.start, x.stop, y.start, "zero"))
    if last:
        floor = Axis(0, 1, y.start, y.start)
        parts.append(svg.across(x, floor, int((x.stop - x.start) / 90), "", lambda value: f"{svg.shown(value)} s"))
    return join(parts)


def _end(result: Result) -> float:
    return result.samples.start_s[-1] + result.samples.step_ms[-1] / 1e3


def _alarms(result: Result, x: Axis, top: float) -> Iterator[Html]:
    """Red where the machine said that it held itself back."""
    looks = list(result.environment_during)
    for index, look in enumerate(looks):
        if look.throttled_now:
            after = looks[index + 1].at_s if index + 1 < len(looks) else _end(result)
            width = max(2.0, x.at(after) - x.at(look.at_s))
            yield svg.box(x.at(look.at_s), top, width, _PANEL, svg.title(", ".join(look.throttled_now)), class_="alarm")


def _curve(item: Line, x: Axis, y: Axis) -> Html:
    """A line; of more points than the drawing has columns, the median of each column and its range."""
    columns = int(x.stop - x.start)
    look = {"stroke": item.colour, "stroke_opacity": item.opacity}
    if len(item.points) <= columns:
        places = [(x.at(at), y.at(value)) for at, value in item.points]
        dots = len(places) < 40
        marks = [element("circle", cx=f"{px:.1f}", cy=f"{py:.1f}", r=2, fill=item.colour) for px, py in places if dots]
        return join([svg.path(places, "curve", **look), *marks])
    gathered: dict[int, list[float]] = {}
    for at, value in item.points:
        gathered.setdefault(int(x.at(at)), []).append(value)
    ranges, middle = [], []
    for column, values in sorted(gathered.items()):
        values.sort()
        middle.append((float(column), y.at(values[len(values) // 2])))
        ranges.append(f"M{column} {y.at(values[0]):.1f}V{y.at(values[-1]):.1f}")
    shade = element("path", d="".join(ranges), class_="range", stroke=item.colour)
    return join([shade, svg.path(middle, "curve", **look)])
