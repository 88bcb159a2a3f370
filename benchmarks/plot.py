"""Small line plots with error bars, as one self-contained SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 380, 240, 60, 50, 40
COLOURS = ("#0b6e99", "#c2570c", "#4d7c0f")


@dataclass(frozen=True)
class Line:
    """A named line of points (x, y, low, high)."""

    name: str
    points: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One plot."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]


def line_plots(panels: Sequence[Panel], caption: str) -> str:
    """Draw the panels side by side."""
    width = len(panels) * (WIDTH + LEFT + GAP)
    height = TOP + HEIGHT + 80
    style = "text{font:12px sans-serif;fill:#222}.t{font-weight:bold}.g{stroke:#ddd}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>',
        *(_panel(panel, LEFT + index * (WIDTH + LEFT + GAP)) for index, panel in enumerate(panels)),
        f'<text x="{LEFT}" y="{height - 10}">{escape(caption)}</text></svg>',
    ]
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, left: float) -> str:
    points = [point for line in panel.lines for point in line.points]
    x_max = max(point[0] for point in points) or 1.0
    low = min(0.0, *(point[2] for point in points))
    step = _step(max(0.0, *(point[3] for point in points)) - low)
    bottom = step * (low // step)
    ticks = [bottom]
    while ticks[-1] < max(point[3] for point in points) or len(ticks) < 2:
        ticks.append(ticks[-1] + step)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + WIDTH * x / x_max, TOP + HEIGHT * (1 - (y - bottom) / (ticks[-1] - bottom))

    parts = [f'<text class="t" x="{left}" y="20">{escape(panel.title)}</text>']
    for tick in ticks:
        y = at(0, tick)[1]
        parts.append(f'<line class="g" x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for x in sorted({point[0] for point in points}):
        parts.append(f'<text x="{at(x, 0)[0]:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{left}" y="40">{escape(panel.y_label)}</text>')
    middle = left + WIDTH / 2
    parts.append(f'<text x="{middle}" y="{TOP + HEIGHT + 36}" text-anchor="middle">{escape(panel.x_label)}</text>')
    for index, line in enumerate(panel.lines):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y, _, _ in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, below, above in line.points:
            (px, py), (_, top), (_, base) = at(x, y), at(x, above), at(x, below)
            parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{top:.1f}" y2="{base:.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>')
        parts.append(
            f'<text x="{left + 10}" y="{TOP + 16 + 16 * index}" style="fill:{colour}">{escape(line.name)}</text>'
        )
    return "\n".join(parts)


def _step(extent: float) -> float:
    """Return a round distance of ticks, about five over ``extent``."""
    scale = 1e-3
    while True:
        for factor in (1, 2, 5):
            if extent / (factor * scale) <= 6:
                return factor * scale
        scale *= 10
