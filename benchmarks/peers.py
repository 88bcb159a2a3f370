"""tsm-edge beside other inference engines: the same ONNX file, the same frames, one process, interleaved turns.

python benchmarks/peers.py --model mobilenetv2-jester --threads 1 2 --json peers.json
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from engines import MODULES, load_engine
from engines.base import OnlineModel, read_model
from interleave import Samples, reference_logits, video
from paired import Ratio, paired_ratio
from report import SHARED, describe, machine_info, physical_cpus, table, write_json
from worker import FRAMES

from tsm_edge.cards import load_model
from tsm_edge.errors import TsmEdgeError
from tsm_edge.export import ExportRequest, export_onnx

US = "tsm-edge"
PREPARE_SECONDS = 900
PROBE_SECONDS = 300
PROBE_ROUNDS, PROBE_BLOCK = 6, 6


class StageError(Exception):
    """A worker process failed; the message says why."""


@dataclass(frozen=True)
class Race:
    """One race: a number of threads, everyone who took part, and why the others did not."""

    threads: int
    cpus: list[int]
    variants: dict[str, str]
    errors: dict[str, float]
    samples: dict[str, Samples]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The engine that ratios refer to: tsm-edge, or the fastest where tsm-edge did not run."""
        return US if US in self.samples else min(self.samples, key=lambda name: self.samples[name].median)

    def ratio(self, name: str) -> Ratio:
        """Return the engine's time over the base's."""
        return paired_ratio(self.samples[name].seconds, self.samples[self.base].seconds)


def run_stage(job: dict[str, Any], scratch: Path, timeout: float | None) -> dict[str, Any]:
    """Run one job in a worker process and return its result.

    Raises
    ------
    StageError
        It failed, crashed or took longer than ``timeout`` seconds.
    """
    job_file, result_file, log = scratch / "job.json", scratch / "result.json", scratch / "log.txt"
    job_file.write_text(json.dumps(job))
    result_file.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(job_file), str(result_file)]
    threads = str(len(job["cpus"]) or 1)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "2"}
    quiet = job["stage"] != "measure" or not sys.stderr.isatty()
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command, env=environment, stdout=output, stderr=output if quiet else None, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise StageError(f"{job['stage']} took more than {timeout:.0f} s") from None
    if done.returncode < 0:
        raise StageError(f"{job['stage']} crashed with signal {-done.returncode}")
    if done.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise StageError(f"{job['stage']}: {lines[-1][:300] if lines else 'no message'}")
    result: dict[str, Any] = json.loads(result_file.read_text())
    return result


def missing_packages(name: str) -> list[str]:
    """Return the modules of an engine that are not installed."""
    return [package for package in load_engine(name).packages if importlib.util.find_spec(package) is None]


def prepare_engines(
    model: OnlineModel, names: list[str], work: Path, artifact: Path | None, absent: dict[str, str]
) -> list[str]:
    """Convert the model for each engine; return those that can go on, and add the others to ``absent``.

    What is in ``work`` from an earlier run is used again, except tsm-edge's own artifact.
    """
    ready = []
    for name in names:
        missing = missing_packages(name)
        folder = work / name
        if missing:
            absent[name] = f"not installed (no module {', '.join(missing)})"
            continue
        done = folder / "converted"
        if name == US or not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            if name == US and artifact is not None:
                shutil.copytree(artifact, folder / "artifact")
            _say(f"{name}: converting")
            job = {"stage": "prepare", "engine": name, "model": str(model.path), "folder": str(folder), "cpus": []}
            try:
                run_stage(job, work, PREPARE_SECONDS)
            except StageError as error:
                absent[name] = str(error)
                continue
            done.touch()
        ready.append(name)
    return ready


def race_engines(
    model: OnlineModel, names: list[str], work: Path, cpus: list[int], size: tuple[int, int], absent: dict[str, str]
) -> Race:
    """Check and try every engine on these CPUs, one thread each, then race all that are right.

    ``size`` is the number of rounds and of timed frames a turn.
    """
    threads, (rounds, block) = len(cpus), size
    absent = dict(absent)
    common = {"model": str(model.path), "threads": threads, "cpus": cpus, "reference": str(work / "reference.npy")}
    chosen: dict[str, dict[str, str]] = {}
    for name in names:
        _say(f"{name}: checking outputs, {threads} thread(s)")
        job = {"stage": "probe", "engine": name, "folder": str(work / name), "rounds": PROBE_ROUNDS}
        try:
            result = run_stage(common | job | {"block": PROBE_BLOCK}, work, PROBE_SECONDS)
        except StageError as error:
            absent[name] = str(error)
            continue
        for variant, reason in result["failed"].items():
            absent[f"{name} ({variant})"] = reason
        if result["variant"] is not None:
            chosen[name] = {"variant": result["variant"], "folder": str(work / name)}
    if not chosen:
        raise StageError("no engine could be measured: " + "; ".join(f"{k}: {v}" for k, v in absent.items()))
    _say(f"racing {', '.join(chosen)}: {rounds} rounds of {block} frames, {threads} thread(s)")
    job = {"stage": "measure", "engines": chosen, "rounds": rounds, "block": block}
    results = run_stage(common | job, work, None)
    return Race(
        threads,
        cpus,
        {name: entry["variant"] for name, entry in chosen.items()},
        {name: result["error"] for name, result in results.items()},
        {name: Samples(np.array(result["seconds"]), result["cores"]) for name, result in results.items()},
        absent,
    )


def print_race(result: Race) -> None:
    """Print one race as a table, the fastest engine first."""
    rows = []
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
                f"{result.errors[name]:.0e}",
            )
        )
    columns = ("engine", "median ms", "p90 ms", "min ms", f"x {result.base}", "95 %", "cores used", "error")
    print(f"\n{result.threads} thread(s), CPUs {result.cpus}, float32, batch 1, one online step with cache feedback")
    print(table(columns, rows))
    for name, reason in result.absent.items():
        print(f"not measured: {name}: {reason}")
    others = [name for name in result.samples if name != US]
    if US in result.samples and others:
        best = min(others, key=lambda name: result.samples[name].median)
        print(f"best other engine: {best}, {result.ratio(best).value:.2f} x the time of {US}")


def race_json(result: Race) -> dict[str, Any]:
    """Return a race as plain data, with every sample."""
    return {
        "threads": result.threads,
        "cpus": result.cpus,
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
                "samples_ms": np.round(samples.seconds * 1e3, 4).tolist(),
            }
            for name, samples in result.samples.items()
        },
        "not_measured": result.absent,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--model", default="mobilenetv2-jester", help="model card to export with random weights (%(default)s)")
    add("--onnx", type=Path, help="run this online ONNX file, exported by tsm-edge, instead")
    add("--artifact", type=Path, help="measure this artifact, with its own model.onnx, instead of compiling one")
    add("--engines", nargs="+", choices=list(MODULES), default=list(MODULES), metavar="NAME", help=", ".join(MODULES))
    add("--threads", nargs="+", type=int, default=[1, 2], help="one race for each (%(default)s)")
    add("--rounds", type=int, default=40, help="turns of each engine (%(default)s)")
    add("--block", type=int, default=8, help="timed frames of a turn (%(default)s)")
    add("--json", type=Path, help="write all samples here")
    add("--work", type=Path, help="keep other engines' converted models in this folder and use them again")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, folder: Path) -> None:
    onnx = options.artifact / "model.onnx" if options.artifact else options.onnx or _export(options.model, folder)
    model = read_model(onnx.resolve())
    work = folder / hashlib.sha256(onnx.read_bytes()).hexdigest()[:12]
    work.mkdir(exist_ok=True)
    np.save(work / "reference.npy", reference_logits(model, video(model.frame_shape, FRAMES)))
    absent: dict[str, str] = {}
    ready = prepare_engines(model, options.engines, work, options.artifact, absent)
    races = [
        race_engines(model, ready, work, physical_cpus(threads), (options.rounds, options.block), absent)
        for threads in options.threads
    ]
    machine = machine_info(name for engine in ready for name in load_engine(engine).distributions)
    print(f"{options.artifact or options.onnx or options.model}\n{describe(machine)}\n{SHARED}")
    for result in races:
        print_race(result)
    if options.json:
        data = {"benchmark": "peers", "model": onnx.stem, "machine": machine, "races": [race_json(r) for r in races]}
        write_json(options.json, data)
        _say(f"wrote {options.json}")


def _export(name: str, folder: Path) -> Path:
    path = folder / f"{name}.onnx"
    _say(f"exporting {name}")
    export_onnx(ExportRequest(load_model(name), path))
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    options = _options(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="tsm-edge-peers-") as scratch:
            folder = (options.work or Path(scratch)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            _run(options, folder)
    except (StageError, TsmEdgeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
