"""The report of a training as one HTML file: curves, confusions, the worst clips. No script, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tsm_edge.training.measures import Measures

if TYPE_CHECKING:
    from tsm_edge.training.loop import Point
    from tsm_edge.training.output import Trained

_WIDTH, _HEIGHT, _EDGE = 620, 220, 44
_THUMBNAILS = 8
_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1c2733; --soft: #55626f }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --ink: #e7ebf0; --soft: #9aa6b3 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--page); color: var(--ink) }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2rem .5rem; text-align: right }
th:first-child { text-align: left } svg { max-width: 100%; height: auto } .wide { overflow-x: auto }
.worst { margin: 1rem 0 } .worst img { image-rendering: pixelated; width: 100% }
.worst p { margin: 0 } svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
"""


@dataclass(frozen=True)
class WorstClip:
    """A clip whose true class was given little.

    Attributes
    ----------
    frames : ndarray
        uint8 RGB ``[T, H, W, 3]``.
    true, found : int
        Classes.
    probability : float
        Of the true class, 0..1.
    name : str
        What a person finds it by.
    """

    frames: npt.NDArray[np.uint8] = field(repr=False)
    true: int
    found: int
    probability: float
    name: str


def render(name: str, trained: Trained, worst: Sequence[WorstClip]) -> str:
    """The report's HTML."""
    test, points = trained.test, trained.points
    sections = [
        ("Progress", _curves(points)),
        ("Early recognition", _early(test)),
        ("Confusion", _confusion(test)),
        ("Worst clips", "".join(_clip(clip, test.labels) for clip in worst) or "<p>None.</p>"),
        ("Recipe", f"<p>{escape(_recipe(trained))}</p><p>Started from: {escape(trained.start)}.</p>"),
    ]
    body = "\n".join(f"<section><h2>{title}</h2>\n{content}</section>" for title, content in sections)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training of {escape(name)}</title><style>{_STYLE}</style></head>
<body><h1>Training of {escape(name)}</h1>
<p>Test accuracy {escape(str(test.overall))}: share of right clips, with its 95 % interval.
Clips: {escape(trained.origin)}. Training took {time_taken(trained.seconds)}.</p>
{body}
</body></html>
"""


def time_taken(seconds: float) -> str:
    """In words: seconds, or minutes where there are many."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _recipe(trained: Trained) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in vars(trained.recipe).items())


def _curves(points: Sequence[Point]) -> str:
    clips = [float(point.clips) for point in points]
    accuracy = _plot(clips, [100 * point.accuracy for point in points], "validation accuracy (%)", "{:,.0f} clips", 100)
    highest = max((point.loss for point in points), default=1.0)
    return accuracy + _plot(clips, [point.loss for point in points], "training loss", "{:,.0f} clips", highest)


def _early(test: Measures) -> str:
    shares = [100 * share for share, _ in test.early]
    return _plot(shares, [100 * value for _, value in test.early], "accuracy (%)", "{:.0f} % of the frames seen", 100)


def _plot(x: Sequence[float], y: Sequence[float], title: str, axis: str, top: float) -> str:
    """A line through points, with both axes from zero; ``axis`` says what the right end of the lower one is."""
    if not x:
        return "<p>Nothing was measured on the way.</p>"
    right, top = max(*x, 1e-9) if len(x) > 1 else max(x[0], 1e-9), max(top, 1e-9)
    across = [_EDGE + (_WIDTH - 2 * _EDGE) * value / right for value in x]
    along = [_HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * min(value / top, 1) for value in y]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, along, strict=True))
    dots = "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="#3d7fc1"><title>{value:.4g}</title></circle>'
        for a, b, value in zip(across, along, y, strict=True)
    )
    bottom = _HEIGHT - _EDGE
    return f"""<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{escape(title)}">
<line x1="{_EDGE}" y1="{bottom}" x2="{_WIDTH - _EDGE}" y2="{bottom}" stroke="#8b929b"/>
<line x1="{_EDGE}" y1="{_EDGE}" x2="{_EDGE}" y2="{bottom}" stroke="#8b929b"/>
<text x="{_EDGE}" y="{_EDGE - 14}">{escape(title)}</text>
<text x="{_EDGE - 8}" y="{_EDGE + 4}" text-anchor="end">{top:.3g}</text>
<text x="{_WIDTH - _EDGE}" y="{bottom + 18}" text-anchor="end">{escape(axis.format(right))}</text>
<polyline points="{line}" fill="none" stroke="#3d7fc1" stroke-width="2"/>{dots}</svg>
"""


def _confusion(test: Measures) -> str:
    head = "".join(f"<th>{escape(label)}</th>" for label in test.labels)
    rows = []
    for label, row in zip(test.labels, test.confusion, strict=True):
        whole = max(sum(row), 1)
        cells = "".join(f'<td style="background: rgba(61,127,193,{count / whole:.2f})">{count}</td>' for count in row)
        rows.append(f"<tr><th>{escape(label)}</th>{cells}</tr>")
    table = f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    return f'<p>Rows are the true classes.</p><div class="wide">{table}</div>'


def _clip(clip: WorstClip, labels: Sequence[str]) -> str:
    import cv2

    order = np.linspace(0, len(clip.frames) - 1, _THUMBNAILS).round().astype(int)
    strip = np.concatenate(list(clip.frames[order]), 1)
    data = base64.b64encode(cv2.imencode(".png", strip[..., ::-1])[1].tobytes()).decode()
    found = "right" if clip.true == clip.found else f"taken for {labels[clip.found]}"
    text = f"{clip.name}: {labels[clip.true]}, {found}; its probability {100 * clip.probability:.0f} %"
    return f'<div class="worst"><p>{escape(text)}</p><img src="data:image/png;base64,{data}" alt=""></div>'
