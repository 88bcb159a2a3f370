"""The waterfall of one frame: what runs when, from the camera to the label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from tsm_edge.bench.page import svg
from tsm_edge.bench.page.html import Html, join, section
from tsm_edge.bench.page.style import LATENCY, colour_of_rule
from tsm_edge.bench.page.svg import Axis
from tsm_edge.bench.result import Latency, Result
from tsm_edge.compile.ir.element import ceil_div

_ROW, _MOST_ROWS = 19, 26
_OTHER = "#8b929b"


@dataclass(frozen=True)
class Part:
    """One bar.

    Attributes
    ----------
    name : str
    ms : float
    colours : tuple of (str, float)
        Parts of the bar, and their milliseconds.
    """

    name: str
    ms: float
    colours: tuple[tuple[str, float], ...]


def waterfall(result: Result) -> Html:
    """Medians, one after the other; empty where neither kernels nor a video were timed."""
    parts = list(_parts(result))
    if len(parts) < 2:
        return Html("")
    total = sum(part.ms for part in parts)

    def draw(width: int) -> tuple[Html, int]:
        names = 150 if width > 600 else 104
        x = Axis(0.0, total, names, width - 74)
        bottom = 8 + len(parts) * _ROW
        drawn = [svg.across(x, Axis(0, 1, bottom, 8), width // 110, "ms since the frame began")]
        at = 0.0
        for index, part in enumerate(parts):
            drawn += _row(part, at, x, 8 + index * _ROW)
            at += part.ms
        return join(drawn), bottom + 42

    note = "Medians, one after the other. Layers of one block are together, in the colours of their kernels."
    return section("One frame", svg.drawings(draw, "waterfall of one frame"), note=note)


def _row(part: Part, at: float, x: Axis, top: float) -> Iterator[Html]:
    yield svg.label(x.start - 7, top + 13, _short(part.name, 22 if x.start > 120 else 15), "soft", "end")
    start = x.at(at)
    for colour, ms in part.colours:
        wide = max(1.0, x.at(at + ms) - x.at(at))
        yield svg.box(start, top + 3, wide, _ROW - 6, svg.title(f"{part.name}: {part.ms:.3f} ms"), fill=colour, rx=2)
        start, at = start + wide, at + ms
    yield svg.label(start + 5, top + 13, f"{part.ms:.3f}" if part.ms < 10 else f"{part.ms:.1f}", "soft", "start")


def _parts(result: Result) -> Iterator[Part]:
    video = result.camera_to_label
    if video is not None:
        yield from _phase("decode", video.decode_ms, "#1f9fa5")
        yield from _phase("preprocess", video.preprocess_ms, "#b09a35")
    if not result.kernels:
        yield from _phase("step", video.step_ms if video else result.latency_ms, LATENCY)
        return
    # A block of a network is what its layers' names have in common: features.3 of features.3.expand.
    blocks = [
        (name, [(kernel.rule, kernel.time_us / 1e3) for kernel in group])
        for name, group in groupby(result.kernels, key=lambda kernel: _block(kernel.layer))
    ]
    for name, kernels in _joined(blocks):
        yield Part(name, sum(ms for _, ms in kernels), tuple((colour_of_rule(rule), ms) for rule, ms in kernels))
    outside = (result.latency_ms.p50 or 0.0) - sum(kernel.time_us for kernel in result.kernels) / 1e3
    if outside > 0:
        yield Part("not in kernels", outside, ((_OTHER, outside),))


def _phase(name: str, latency: Latency, colour: str) -> Iterator[Part]:
    if latency.p50:
        yield Part(name, latency.p50, ((colour, latency.p50),))


def _block(layer: str) -> str:
    words = layer.replace(" ", ".").split(".")
    return ".".join(words[:2]) if len(words) > 2 else layer


def _joined(blocks: list[tuple[str, list[tuple[str, float]]]]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Neighbours together, where there are more than a page shows."""
    if len(blocks) <= _MOST_ROWS:
        return blocks
    size = ceil_div(len(blocks), _MOST_ROWS)
    pieces = [blocks[start : start + size] for start in range(0, len(blocks), size)]
    return [
        (
            piece[0][0] if len(piece) == 1 else f"{piece[0][0]} – {piece[-1][0]}",
            [part for _, parts in piece for part in parts],
        )
        for piece in pieces
    ]


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
