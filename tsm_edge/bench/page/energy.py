"""Where the energy of a frame goes: what the machine takes anyway, and what the frame adds."""

from __future__ import annotations

from tsm_edge.bench.page import svg
from tsm_edge.bench.page.html import Html, element, facts, join, legend, section, table
from tsm_edge.bench.page.style import POWER
from tsm_edge.bench.page.svg import Axis
from tsm_edge.bench.result import Power, Result

_IDLE = "#8b929b"


def energy(result: Result) -> Html:
    """Power and energy, or why there is none."""
    power = result.power
    if power is None:
        return Html("")
    per_frame = (power.gross_j_per_frame, power.gross_j_per_frame - power.net_j_per_frame, power.net_j_per_frame)
    totals = (power.gross_j, power.gross_j - power.net_j, power.net_j)
    watts = (power.gross_w, power.idle_w, power.net_w)
    names = ("active (gross)", "idle, before and after", "above idle (net)")
    rows = [
        (name, f"{mean:.3f}", f"{1e3 * frame:.2f}", f"{joules:.3f}")
        for name, mean, frame, joules in zip(names, watts, per_frame, totals, strict=True)
    ]
    unit = result.model.unit
    columns = ("", "power (W)", f"energy a {unit} (mJ)", "energy of the run (J)")
    return section(
        "Energy",
        legend(((_IDLE, "idle"), (POWER, "above idle"))),
        svg.drawings(lambda width: _bar(power, width), "power, idle and above"),
        table(columns, rows),
        _rails(power),
        element("h4", "How it was measured"),
        facts(_how(power)),
        *(element("p", remark, class_="note") for remark in power.remarks),
        note=f"Measured: {power.covers} ({power.boundary}), over the {power.frames} {unit}s of this run.",
    )


def _bar(power: Power, width: int) -> tuple[Html, int]:
    x = Axis(0.0, max(power.gross_w, power.idle_w) * 1.02, 1, width - 1)
    idle = min(power.idle_w, power.gross_w)
    parts = [svg.box(x.start, 4, x.at(idle) - x.start - 1, 28, svg.title(f"idle {idle:.3f} W"), fill=_IDLE, rx=4)]
    if power.net_w > 0:
        words = svg.title(f"above idle {power.net_w:.3f} W")
        parts.append(svg.box(x.at(idle) + 1, 4, x.at(power.gross_w) - x.at(idle) - 1, 28, words, fill=POWER, rx=4))
        parts.append(svg.label(x.at(power.gross_w), 50, f"{power.gross_w:.2f} W", "head", "end"))
    parts.append(svg.label(x.at(idle), 50, f"{power.idle_w:.2f} W idle", "soft", "end"))
    return join(parts), 58


def _rails(power: Power) -> Html:
    if len(power.rails) < 2:
        return Html("")
    rows = [
        (rail.rail, "yes" if rail.in_total else "no", f"{rail.gross_w:.3f}", f"{rail.idle_w:.3f}", f"{rail.net_w:.3f}")
        for rail in power.rails
    ]
    return join([element("h4", "Rails"), table(("rail", "counts", "active (W)", "idle (W)", "net (W)"), rows)])


def _how(power: Power) -> list[tuple[str, object]]:
    percent = "" if power.uncertainty_percent is None else f"±{power.uncertainty_percent:g} %, "
    return [
        ("sensor", power.sensor),
        ("samples", f"{power.samples} in {power.duration_s:.1f} s, {power.rate_hz:.1f} Hz"),
        ("uncertainty", f"{percent}{power.uncertainty}"),
        ("jitter", f"{power.jitter_ms:.1f} ms, longest gap {power.longest_gap_ms:.0f} ms"),
        ("idle", f"{power.idle_before_w:.3f} W before, {power.idle_after_w:.3f} W after"),
    ]
