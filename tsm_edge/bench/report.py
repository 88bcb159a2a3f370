"""A profile as one HTML file: charts in SVG, styles inside, no script, nothing fetched."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from tsm_edge.bench.profile import KernelTime, Profile, StageTime
from tsm_edge.files.atomic import write_atomic

# Colours that are told apart side by side; a rule that is not here gets one of its own from its name.
_COLOURS: Mapping[str, str] = {
    "pointwise": "#3d7fc1",
    "inverted_residual": "#7d63c9",
    "expand_depthwise": "#a98be0",
    "depthwise": "#dd8a2f",
    "convolution": "#2f9a74",
    "winograd": "#8fb02f",
    "grouped": "#1f9fa5",
    "max_pool": "#b09a35",
    "average_pool": "#b09a35",
    "elementwise": "#d0669a",
    "generic": "#c84a4a",
    "copy": "#8b929b",
    "shift": "#8b929b",
}
_GUIDES_GB_S = (1, 10, 100, 1000)


def write_report(path: Path, profile: Profile) -> None:
    """Write :func:`render` to a file, atomically.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    write_atomic(path, render(profile).encode("utf-8"))


def render(profile: Profile) -> str:
    """The report's HTML."""
    manifest, threads = profile.manifest, f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    subtitle = f"{manifest.target.name} ({manifest.target.cpu.cpu}) · {threads} · median of {profile.frames} frames"
    sections = [
        ("Where the time goes", _rules_bar(profile)),
        ("Kernels in the order they run", _legend(profile) + _kernel_bars(profile) + _stages_note(profile)),
        *([("Stages of fused kernels", _stages_table(profile))] if profile.fused() else []),
        ("Arithmetic and memory traffic", _roofline_note(profile) + _legend(profile) + _roofline(profile)),
        ("All numbers", _table(profile)),
    ]
    body = "\n".join(f"<section><h2>{title}</h2>\n{content}</section>" for title, content in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(manifest.model)}: kernel profile</title>
<style>{_STYLE}</style>
</head>
<body>
<header><h1>{escape(manifest.model)}</h1><p>{escape(subtitle)}</p></header>
{_tiles(profile)}
{body}
<footer>Made by tsm-edge profile from {escape(str(profile.path))}. Bytes count inputs, weights and outputs once each,
from whichever cache they lie in.</footer>
</body>
</html>
"""


_STYLE = """
:root { --page: #f6f7f9; --card: #ffffff; --ink: #1d2530; --soft: #5c6875; --line: #dfe3e8; --track: #eef1f4; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --card: #1c2229; --ink: #e6eaef; --soft: #98a3af; --line: #303841; --track: #252c34; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.25rem 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header h1 { margin: 0; font-size: 1.7rem; letter-spacing: -0.01em; }
header p, .note, footer { margin: 0.2rem 0 0; color: var(--soft); }
section { margin-top: 1.25rem; padding: 1.1rem 1.25rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; overflow-x: auto; }
h2 { margin: 0 0 0.7rem; font-size: 1.05rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.75rem;
  margin-top: 1.25rem; }
.tile { padding: 0.8rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile b { display: block; font-size: 1.45rem; font-weight: 600; letter-spacing: -0.01em; }
.tile span { color: var(--soft); font-size: 0.85rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 0 0 0.7rem; padding: 0; list-style: none;
  color: var(--soft); font-size: 0.87rem; }
.legend i { display: inline-block; width: 0.75rem; height: 0.75rem; margin-right: 0.4rem; border-radius: 3px;
  vertical-align: -0.08rem; }
svg { display: block; width: 100%; height: auto; }
svg.share { height: 26px; }
.narrow { display: none; }
.kernel { display: grid; grid-template-columns: 12rem 1fr 12rem; gap: 0 0.7rem; align-items: center; font-size: 12px;
  line-height: 19px; }
.kernel .name { text-align: right; }
.kernel .value { color: var(--soft); white-space: nowrap; }
.track { display: flex; gap: 1px; height: 14px; overflow: hidden; background: var(--track); border-radius: 3px;
  print-color-adjust: exact; }
.track i { flex: none; }
svg text { fill: var(--ink); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
svg .soft { fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .guide { stroke: var(--soft); stroke-width: 0.8; stroke-dasharray: 2 5; }
svg .peak { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 4; }
table { width: 100%; border-collapse: collapse; font-size: 0.82rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.28rem 0.4rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
td:nth-child(3) { min-width: 12rem; white-space: normal; }
footer { margin-top: 1.5rem; font-size: 0.85rem; overflow-wrap: anywhere; }
/* A phone: charts drawn for it, not the wide ones made small; of a table the names stay in sight. */
@media (max-width: 40rem) {
  body { padding: 1rem 0.7rem 2rem; }
  section { padding: 0.8rem 0.7rem 1rem; }
  .wide { display: none; }
  .narrow { display: block; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile { padding: 0.7rem; }
  .tile b { font-size: 1.15rem; white-space: nowrap; }
  .kernel { grid-template-columns: 1fr auto; margin-bottom: 6px; }
  .kernel .name { text-align: left; }
  .kernel .track { grid-row: 2; grid-column: 1 / -1; }
  th:first-child, td:first-child { position: sticky; left: 0; min-width: 7rem; max-width: 8.5rem; white-space: normal;
    overflow-wrap: anywhere; background: var(--card); }
  td:nth-child(3) { min-width: 6rem; }
}
"""


def colour(rule: str) -> str:
    """A rule's colour, the same in every report."""
    if rule.startswith("conv"):
        return _COLOURS["convolution"]
    return _COLOURS.get(rule) or f"hsl({zlib.crc32(rule.encode()) % 360} 45% 52%)"


def _tiles(profile: Profile) -> str:
    arithmetic = sum(kernel.info.flops for kernel in profile.kernels)
    tiles = [
        (
            f"{profile.step_ms:.2f} ms",
            f"a frame, {1e3 / profile.step_ms:.0f} a second; at best {profile.fastest_ms:.2f} ms",
        ),
        (f"{profile.gflops:.1f} GFLOP/s", f"over the frame's {arithmetic / 1e9:.3f} GFLOP"),
        (f"{profile.kernels_ms:.2f} ms", f"sum of {len(profile.kernels)} kernels"),
    ]
    if profile.peak_gflops is not None:
        share = 100 * profile.gflops / profile.peak_gflops
        tiles.append((f"{share:.0f} %", f"of this machine's {profile.peak_gflops:.0f} GFLOP/s"))
    cards = "".join(f'<div class="tile"><b>{value}</b><span>{text}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{cards}</div>'


def _legend(profile: Profile) -> str:
    """The rules in the order of their time; rules of one colour together."""
    names: dict[str, list[str]] = {}
    for item in profile.rules():
        names.setdefault(colour(item.rule), []).append(item.rule)
    entries = "".join(f'<li><i style="background:{key}"></i>{", ".join(rules)}</li>' for key, rules in names.items())
    return f'<ul class="legend">{entries}</ul>\n'


def _rules_bar(profile: Profile) -> str:
    """One bar for the frame, a part for each rule, and a line of numbers for each."""
    width, x, parts, rows = 900.0, 0.0, [], []
    for item in profile.rules():
        share = profile.share(item)
        text = f"{item.rule}: {item.microseconds / 1e3:.3f} ms, {100 * share:.1f} %"
        part = max(0.0, share * width - 1.5)
        parts.append(
            f'<rect x="{x:.1f}" y="0" width="{part:.1f}" height="26" rx="3" fill="{colour(item.rule)}">'
            f"<title>{escape(text)}</title></rect>"
        )
        x += share * width
        calls = f"{item.calls} call{'s' if item.calls > 1 else ''}"
        rate = f", {item.gflops:.1f} GFLOP/s" if item.flops else ""
        rows.append(
            f'<li><i style="background:{colour(item.rule)}"></i><b>{escape(item.rule)}</b> '
            f"{item.microseconds / 1e3:.3f} ms, {100 * share:.1f} %, {calls}{rate}</li>"
        )
    svg = (
        f'<svg class="share" viewBox="0 0 {width:.0f} 26" preserveAspectRatio="none" role="img" '
        f'aria-label="time by rule">{"".join(parts)}</svg>'
    )
    return f'{svg}\n<ul class="legend" style="margin-top:0.8rem">{"".join(rows)}</ul>\n'


def _kernel_bars(profile: Profile) -> str:
    longest = max((kernel.microseconds for kernel in profile.kernels), default=1.0)
    lines = []
    for kernel in profile.kernels:
        info = kernel.info
        rate = f" · {_rate(kernel)}" if info.flops else ""
        title = f"{info.layer}: {info.rule} {info.tile}, {kernel.microseconds:.1f} us{rate}"
        lines.append(
            f'<div class="kernel" title="{escape(title)}"><span class="name">{escape(_short(info.layer))}</span>'
            f'<span class="track">{_bar(kernel, longest)}</span><span class="value">{kernel.microseconds:.1f} us'
            f"{f' · {kernel.gflops:.0f} GFLOP/s' if info.flops else ''}</span></div>"
        )
    return "\n".join(lines) + "\n"


def _stages_note(profile: Profile) -> str:
    if not profile.fused():
        return ""
    return (
        '<p class="note">The bar of a fused kernel has a part for each of its stages, paler from one to the next.</p>\n'
    )


def _bar(kernel: KernelTime, longest: float) -> str:
    """A kernel's bar; a fused kernel's has a part for each stage, paler from one to the next."""
    fill = colour(kernel.info.rule)
    if not kernel.stages:
        return f'<i style="width:{_width(kernel.microseconds, longest)};background:{fill}"></i>'
    parts = []
    for index, stage in enumerate(kernel.stages):
        title = f"{kernel.info.layer}, {stage.name}: {stage.microseconds:.1f} us · {_rate(stage)}"
        parts.append(
            f'<i style="width:{_width(stage.microseconds, longest)};background:{fill};opacity:{1 - 0.25 * index:.2f}" '
            f'title="{escape(title)}"></i>'
        )
    return "".join(parts)


def _width(microseconds: float, longest: float) -> str:
    return f"{max(0.3, 100 * microseconds / max(longest, 1e-9)):.2f}%"


def _rate(timed: KernelTime | StageTime) -> str:
    peak = "" if timed.of_peak is None else f" · {100 * timed.of_peak:.0f} % of peak"
    return f"{timed.gflops:.1f} GFLOP/s{peak}"


def _stages_table(profile: Profile) -> str:
    names = ("layer", "rule", "stage", "time (us)", "MFLOP", "GFLOP/s", "peak (%)")
    cells = (_stage_cells(kernel, stage) for kernel in profile.fused() for stage in kernel.stages)
    return _html_table(names, cells)


def _stage_cells(kernel: KernelTime, stage: StageTime) -> tuple[str, ...]:
    return (
        escape(kernel.info.layer),
        escape(kernel.info.rule),
        escape(stage.name),
        f"{stage.microseconds:.1f}",
        f"{stage.flops / 1e6:.2f}",
        f"{stage.gflops:.1f}",
        "-" if stage.of_peak is None else f"{100 * stage.of_peak:.1f}",
    )


def _roofline_note(profile: Profile) -> str:
    peak = "" if profile.peak_gflops is None else " The dashed line is the machine's measured arithmetic peak."
    return (
        '<p class="note" style="margin-bottom:0.7rem">Each dot is a kernel, its area the time it takes. '
        f"Diagonals are lines of equal memory traffic.{peak}</p>\n"
    )


def _roofline(profile: Profile) -> str:
    """GFLOP/s over FLOP a byte, both logarithmic; drawn for a wide window and for a phone."""
    points = [kernel for kernel in profile.kernels if kernel.gflops > 0 and kernel.info.bytes]
    if not points:
        return '<p class="note">No kernel does arithmetic.</p>\n'
    return _drawing(profile, points, "wide", 900, 446) + _drawing(profile, points, "narrow", 360, 400)


def _drawing(profile: Profile, points: list[KernelTime], kind: str, width: int, height: int) -> str:
    rates = [kernel.gflops for kernel in points] + ([profile.peak_gflops] if profile.peak_gflops else [])
    axes = _LogAxes(
        _decades(_intensity(kernel) for kernel in points),
        _decades(rates),
        left=58,
        top=12,
        width=width - 80,
        height=height - 66,
    )
    longest = max(kernel.microseconds for kernel in points)
    parts = [*axes.grid(), *axes.guides()]
    if profile.peak_gflops is not None:
        y = axes.y(profile.peak_gflops)
        parts.append(f'<line class="peak" x1="{axes.left}" x2="{axes.left + axes.width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        # At the right end: the guides' numbers are on the left.
        parts.append(
            f'<text x="{axes.left + axes.width - 6}" y="{y - 6:.1f}" text-anchor="end">'
            f"peak {profile.peak_gflops:.0f} GFLOP/s</text>"
        )
    for kernel in sorted(points, key=lambda item: -item.microseconds):
        radius = 3 + 11 * math.sqrt(kernel.microseconds / longest)
        title = f"{kernel.info.layer}: {kernel.gflops:.1f} GFLOP/s at {_intensity(kernel):.1f} FLOP/byte"
        parts.append(
            f'<circle cx="{axes.x(_intensity(kernel)):.1f}" cy="{axes.y(kernel.gflops):.1f}" r="{radius:.1f}" '
            f'fill="{colour(kernel.info.rule)}" fill-opacity="0.6" stroke="{colour(kernel.info.rule)}">'
            f"<title>{escape(title)}</title></circle>"
        )
    drawing = "\n".join(parts)
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="roofline">\n{drawing}\n</svg>\n'


class _LogAxes:
    """Two logarithmic axes from decade to decade, and where values fall on them."""

    def __init__(
        self, x: tuple[int, int], y: tuple[int, int], left: float, top: float, width: float, height: float
    ) -> None:
        self.x_decades, self.y_decades = x, y
        self.left, self.top, self.width, self.height = left, top, width, height

    def x(self, value: float) -> float:
        low, high = self.x_decades
        return self.left + self.width * (math.log10(value) - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_decades
        return self.top + self.height * (high - math.log10(value)) / (high - low)

    def grid(self) -> Iterable[str]:
        right, bottom = self.left + self.width, self.top + self.height
        for decade in range(self.x_decades[0], self.x_decades[1] + 1):
            x = self.x(10.0**decade)
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{bottom}"/>'
            yield f'<text class="soft" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{10.0**decade:g}</text>'
        for decade in range(self.y_decades[0], self.y_decades[1] + 1):
            y = self.y(10.0**decade)
            yield f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="soft" x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>'
        centre, middle = self.left + self.width / 2, self.top + self.height / 2
        yield f'<text class="soft" x="{centre}" y="{bottom + 36}" text-anchor="middle">FLOP/byte</text>'
        yield (
            f'<text class="soft" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
            "GFLOP/s</text>"
        )

    def guides(self) -> Iterable[str]:
        """Lines of equal GB/s, cut to the frame."""
        for bandwidth in _GUIDES_GB_S:
            low = max(10.0 ** self.x_decades[0], 10.0 ** self.y_decades[0] / bandwidth)
            high = min(10.0 ** self.x_decades[1], 10.0 ** self.y_decades[1] / bandwidth)
            if low >= high:
                continue
            x1, y1, x2, y2 = self.x(low), self.y(low * bandwidth), self.x(high), self.y(high * bandwidth)
            yield f'<line class="guide" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
            x, y = x1 + 0.3 * (x2 - x1) + 8, y1 + 0.3 * (y2 - y1) + 6
            yield f'<text class="soft" x="{x:.1f}" y="{y:.1f}">{bandwidth} GB/s</text>'


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """Powers of ten around the values, at least one decade."""
    listed = list(values)
    low, high = math.floor(math.log10(min(listed))), math.ceil(math.log10(max(listed) * 1.05))
    return low, max(high, low + 1)


def _intensity(kernel: KernelTime) -> float:
    return kernel.info.flops / kernel.info.bytes


def _table(profile: Profile) -> str:
    columns = (
        *("layer", "rule", "tile", "items", "time (us)", "fastest (us)", "share (%)", "MFLOP", "kB", "FLOP/byte"),
        *("GFLOP/s", "peak (%)", "GB/s"),
    )
    return _html_table(columns, (_cells(profile, kernel) for kernel in profile.kernels))


def _html_table(columns: Iterable[str], cells: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    rows = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
    return (
        f"<table><thead><tr>{''.join(f'<th>{name}</th>' for name in columns)}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table>\n"
    )


def _cells(profile: Profile, kernel: KernelTime) -> tuple[str, ...]:
    info, peak = kernel.info, kernel.of_peak
    return (
        escape(info.layer),
        escape(info.rule),
        escape(info.tile),
        str(info.items),
        f"{kernel.microseconds:.1f}",
        f"{kernel.fastest:.1f}",
        f"{100 * profile.share(kernel):.1f}",
        f"{info.flops / 1e6:.2f}",
        f"{info.bytes / 1e3:.0f}",
        f"{info.flops / info.bytes:.1f}" if info.bytes else "-",
        f"{kernel.gflops:.1f}" if info.flops else "-",
        "-" if peak is None else f"{100 * peak:.1f}",
        f"{kernel.gigabytes:.1f}",
    )


def _short(name: str, most: int = 26) -> str:
    """The end of a long tensor name, where names differ."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
