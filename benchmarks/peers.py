"""tsm-edge beside other inference engines: the same ONNX file, the same frames, one process, interleaved turns.

python benchmarks/peers.py --model mobilenetv2-jester --threads 1 2 --json peers.json
python benchmarks/peers.py --precision int8 --threads 1
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from engines import MODULES, PRECISIONS, READ_QUANTISED, load_engine, precisions_of
from engines.base import OnlineModel, read_model
from quantised_file import write_quantised
from race_command import add_race_options, run_in_folder, say
from report import SHARED, describe, machine_info, physical_cpus, table, write_json
from stages import ANYWHERE, Place, StageError, results_of, run_stage
from streams import reference_logits, video
from worker import FRAMES

from tsm_edge.bench.interleave import Samples, Schedule
from tsm_edge.bench.paired import Ratio, paired_ratio
from tsm_edge.cards import load_model
from tsm_edge.cards.architecture import cpu_flags
from tsm_edge.export.onnx import ExportRequest, export_onnx
from tsm_edge.files.atomic import file_sha256

US = "tsm-edge"
US_FP32 = "tsm-edge fp32"
"""What gains of another precision are measured by: it takes part in the same races."""
WITHOUT_AMX = "AVX512_CORE_FP16"
"""All that oneDNN may use but matrix tiles."""
PREPARE_SECONDS = 900
PROBE_SECONDS = 300
PROBE_ROUNDS, PROBE_BLOCK = 6, 6

Entries = dict[str, dict[str, Any]]
"""Engine -> what a worker needs to open it."""


@dataclass(frozen=True)
class Contender:
    """An engine in a precision, and the file it is given."""

    name: str
    engine: str
    precision: str
    model: Path

    def job(self, work: Path) -> dict[str, Any]:
        """What a worker needs to convert and to open it."""
        where = {"model": str(self.model), "folder": str(work / self.name)}
        return {"engine": self.engine, "precision": self.precision} | where


@dataclass(frozen=True)
class Race:
    """One race: where it ran (a thread a CPU), everyone who took part, and why the others did not.

    Errors and signal-to-noise ratios (dB) are against ONNX Runtime on the float model.
    """

    place: Place
    precision: str
    variants: dict[str, str]
    errors: dict[str, float]
    signals: dict[str, float]
    samples: dict[str, Samples]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The engine that ratios refer to: tsm-edge, or the fastest where tsm-edge did not run."""
        return US if US in self.samples else min(self.samples, key=lambda name: self.samples[name].median)

    def ratio(self, name: str, base: str = "") -> Ratio:
        """Return the engine's time over that of ``base``, or of :attr:`base`."""
        return paired_ratio(self.samples[name].seconds, self.samples[base or self.base].seconds)


def missing_packages(name: str) -> list[str]:
    """Return the modules of an engine that are not installed."""
    return [package for package in load_engine(name).packages if importlib.util.find_spec(package) is None]


def prepare_engines(
    contenders: list[Contender], work: Path, artifact: Path | None, absent: dict[str, str]
) -> list[Contender]:
    """Convert the model for each engine; return those that can go on, and add the others to ``absent``.

    What is in ``work`` from an earlier run is used again, except tsm-edge's own artifact.
    """
    ready = []
    for contender in contenders:
        name = contender.name
        missing = missing_packages(contender.engine)
        folder = work / name
        if missing:
            absent[name] = f"not installed (no module {', '.join(missing)})"
            continue
        done = folder / "converted"
        if contender.engine == US or not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            if name == US and artifact is not None:
                shutil.copytree(artifact, folder / "artifact")
            say(f"{name}: converting")
            job = contender.job(work)
            try:
                run_stage({"stage": "prepare"} | job, ANYWHERE, work, PREPARE_SECONDS)
            except StageError as error:
                absent[name] = str(error)
                continue
            done.touch()
        ready.append(contender)
    return ready


def contenders_of(names: list[str], model: OnlineModel, precision: str, work: Path) -> list[Contender]:
    """Everyone who can compute in this precision; some in int8 from a quantised file."""
    names = [name for name in names if precision in precisions_of(name)]
    files = dict.fromkeys(names, model.path)
    if precision == "int8":
        quantised = work / "quantised.onnx"
        others = [name for name in names if name in READ_QUANTISED]
        if others and not quantised.exists():
            say("onnxruntime: quantising")
            write_quantised(model, quantised)
        files |= dict.fromkeys(others, quantised)
    found = [Contender(name, name, precision, path) for name, path in files.items()]
    if US in names and precision != "fp32":
        found.append(Contender(US_FP32, US, "fp32", model.path))
    return found


def not_in(precision: str, names: list[str]) -> dict[str, str]:
    """Engines that are not measured in a precision, and why."""
    return {name: f"not measured in {precision} here" for name in names if precision not in precisions_of(name)}


def choose_variants(contenders: list[Contender], work: Path, place: Place, absent: dict[str, str]) -> Entries:
    """Check every variant of every engine; return the fastest of each engine, and add the rest to ``absent``."""
    chosen: Entries = {}
    for contender in contenders:
        name = contender.name
        say(f"{name}: checking outputs, {len(place.cpus)} thread(s)")
        entry = contender.job(work) | {"reference": str(work / "reference.npy")}
        job = {"stage": "probe", "rounds": PROBE_ROUNDS, "block": PROBE_BLOCK} | entry
        try:
            result = run_stage(job, place, work, PROBE_SECONDS)
        except StageError as error:
            absent[name] = str(error)
            continue
        for variant, reason in result["failed"].items():
            absent[f"{name} ({variant})"] = reason
        if result["variant"] is not None:
            chosen[name] = entry | {"variant": result["variant"]}
    return chosen


def race_engines(
    entries: Entries, precision: str, work: Path, place: Place, schedule: Schedule, absent: dict[str, str]
) -> Race:
    """Race these engines with one thread a CPU."""
    if not entries:
        raise StageError("no engine could be measured: " + "; ".join(f"{k}: {v}" for k, v in absent.items()))
    say(f"racing {', '.join(entries)}: {schedule.rounds} rounds of {schedule.block} frames")
    results = run_stage({"stage": "measure", "entries": entries} | vars(schedule), place, work)
    variants = {name: entry["variant"] for name, entry in entries.items()}
    errors = {name: result["error"] for name, result in results.items()}
    signals = {name: result["signal_db"] for name, result in results.items()}
    return Race(place, precision, variants, errors, signals, results_of(results), absent)


def print_race(result: Race) -> None:
    """Print one race as a table, the fastest engine first."""
    rows, integers = [], result.precision == "int8"
    for name in sorted(result.samples, key=lambda name: result.samples[name].median):
        samples, ratio = result.samples[name], result.ratio(name)
        rows.append(
            (
                f"{name} ({result.variants[name]})",
                f"{samples.median * 1e3:.2f}",
                f"{samples.p90 * 1e3:.2f}",
                f"{samples.minimum * 1e3:.2f}",
                f"{ratio.value:.2f}",
                f"{ratio.low:.2f}-{ratio.high:.2f}",
                f"{samples.cores:.2f}",
                f"{result.signals[name]:.0f} dB" if integers else f"{result.errors[name]:.0e}",
            )
        )
    last = "to float" if integers else "error"
    columns = ("engine", "median ms", "p90 ms", "min ms", f"x {result.base}", "95 %", "cores used", last)
    cpus = list(result.place.cpus)
    isa = f", oneDNN up to {result.place.onednn_isa}" if result.place.onednn_isa else ""
    print(
        f"\n{len(cpus)} thread(s), CPUs {cpus}, {result.precision}{isa}, batch 1, one online step with cache feedback"
    )
    print(table(columns, rows))
    for name, reason in result.absent.items():
        print(f"not measured: {name}: {reason}")
    others = [name for name in result.samples if name not in (US, US_FP32)]
    if US in result.samples and others:
        best = min(others, key=lambda name: result.samples[name].median)
        print(f"best other engine: {best}, {result.ratio(best).value:.2f} x the time of {US}")
    if {US, US_FP32} <= set(result.samples):
        gain = paired_ratio(result.samples[US].seconds, result.samples[US_FP32].seconds)
        print(
            f"{US} {result.precision}: {gain.value:.2f} x the time of its fp32 (95 %: {gain.low:.2f}-{gain.high:.2f})"
        )


def race_json(result: Race) -> dict[str, Any]:
    """Return a race as plain data, with every sample."""
    return {
        "threads": len(result.place.cpus),
        "cpus": list(result.place.cpus),
        "nice": result.place.nice,
        "precision": result.precision,
        "onednn_isa": result.place.onednn_isa,
        "ratio_to": result.base,
        "engines": {
            name: {
                "variant": result.variants[name],
                "median_ms": samples.median * 1e3,
                "p90_ms": samples.p90 * 1e3,
                "min_ms": samples.minimum * 1e3,
                "ratio": vars(result.ratio(name)),
                "cores_used": samples.cores,
                "max_relative_error": result.errors[name],
                "signal_to_noise_db": result.signals[name],
                "samples_ms": np.round(samples.seconds * 1e3, 4).tolist(),
            }
            for name, samples in result.samples.items()
        },
        "not_measured": result.absent,
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", default="mobilenetv2-jester", help="model card to export with random weights (%(default)s)")
    add("--onnx", type=Path, help="run this online ONNX file, exported by tsm-edge, instead")
    add("--artifact", type=Path, help="measure this artifact, with its own model.onnx, instead of compiling one")
    add("--engines", nargs="+", choices=list(MODULES), default=list(MODULES), metavar="NAME", help=", ".join(MODULES))
    add("--precision", choices=PRECISIONS, default="fp32", help="of every engine that has it; int8 also races fp32")
    add_race_options(parser, [1, 2], rounds=40, block=8, timed="frames")
    add("--work", type=Path, help="keep other engines' converted models in this folder and use them again")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, folder: Path) -> None:
    onnx = options.artifact / "model.onnx" if options.artifact else options.onnx or _export(options.model, folder)
    model = read_model(onnx.resolve())
    precision = options.precision
    work = folder / f"{file_sha256(onnx)[:12]}-{precision}"
    work.mkdir(exist_ok=True)
    np.save(work / "reference.npy", reference_logits(model, video(model.frame_shape, FRAMES)))
    absent = not_in(precision, options.engines)
    ready = prepare_engines(contenders_of(options.engines, model, precision, work), work, options.artifact, absent)
    schedule = Schedule(options.rounds, options.block)
    races = []
    for threads, isa in itertools.product(options.threads, _instruction_sets(ready, precision)):
        place, unfit = Place(physical_cpus(threads), options.nice, isa), dict(absent)
        entries = choose_variants(ready, work, place, unfit)
        races.append(race_engines(entries, precision, work, place, schedule, unfit))
    machine = machine_info(name for one in ready for name in load_engine(one.engine, one.precision).distributions)
    print(f"{options.artifact or options.onnx or options.model}\n{describe(machine)}\n{SHARED}")
    for result in races:
        print_race(result)
    if options.json:
        data = {"benchmark": "peers", "model": onnx.stem, "machine": machine, "races": [race_json(r) for r in races]}
        write_json(options.json, data)
        say(f"wrote {options.json}")


def _instruction_sets(ready: list[Contender], precision: str) -> tuple[str, ...]:
    """For a race each: with AMX and without, where there is AMX and someone to use it."""
    uses_it = precision == "int8" and "amx_int8" in cpu_flags() and any(one.engine == "openvino" for one in ready)
    return ("", WITHOUT_AMX) if uses_it else ("",)


def _export(name: str, folder: Path) -> Path:
    path = folder / f"{name}.onnx"
    say(f"exporting {name}")
    export_onnx(ExportRequest(load_model(name), path))
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    options = _options(arguments)
    return run_in_folder(lambda folder: _run(options, folder), options.work)


if __name__ == "__main__":
    sys.exit(main())
