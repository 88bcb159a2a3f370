"""A tuning run as one HTML file: how it converged, and what each kernel gained. No script, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tsm_edge import __version__
from tsm_edge.bench.page import svg
from tsm_edge.bench.page.html import Html, element, join, page, section, table, tiles
from tsm_edge.bench.page.style import LATENCY, colour_of_rule
from tsm_edge.bench.page.svg import Axis
from tsm_edge.compile.records import Record
from tsm_edge.files.atomic import write_atomic
from tsm_edge.tune.record_sets import best_measured
from tsm_edge.tune.state import Tuned

_HEIGHT = 240
_MOST_BARS = 60


@dataclass(frozen=True)
class Gain:
    """Of a kernel, the fastest that was found.

    Attributes
    ----------
    layer, rule : str
    ratio : tuple of float
        Its time over that of the rules' kernel: median, and its 95 % interval.
    rule_us : float
        Microseconds of the rules' kernel.
    tried : int
        Candidates.
    accepted : bool
    """

    layer: str
    rule: str
    ratio: tuple[float, float, float]
    rule_us: float
    tried: int
    accepted: bool

    @property
    def saved_us(self) -> float:
        """Microseconds."""
        return max(0.0, 1.0 - self.ratio[0]) * self.rule_us


def gains_of(records: Sequence[Record]) -> list[Gain]:
    """Of every kernel that was tried, those that gain most first."""
    trials: dict[str, list[Record]] = {}
    for record in best_measured(records).values():
        trials.setdefault(record.key, []).append(record)
    accepted = {record.key: record for record in records if record.accepted}
    gains = []
    for key, group in trials.items():
        right = [record for record in group if record.ratio is not None]
        best = accepted.get(key) or min(right, key=lambda record: record.ratio or (0.0,), default=None)
        if best is None or best.ratio is None:
            continue
        rules = " + ".join(dict.fromkeys(str(choice["rule"]) for choice in best.choices))
        gains.append(Gain(best.about.get("layer", "-"), rules, best.ratio, best.rule_us, len(group), key in accepted))
    return sorted(gains, key=lambda gain: -gain.saved_us)


def write_page(tuned: Tuned, records: Sequence[Record], title: str, path: Path) -> None:
    """Write :func:`render` to a file, atomically.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    write_atomic(path, render(tuned, records, title).encode("utf-8", "replace"))


def render(tuned: Tuned, records: Sequence[Record], title: str) -> str:
    """The report of one run."""
    gains = gains_of(records)
    parts = [
        element("header", element("h1", f"Tuning of {title}"), element("p", _verdict(tuned))),
        tiles(_figures(tuned)),
        section("Convergence", _convergence(tuned), note="The step's time if all that is best so far proved so."),
        section("Gain by kernel", _bars(gains), note="Of the fastest candidate of each."),
        section("All kernels", _numbers(gains)),
        element("footer", f"Made by tsm-edge {__version__}."),
    ]
    return page(f"{title}: tsm-edge tune", parts)


def _verdict(tuned: Tuned) -> str:
    if tuned.is_faster and tuned.whole is not None:
        return f"The tuned step takes {tuned.whole.value:.3f} of the rules' time, beyond doubt: recorded."
    if tuned.refused:
        return f"The tuned step is faster, but {tuned.refused}: its kernels are not recorded."
    used = "no record of this run" if tuned.threads is None else "of this run only the threads' record"
    return f"The tuned step is not faster than the rules' beyond doubt: {used} is used by compile."


def _figures(tuned: Tuned) -> list[tuple[str, str]]:
    found = [(f"{tuned.step_ms:.2f} ms", "a step by the rules")]
    if tuned.whole is not None:
        whole = tuned.whole
        found.append((f"{whole.value:.3f}", f"of that when tuned (95 %: {whole.low:.3f} to {whole.high:.3f})"))
    if tuned.threads is not None:
        found.append((f"{tuned.threads.ratio[0]:.3f}", f"of its time with one thread, with {tuned.threads.threads}"))
    if tuned.with_threads is not None:
        both = tuned.with_threads
        found.append(
            (f"{both.value:.3f}", f"tuned, of the rules' with as many (95 %: {both.low:.3f} to {both.high:.3f})")
        )
    wrong = f", {tuned.wrong} of them wrong and never used" if tuned.wrong else ""
    failed = f"; a board failed in {tuned.failed} more" if tuned.failed else ""
    return [*found, (str(tuned.tried), f"candidates of {tuned.kernels} kernels tried{wrong}{failed}")]


def _convergence(tuned: Tuned) -> Html:
    points = [(0.0, 100.0), *((seconds, 100.0 * hoped) for seconds, hoped in tuned.history)]
    if len(points) < 3:
        return Html("")

    def draw(width: int) -> tuple[Html, int]:
        x = Axis(0.0, points[-1][0], 52, width - 12)
        y = Axis(*svg.spread((value for _, value in points), least=2.0), _HEIGHT - 44, 12)
        places = [(x.at(seconds), y.at(value)) for seconds, value in points]
        curve = svg.path(places, "curve", style=f"stroke:{LATENCY}")
        return join([svg.across(x, y, 6, "s"), svg.upwards(y, x, 4, lambda value: f"{value:.4g} %"), curve]), _HEIGHT

    return svg.drawings(draw, "modelled time of the step over that by the rules, while candidates are tried")


def _bars(gains: Sequence[Gain]) -> Html:
    shown = [gain for gain in gains if gain.saved_us > 0.0][:_MOST_BARS]
    if not shown:
        return Html("")
    most = max(gain.saved_us for gain in shown)
    return element("div", *(_bar(gain, most) for gain in shown), class_="rows")


def _bar(gain: Gain, most: float) -> Html:
    colour = colour_of_rule(gain.rule)
    part = element("i", style=f"width:{100 * gain.saved_us / most:.1f}%;background:{colour}")
    value = f"{gain.saved_us:.1f} µs, {100 * (1 - gain.ratio[0]):.1f} %{', accepted' if gain.accepted else ''}"
    cells = (
        element("span", gain.layer, class_="name", title=f"{gain.layer} ({gain.rule})"),
        element("span", part, class_="track"),
        element("span", value, class_="value"),
    )
    return element("div", *cells)


def _numbers(gains: Sequence[Gain]) -> Html:
    columns = ("kernel", "best choice", "candidates", "rules (µs)", "of the rules' time", "95 %", "")
    rows = [
        (
            gain.layer,
            gain.rule,
            gain.tried,
            f"{gain.rule_us:.1f}",
            f"{gain.ratio[0]:.3f}",
            f"{gain.ratio[1]:.3f} to {gain.ratio[2]:.3f}",
            "accepted" if gain.accepted else "",
        )
        for gain in gains
    ]
    return table(columns, rows, "names") if rows else Html("")
