"""Drawing: axes, ticks and lines, as SVG. Every chart is drawn twice, for a wide window and for a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tsm_edge.bench.page.html import Html, element, join, text

WIDE, NARROW = 920, 360


@dataclass(frozen=True)
class Axis:
    """From values to places on the drawing.

    Attributes
    ----------
    low, high : float
        Values at its ends.
    start, stop : float
        Where they lie.
    logarithmic : bool
    """

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of a value."""
        ends, place = (self.low, self.high), value
        if self.logarithmic:
            ends, place = (math.log10(self.low), math.log10(self.high)), math.log10(value)
        return self.start + (self.stop - self.start) * (place - ends[0]) / ((ends[1] - ends[0]) or 1.0)

    def ticks(self, count: int) -> list[float]:
        """About so many round values; on a logarithmic axis the powers of ten."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1)]
        step = round_step((self.high - self.low) / max(1, count) * 0.7)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def round_step(span: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if not span > 0 or not math.isfinite(span):
        return 1.0
    power = 10.0 ** math.floor(math.log10(span))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span * (1 - 1e-9))


def spread(values: Iterable[float], margin: float = 0.08, least: float = 0.0) -> tuple[float, float]:
    """The range of values with some air around it, at least ``least`` wide."""
    listed = list(values)
    low, high = min(listed), max(listed)
    air = max((high - low) * margin, (least - (high - low)) / 2, abs(high) * 1e-6, 1e-9)
    return low - air, high + air


def decades(values: Iterable[float]) -> tuple[float, float]:
    """Powers of ten around positive values, at least one decade."""
    listed = list(values)
    low, high = math.floor(math.log10(min(listed))), math.ceil(math.log10(max(listed) * 1.05))
    return 10.0**low, 10.0 ** max(high, low + 1)


def label(x: float, y: float, words: object, class_: str = "soft", anchor: str = "middle", **more: object) -> Html:
    """Text at a place."""
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", class_=class_, text_anchor=anchor, **more)


def line(x1: float, y1: float, x2: float, y2: float, class_: str = "grid", **more: object) -> Html:
    """A straight line."""
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_, **more)


def box(x: float, y: float, width: float, height: float, *inner: Html, **more: object) -> Html:
    """A rectangle."""
    sizes = {"x": f"{x:.2f}", "y": f"{y:.2f}", "width": f"{max(0.0, width):.2f}", "height": f"{max(0.0, height):.2f}"}
    return element("rect", *inner, **sizes, **more)


def path(points: Sequence[tuple[float, float]], class_: str, **more: object) -> Html:
    """A line through points."""
    places = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=f"M{places}", class_=class_, **more) if points else Html("")


def title(words: str) -> Html:
    """What a pointer that rests on a shape shows."""
    return element("title", words)


def across(axis: Axis, y: Axis, count: int, unit: str = "", words: Callable[[float], str] | None = None) -> Html:
    """Grid lines and numbers of a horizontal axis, below the drawing."""
    bottom, top = max(y.start, y.stop), min(y.start, y.stop)
    parts = []
    for value in axis.ticks(count):
        x = axis.at(value)
        parts.append(line(x, top, x, bottom))
        parts.append(label(x, bottom + 17, words(value) if words else shown(value)))
    if unit:
        parts.append(label((axis.start + axis.stop) / 2, bottom + 35, unit))
    return join(parts)


def upwards(axis: Axis, x: Axis, count: int, words: Callable[[float], str] | None = None) -> Html:
    """Grid lines and numbers of a vertical axis, left of the drawing."""
    parts = []
    for value in axis.ticks(count):
        y = axis.at(value)
        parts.append(line(x.start, y, x.stop, y))
        parts.append(label(x.start - 7, y + 4, words(value) if words else shown(value), anchor="end"))
    return join(parts)


def shown(value: float) -> str:
    """A number without digits that say nothing."""
    return f"{value:.6g}" if abs(value) >= 1e-9 else "0"


def drawings(draw: Callable[[int], tuple[Html, int]], name: str) -> Html:
    """A chart for a wide window and one for a phone.

    Parameters
    ----------
    draw : callable
        From the drawing's width to its content and height.
    name : str
        For those who hear the page.
    """
    found = []
    for kind, width in (("wide", WIDE), ("narrow", NARROW)):
        content, height = draw(width)
        frame = f'class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{text(name)}"'
        found.append(Html(f"<svg {frame}>\n{content}\n</svg>"))
    return join(found)
