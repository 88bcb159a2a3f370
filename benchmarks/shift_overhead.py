"""What the online shift costs: latency over TSN by shift proportion and placement (TSM paper, figure 2a and table 6).

python benchmarks/shift_overhead.py --models mobilenetv2-kinetics resnet50-kinetics --threads 1 --json shift.json
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from engines.base import read_model
from plot import Line, Panel, line_plots
from race_command import add_race_options, run_in_folder, say
from report import SHARED, describe, machine_info, physical_cpus, table, write_json
from stages import Place, results_of, run_stage
from streams import reference_logits, video
from worker import FRAMES

from tsm_edge.bench.interleave import Samples, Schedule
from tsm_edge.bench.paired import Ratio, paired_ratio
from tsm_edge.cards import SHIFT_PROPORTIONS, ModelCard, ShiftPlace, load_model, load_target
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.files.atomic import write_atomic

TSN = "TSN"
COPIES = 3
"""Files each artifact is loaded from: where its weights happen to lie in physical memory makes 1 % of difference."""
PLACES: tuple[ShiftPlace, ...] = ("residual", "in-place")


@dataclass(frozen=True)
class Case:
    """One network to compile: TSN (``place`` None) or online TSM."""

    place: ShiftPlace | None
    proportion: Fraction

    @property
    def name(self) -> str:
        """As in the table."""
        return TSN if self.place is None else f"{self.place} {self.proportion}"

    def of(self, card: ModelCard) -> ModelCard:
        """Return the card with this case's shift."""
        network = dataclasses.replace(card.network, temporal_mode="none")
        if self.place is not None:
            network = dataclasses.replace(
                card.network, temporal_mode="online", shift_place=self.place, shift_proportion=self.proportion
            )
        return dataclasses.replace(card, network=network)


# Online TSM at proportion 0 is TSN by another name: its overhead is what this benchmark cannot resolve.
CASES = (
    Case(None, Fraction(0)),
    Case("residual", Fraction(0)),
    *(Case(place, proportion) for place in PLACES for proportion in SHIFT_PROPORTIONS if proportion),
)


@dataclass(frozen=True)
class Sweep:
    """All cases of one model, timed in one process.

    Attributes
    ----------
    model : str
    place : Place
    cache_bytes : dict of str to int
        By case: what a frame hands to the next (one set of caches).
    samples : dict of str to Samples
        By case.
    """

    model: str
    place: Place
    cache_bytes: dict[str, int]
    samples: dict[str, Samples]

    def overhead(self, case: str) -> Ratio:
        """Return the case's time over TSN's, less 1."""
        ratio = paired_ratio(self.samples[case].seconds, self.samples[TSN].seconds)
        return Ratio(ratio.value - 1, ratio.low - 1, ratio.high - 1)


def compile_cases(card: ModelCard, work: Path) -> dict[str, dict[str, Any]]:
    """Compile every case for this machine, same random weights; return what the timing process needs of each copy."""
    target = load_target("native")
    entries = {}
    for case in CASES:
        say(f"{card.name}: compiling {case.name}")
        folder = work / f"{card.name}-{case.name.replace('/', '-').replace(' ', '-')}"
        artifact = compile_model(CompileRequest(target, folder / "artifact", card=case.of(card)))
        onnx = artifact.path / "model.onnx"
        model = read_model(onnx)
        np.save(folder / "reference.npy", reference_logits(model, video(model.frame_shape, FRAMES)))
        for copy in range(COPIES):
            if copy:
                shutil.copytree(folder / "artifact", folder / str(copy) / "artifact")
            entries[f"{case.name} {copy}"] = {
                "case": case.name,
                "engine": "tsm-edge",
                "precision": "fp32",
                "variant": "session",
                "model": str(onnx),
                "folder": str(folder / str(copy) if copy else folder),
                "reference": str(folder / "reference.npy"),
                "cache_bytes": 4 * sum(int(np.prod(cache.shape)) for cache in model.caches),
            }
    return entries


def time_cases(model: str, entries: dict[str, dict[str, Any]], work: Path, place: Place, schedule: Schedule) -> Sweep:
    """Step all cases in interleaved turns."""
    say(f"{model}: {schedule.rounds} rounds of {schedule.block} frames, {len(place.cpus)} thread(s)")
    results = results_of(run_stage({"stage": "measure", "entries": entries} | vars(schedule), place, work))
    samples = {}
    for case in dict.fromkeys(entry["case"] for entry in entries.values()):
        copies = [results[name] for name, entry in entries.items() if entry["case"] == case]
        seconds = np.concatenate([copy.seconds for copy in copies], axis=1)
        samples[case] = Samples(seconds, sum(copy.cores for copy in copies) / len(copies))
    return Sweep(model, place, {entry["case"]: entry["cache_bytes"] for entry in entries.values()}, samples)


def print_sweep(sweep: Sweep) -> None:
    """Print one sweep as a table, in the order of the cases."""
    rows = []
    for name, samples in sweep.samples.items():
        overhead = sweep.overhead(name)
        rows.append(
            (
                name,
                f"{sweep.cache_bytes[name] / 1e3:.1f}",
                f"{samples.median * 1e3:.3f}",
                f"{samples.p90 * 1e3:.3f}",
                f"{samples.minimum * 1e3:.3f}",
                "" if name == TSN else f"{overhead.value:+.1%}",
                "" if name == TSN else f"{overhead.low:+.1%} to {overhead.high:+.1%}",
            )
        )
    print(f"\n{sweep.model}, {len(sweep.place.cpus)} thread(s), CPUs {list(sweep.place.cpus)}, float32, batch 1")
    print(table(("shift", "cache kB", "median ms", "p90 ms", "min ms", "over TSN", "95 %"), rows))


def sweep_json(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep as plain data, with every sample."""
    return {
        "model": sweep.model,
        "threads": len(sweep.place.cpus),
        "cpus": list(sweep.place.cpus),
        "nice": sweep.place.nice,
        "cases": {
            name: {
                "cache_bytes": sweep.cache_bytes[name],
                "median_ms": samples.median * 1e3,
                "p90_ms": samples.p90 * 1e3,
                "min_ms": samples.minimum * 1e3,
                "overhead": vars(sweep.overhead(name)),
                "samples_ms": np.round(samples.seconds * 1e3, 4).tolist(),
            }
            for name, samples in sweep.samples.items()
        },
    }


def panel_of(sweep: Sweep) -> Panel:
    """Return the sweep as a plot: overhead in % by share of channels shifted, as the paper's figure 2a."""
    lines = []
    for place in PLACES:
        cases = [case for case in CASES if case.place == place or (case.place and not case.proportion)]
        points = [(float(case.proportion), sweep.overhead(case.name)) for case in cases]
        lines.append(Line(place, tuple((x, 100 * r.value, 100 * r.low, 100 * r.high) for x, r in points)))
    title = f"{sweep.model}, {len(sweep.place.cpus)} thread(s)"
    return Panel(title, "share of channels shifted", "latency over TSN, %", tuple(lines))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--models", nargs="+", default=["mobilenetv2-kinetics", "resnet50-kinetics"], help="model cards (%(default)s)")
    add_race_options(parser, [1], rounds=50, block=2, timed="frames")
    add("--plot", type=Path, help="write an SVG plot here")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, work: Path) -> None:
    schedule = Schedule(options.rounds, options.block)
    places = [Place(physical_cpus(threads), options.nice) for threads in options.threads]
    sweeps = []
    for name in options.models:
        entries = compile_cases(load_model(name), work)
        sweeps += [time_cases(name, entries, work, place, schedule) for place in places]
    machine = machine_info(["apache-tvm", "numpy"])
    print(f"{describe(machine)}\n{SHARED}")
    for sweep in sweeps:
        print_sweep(sweep)
    if options.json:
        data = {"benchmark": "shift_overhead", "machine": machine, "sweeps": [sweep_json(sweep) for sweep in sweeps]}
        write_json(options.json, data)
        say(f"wrote {options.json}")
    if options.plot:
        write_atomic(options.plot, line_plots([panel_of(sweep) for sweep in sweeps], describe(machine)).encode())
        say(f"wrote {options.plot}")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    options = _options(arguments)
    return run_in_folder(lambda folder: _run(options, folder))


if __name__ == "__main__":
    sys.exit(main())
