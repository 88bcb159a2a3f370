"""The TSM paper's claims in small: networks of the shipped model's size, trained alike on the generated clips.

python -m benchmarks.paper_claims --work claims --seeds 3 --epochs 8

- Tables 1 and 6: no shift (TSN) against offline against online.
- Figure 2b: the share of the channels that is shifted, 0 to 1, residual against in-place.
- Figure 6: accuracy after 10 to 100 % of a clip's frames.

Each network is a folder in ``--work``; what is there already is not trained again, so that it can be stopped and gone
on with. ``--jobs`` of them are trained at once; ``--device cuda`` trains on an NVIDIA GPU. ``claims.html`` and
``claims.json`` hold the tables and plots, with the 95 % interval over seeds (Student's t).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from html import escape
from pathlib import Path

from tsm_edge.cards import NetworkSpec, load_model
from tsm_edge.files.atomic import write_atomic
from tsm_edge.training.generated import MotionData
from tsm_edge.training.motions import PAIRS
from tsm_edge.training.place import TrainingPlace
from tsm_edge.training.recipe import FROM_SCRATCH
from tsm_edge.training.train import TrainRequest, train

# Student's t of a two-sided 95 % interval, by the number of seeds.
_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
_SHARES = ("0", "1/8", "1/4", "1/2", "1")
_COLOURS = ("#3d7fc1", "#dd8a2f", "#2f9a74", "#a98be0")


def variants() -> dict[str, NetworkSpec]:
    """Name -> network."""
    card = load_model("motion").network
    found = {"tsn": dataclasses.replace(card, temporal_mode="none")}
    found["offline"] = dataclasses.replace(card, temporal_mode="offline", shift_proportion=Fraction(1, 8))
    for place in ("residual", "in-place"):
        for share in _SHARES[1:] if place == "in-place" else _SHARES:
            name = f"online-{place}-{share.replace('/', '_')}"
            found[name] = dataclasses.replace(card, shift_proportion=Fraction(share), shift_place=place)
    return found


def figures(
    folder: Path, spec: NetworkSpec, seed: int, epochs: int, per_epoch: int, place: TrainingPlace
) -> dict[str, object]:
    """Train, if it was not done yet, and return what ``training.json`` says of the test."""
    done = folder / "training.json"
    if not done.exists():
        card = dataclasses.replace(load_model("motion"), network=spec, weights_file="")
        size = spec.frame_size
        data = MotionData(spec.frames, size if isinstance(size, int) else size[0], per_epoch, seed)
        recipe = dataclasses.replace(FROM_SCRATCH, epochs=epochs, seed=seed)
        shown = -1.0

        def tell(text: str, share: float) -> None:
            nonlocal shown
            if share - shown >= 0.05:
                shown = share
                print(f"{folder.name}: [{100 * share:3.0f} %] {text}", file=sys.stderr, flush=True)

        train(TrainRequest(card, data, folder, recipe, place=place), tell)
    found: dict[str, object] = json.loads(done.read_text("utf-8"))
    return found


def pair_accuracy(confusion: list[list[int]]) -> float:
    """Of the clips of opposite motions that were taken for one of the two: the share that was right. Chance: 0.5."""
    right = sum(confusion[a][a] + confusion[b][b] for a, b in PAIRS)
    wrong = sum(confusion[a][b] + confusion[b][a] for a, b in PAIRS)
    return right / max(right + wrong, 1)


def interval(values: list[float]) -> str:
    """Mean and 95 % interval, percent."""
    mean = 100 * statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1f} (one seed)"
    half = 100 * _T95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.1f} ± {half:.1f}"


def plot(lines: dict[str, list[tuple[str, float]]], title: str) -> str:
    """An SVG of accuracies, percent, over named places."""
    width, height, edge = 640, 260, 46
    places = [place for place, _ in next(iter(lines.values()))]
    step = (width - 2 * edge) / max(len(places) - 1, 1)
    parts = [f'<text x="{edge}" y="18">{escape(title)}</text>']
    for value in (0, 25, 50, 75, 100):
        y = height - edge - (height - 2 * edge) * value / 100
        parts.append(f'<line x1="{edge}" x2="{width - edge}" y1="{y}" y2="{y}" stroke="#dde1e6"/>')
        parts.append(f'<text x="{edge - 6}" y="{y + 4}" text-anchor="end">{value}</text>')
    for index, place in enumerate(places):
        parts.append(f'<text x="{edge + index * step}" y="{height - edge + 18}" text-anchor="middle">{place}</text>')
    for number, (name, points) in enumerate(lines.items()):
        where = [(edge + places.index(place) * step, height - edge - (height - 2 * edge) * y) for place, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{width - edge}" y="{40 + 16 * number}" fill="{colour}" text-anchor="end">{name}</text>')
    box = f'viewBox="0 0 {width} {height}" width="{width}" font-size="12" font-family="sans-serif"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def report(work: Path, results: dict[str, list[dict[str, object]]]) -> str:
    """Tables and plots as HTML; claims that do not hold here are said not to."""
    share = {name: [run["test"]["overall"]["share"] for run in runs] for name, runs in results.items()}  # type: ignore[index]
    pairs = {name: [pair_accuracy(run["test"]["confusion"]) for run in runs] for name, runs in results.items()}  # type: ignore[index]
    rows = "".join(
        f"<tr><td>{name}</td><td>{interval(share[name])}</td><td>{interval(pairs[name])}</td><td>{len(runs)}</td></tr>"
        for name, runs in results.items()
    )
    plots = []
    for place in ("residual", "in-place"):
        names = {s: f"online-{place}-{s.replace('/', '_')}" for s in _SHARES}
        points = [(s, statistics.mean(share[name])) for s, name in names.items() if name in share]
        if len(points) > 1:
            plots.append((place, points))
    figure_2b = plot(dict(plots), "test accuracy (%) by share of shifted channels (Figure 2b)") if plots else ""
    early = {
        name: [(f"{100 * at:.0f} %", value) for at, value in results[name][0]["test"]["early"]]  # type: ignore[index]
        for name in ("online-residual-1_4", "offline", "tsn")
        if name in results
    }
    figure_6 = plot(early, "test accuracy (%) by share of frames seen (Figure 6)") if early else ""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>The paper's claims in small</title>
<body style="font-family: sans-serif; max-width: 50rem; margin: 2rem auto">
<h1>The paper's claims in small</h1>
<p>Test accuracy (%) on generated clips, and accuracy among opposite motions (%; chance is 50).</p>
<table border="1" cellpadding="4" style="border-collapse: collapse">
<tr><th>network</th><th>accuracy</th><th>opposites</th><th>seeds</th></tr>{rows}</table>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in verdicts(share))}</ul>{figure_2b}{figure_6}</body></html>
"""


def verdicts(share: dict[str, list[float]]) -> list[str]:
    """Whether each claim holds here: the means differ in the claimed direction. Nothing is said of what was not run."""
    mean = {name: statistics.mean(values) for name, values in share.items()}
    claims = [
        ("online is better than no shift (Table 1)", "online-residual-1_4", "tsn"),
        ("offline is at least as good as online (Table 6)", "offline", "online-residual-1_8"),
        ("residual shift is better than in-place, at 1/4 (Figure 2b)", "online-residual-1_4", "online-in-place-1_4"),
        ("shifting 1/4 is better than shifting all (Figure 2b)", "online-residual-1_4", "online-residual-1"),
    ]
    return [
        f"{text}: {'holds' if mean[better] >= mean[worse] else 'does not hold'} "
        f"({100 * mean[better]:.1f} against {100 * mean[worse]:.1f} %)"
        for text, better, worse in claims
        if better in mean and worse in mean
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for the networks and the report")
    add("--seeds", type=int, default=3, choices=range(1, 9), help="seeds of each network (%(default)s)")
    add("--epochs", type=int, default=8, help="of training (%(default)s)")
    add("--per-epoch", type=int, default=1920, help="clips (%(default)s)")
    add("--only", nargs="+", choices=list(variants()), help="these networks")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="what computes (%(default)s)")
    add("--loaders", type=int, help="processes of each that make clips, for a GPU")
    add("--jobs", type=int, default=1, help="trained at once (%(default)s)")
    options = parser.parse_args()
    place = TrainingPlace.named(options.device, options.loaders)
    results: dict[str, list[dict[str, object]]] = {}
    runs = [
        (name, seed, spec)
        for seed in range(options.seeds)
        for name, spec in variants().items()
        if options.only is None or name in options.only
    ]
    # Processes, for PyTorch computes on one thread each; not forked ones, for CUDA's sake.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        asked = [
            pool.submit(
                figures, options.work / f"{name}-seed{seed}", spec, seed, options.epochs, options.per_epoch, place
            )
            for name, seed, spec in runs
        ]
        for (name, seed, _), run in zip(runs, asked, strict=True):
            results.setdefault(name, []).append(run.result())
            write_atomic(options.work / "claims.json", json.dumps(results, indent=1).encode())
            write_atomic(options.work / "claims.html", report(options.work, results).encode())
            print(name, f"seed {seed}:", interval([results[name][-1]["test"]["overall"]["share"]]))  # type: ignore[index]
    print("\n".join(verdicts({n: [r["test"]["overall"]["share"] for r in runs] for n, runs in results.items()})))  # type: ignore[index]


if __name__ == "__main__":
    main()
