"""What trained networks say of the TSM paper's claims: tables, plots, and whether each claim holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from typing import Any

from plot import Line, Panel, line_plots
from seeds import Interval, Spread

from tsm_edge.training.motions import PAIRS

SHARES = ("0", "1/8", "1/4", "1/2", "1")
ONLINE, PLACES = "online-residual-1_4", ("residual", "in-place")
# These see no motion and are at chance, where accuracy varies less.
_BLIND = ("tsn", "online-residual-0")


@dataclass(frozen=True)
class Outcome:
    """What a network comes to, of one seed, on the test clips.

    Attributes
    ----------
    share : float
        Of the clips that were right, 0..1.
    opposites : float
        Of the clips of opposite motions that were taken for one of the two: the share that was right. Chance: 0.5.
    early : tuple of (float, float)
        Share of a clip's frames, and how many clips are right after them, 0..1.
    """

    share: float
    opposites: float
    early: tuple[tuple[float, float], ...]

    @classmethod
    def read(cls, training: Mapping[str, Any]) -> Outcome:
        """From what ``training.json`` holds."""
        test = training["test"]
        confusion = test["confusion"]
        right = sum(confusion[one][one] + confusion[other][other] for one, other in PAIRS)
        wrong = sum(confusion[one][other] + confusion[other][one] for one, other in PAIRS)
        early = tuple((float(at), float(share)) for at, share in test["early"])
        return cls(test["overall"]["share"], right / max(right + wrong, 1), early)


# Network -> seed -> its test. Seeds may be missing where not all is trained yet.
Results = Mapping[str, Mapping[int, Outcome]]
Figure = Callable[[Outcome], float]


def _share(outcome: Outcome) -> float:
    return outcome.share


def _values(results: Results, name: str, figure: Figure) -> list[float]:
    return [figure(outcome) for outcome in results[name].values()]


def _spread(results: Results, figure: Figure) -> Spread:
    """From seed to seed, of all networks that see motion."""
    return Spread.pooled(_values(results, name, figure) for name in results if name not in _BLIND)


def _interval(results: Results, name: str, figure: Figure = _share) -> Interval:
    return Interval.of(_values(results, name, figure), _spread(results, figure))


@dataclass(frozen=True)
class Claim:
    """That the networks ``better`` are right more often than ``worse``, on the mean by more than ``margin`` points."""

    text: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    margin: float = 0.0

    def verdict(self, results: Results) -> str | None:
        """In a line; None if a network is missing."""
        if not all(name in results for name in (*self.better, *self.worse)):
            return None
        more, less = ([_values(results, name, _share) for name in names] for names in (self.better, self.worse))
        found = Interval.of_difference(more, less, _spread(results, _share))
        says = {True: "holds", False: "does not hold", None: "not told by these seeds"}[found.above(self.margin)]
        return f"{self.text}: {says}, {found.mean:+.1f}{found.doubt} points"


def shifted(place: str, share: str) -> str:
    """An online network's name."""
    return f"online-{place}-{share.replace('/', '_')}"


def _all(place: str) -> tuple[str, ...]:
    return tuple(shifted(place, share) for share in SHARES[1:])


CLAIMS = (
    Claim("online is better than no shift (Table 1)", (ONLINE,), ("tsn",)),
    Claim("online loses less than 2 points to offline (Table 6)", (ONLINE,), ("offline",), -2.0),
    Claim(
        "residual shift is better than in-place, over all proportions (Figure 2b)", _all("residual"), _all("in-place")
    ),
    *(
        Claim(f"residual shift of 1/4 is better than of {share} (Figure 2b)", (ONLINE,), (shifted("residual", share),))
        for share in ("0", "1/8", "1/2", "1")
    ),
    *(
        Claim(
            f"in-place shift of {share} is worse than residual (Figure 2b)",
            (shifted("residual", share),),
            (shifted("in-place", share),),
        )
        for share in SHARES[1:]
    ),
)


def verdicts(results: Results) -> list[str]:
    """A line for each claim whose networks are all there, and what is seen early (Figure 6)."""
    found = [line for line in (claim.verdict(results) for claim in CLAIMS) if line]
    if ONLINE in results:
        first, *_, last = early(results, ONLINE)
        found.append(
            f"a tenth of the frames gives most of the accuracy (Figure 6): "
            f"{'holds' if first[1].mean > last[1].mean / 2 else 'does not hold'}, "
            f"{first[1]} % after {100 * first[0]:.0f} % of the frames, {last[1]} % after all"
        )
    return found


def early(results: Results, name: str) -> list[tuple[float, Interval]]:
    """Share of the frames seen, and a network's accuracy then."""
    moments = [at for at, _ in next(iter(results[name].values())).early]

    def seen(place: int) -> Figure:
        return lambda outcome: outcome.early[place][1]

    return [(at, _interval(results, name, seen(place))) for place, at in enumerate(moments)]


def tables(results: Results) -> str:
    """As text, Markdown's."""
    lines = ["| network | right (%) | opposites (%) | seeds |", "| --- | --- | --- | --- |"]
    for name, outcomes in results.items():
        pairs = _interval(results, name, lambda outcome: outcome.opposites)
        lines.append(f"| {name} | {_interval(results, name)} | {pairs} | {len(outcomes)} |")
    shown = [name for name in (ONLINE, "tsn") if name in results]
    if shown:
        lines += ["", "| frames seen (%) | " + " | ".join(f"{name}, right (%)" for name in shown) + " |"]
        lines += ["|" + " --- |" * (len(shown) + 1)]
        for rows in zip(*(early(results, name) for name in shown), strict=True):
            lines.append(f"| {100 * rows[0][0]:.0f} | " + " | ".join(str(found) for _, found in rows) + " |")
    return "\n".join(lines)


def figures(results: Results) -> dict[str, str]:
    """Name -> SVG: Figures 2b and 6, as far as their networks are there."""
    drawn = {}
    # Of nothing, residual and in-place are the same network.
    names = {
        place: {share: shifted(place if share != "0" else "residual", share) for share in SHARES} for place in PLACES
    }
    if all(name in results for of_place in names.values() for name in of_place.values()):
        lines = [
            _line(place, [(float(Fraction(share)), _interval(results, name)) for share, name in of_place.items()])
            for place, of_place in names.items()
        ]
        drawn["proportion"] = _plot("proportion of channels shifted", lines)
    lines = [
        _line(name, [(100 * at, found) for at, found in early(results, name)])
        for name in (ONLINE, "tsn")
        if name in results
    ]
    if lines:
        drawn["early"] = _plot("frames seen (%)", lines)
    return drawn


def _line(name: str, points: Sequence[tuple[float, Interval]]) -> Line:
    found = [(x, interval.mean, interval.half or 0.0) for x, interval in points]
    return Line(name, tuple((x, mean, mean - half, mean + half) for x, mean, half in found))


def _plot(x_label: str, lines: Sequence[Line]) -> str:
    return line_plots([Panel("Test accuracy", x_label, "right (%)", tuple(lines))], "bars: 95 % intervals over seeds")


def page(results: Results, trained: str) -> str:
    """All of it as HTML; ``trained`` says how the networks were."""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>The paper's claims in small</title>
<body style="font-family: sans-serif; max-width: 50rem; margin: 2rem auto">
<h1>The paper's claims in small</h1>
<p>Test accuracy (%) on generated clips, and accuracy among opposite motions (%; chance is 50). {escape(trained)}
Each ± is half a 95 % interval over seeds, with one spread for all networks that see motion. Of that many verdicts one
may be wrong.</p>
<pre>{escape(tables(results))}</pre>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in verdicts(results))}</ul>{"".join(figures(results).values())}
</body></html>
"""
