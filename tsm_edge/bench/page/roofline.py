"""Arithmetic over memory traffic, both logarithmic: a dot a kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tsm_edge.bench.page import svg
from tsm_edge.bench.page.html import Html, element, join
from tsm_edge.bench.page.style import colour_of_rule
from tsm_edge.bench.page.svg import Axis
from tsm_edge.bench.result import KernelFigures

_GUIDES_GB_S = (1, 10, 100, 1000)


def roofline(kernels: Sequence[KernelFigures], peak_gflops: float | None) -> Html:
    """GFLOP/s over FLOP a byte."""
    points = [kernel for kernel in kernels if kernel.flops and kernel.bytes and kernel.time_us]
    if not points:
        return element("p", "No kernel does arithmetic.", class_="note")
    return svg.drawings(lambda width: _draw(points, peak_gflops, width), "roofline")


def _draw(points: Sequence[KernelFigures], peak_gflops: float | None, width: int) -> tuple[Html, int]:
    height = 452 if width > 600 else 400
    rates = [kernel.gflops for kernel in points] + ([peak_gflops] if peak_gflops else [])
    x = Axis(*svg.decades(map(_intensity, points)), 58, width - 18, logarithmic=True)
    y = Axis(*svg.decades(rates), height - 54, 12, logarithmic=True)
    parts = [svg.across(x, y, 0, "FLOP/byte"), svg.upwards(y, x, 0), *_guides(x, y)]
    middle = (y.start + y.stop) / 2
    parts.append(svg.label(14, middle, "GFLOP/s", transform=f"rotate(-90 14 {middle:.0f})"))
    if peak_gflops:
        place = y.at(peak_gflops)
        parts.append(svg.line(x.start, place, x.stop, place, "peak"))
        # At the right end: the guides' numbers are on the left.
        parts.append(svg.label(x.stop - 6, place - 6, f"peak {peak_gflops:.0f} GFLOP/s", "head", "end"))
    longest = max(kernel.time_us for kernel in points)
    for kernel in sorted(points, key=lambda item: -item.time_us):
        words = f"{kernel.layer}: {kernel.gflops:.1f} GFLOP/s at {_intensity(kernel):.1f} FLOP/byte"
        fill = colour_of_rule(kernel.rule)
        parts.append(
            element(
                "circle",
                svg.title(words),
                cx=f"{x.at(_intensity(kernel)):.1f}",
                cy=f"{y.at(kernel.gflops):.1f}",
                r=f"{3 + 11 * math.sqrt(kernel.time_us / longest):.1f}",
                fill=fill,
                fill_opacity=0.6,
                stroke=fill,
            )
        )
    return join(parts), height


def _guides(x: Axis, y: Axis) -> Iterator[Html]:
    """Lines of equal GB/s, cut to the frame."""
    for bandwidth in _GUIDES_GB_S:
        low, high = max(x.low, y.low / bandwidth), min(x.high, y.high / bandwidth)
        if low >= high:
            continue
        x1, y1, x2, y2 = x.at(low), y.at(low * bandwidth), x.at(high), y.at(high * bandwidth)
        yield svg.line(x1, y1, x2, y2, "guide")
        yield svg.label(x1 + 0.3 * (x2 - x1) + 8, y1 + 0.3 * (y2 - y1) + 6, f"{bandwidth} GB/s", anchor="start")


def _intensity(kernel: KernelFigures) -> float:
    return kernel.flops / kernel.bytes
