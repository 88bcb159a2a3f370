"""Make the tuning records that come with target cards: targets/records/TARGET.jsonl.

python benchmarks/ship_records.py --work records-work --budget 4m
python benchmarks/ship_records.py --work records-work --targets x86-64-v4 --models motion --stop-after 30m

Each model is compiled for each target and tuned here, in one thread, one after the other. So this machine must have the
targets' instructions, and nothing else to do. To go on after an interruption, start it again with the same --work: what
is done stays, and a run that was broken off keeps its trials. Only what made a whole step faster beyond doubt is
shipped, and what is not is said. 8-bit integers are tuned for the targets with instructions for them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from race_command import run_in_folder, say

from tsm_edge.cards import load_target
from tsm_edge.compile.records import RecordFile, read_records
from tsm_edge.tune.record_sets import merged, pruned, write_records

MODELS = ("mobilenetv2-jester", "resnet50-kinetics", "motion")
TARGETS = ("x86-64-v4", "x86-64-v3", "x86-64-v4-vnni", "x86-64-v3-vnni")
SHIPPED = Path(__file__).resolve().parents[1] / "targets" / "records"
# Beside the budget: a model is compiled, its rules' kernels once more, and a last library may be under way.
A_RUN_BESIDE_S, AT_MOST_S = 120.0, 1200.0
PICTURES = 16


@dataclass(frozen=True)
class Run:
    """A model tuned for a target in a precision."""

    model: str
    target: str
    precision: str

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.model}-{self.target}-{self.precision}"


class Failed(Exception):
    """A run of the program ended with an error; the message says which."""


def runs_of(targets: Sequence[str], models: Sequence[str]) -> list[Run]:
    """Integers where the target has instructions for them, else float32."""
    found = []
    for target in targets:
        integers = "dot-product" in load_target(target).cpu.abilities
        found += [Run(model, target, "int8" if integers else "fp32") for model in models]
    return found


def tsm_edge(*arguments: object, limit_s: float) -> dict[str, Any]:
    """The program, as a user calls it; returns its JSON.

    Raises
    ------
    Failed
        It ended with an error, or did not end in time.
    """
    command = [sys.executable, "-m", "tsm_edge.cli", *map(str, arguments), "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"tsm-edge {arguments[0]} took longer than {limit_s:.0f} s") from None
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def pictures(folder: Path) -> Path:
    """Blurred noise, to calibrate with: what integers compute does not change how long they take."""
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    for index in range(PICTURES):
        coarse = noise.integers(0, 256, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index:03d}.png"), cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC))
    return folder


def tuned(run: Run, budget: str, limit_s: float, work: Path) -> dict[str, Any]:
    """Compile and tune; the target's file of records grows."""
    folder, records = work / run.name, work / f"{run.target}.jsonl"
    if not (folder / "manifest.json").exists():
        how = ("--precision", "int8", "--calibrate", pictures(work / "pictures")) if run.precision == "int8" else ()
        build = ("compile", run.model, "--target", run.target, "--no-records", "--no-runner")
        tsm_edge(*build, *how, "-o", folder, limit_s=AT_MOST_S)
    go_on = ("--continue",) if records.exists() else ()
    options = ("--threads", 1, "--budget", budget, "--html", work / f"{run.name}.html", "-o", records)
    return tsm_edge("tune", folder, *options, *go_on, limit_s=limit_s + AT_MOST_S)


def told(run: Run, result: dict[str, Any]) -> str:
    """A line for people."""
    found = result["tuned"]
    tried = f"{found['tried']} candidates of {found['kernels']} kernels tried"
    if found["whole"] is None:
        return f"{run.name}: nothing faster beyond doubt, not shipped ({tried})"
    whole = found["whole"]
    ratio = f"{whole['value']:.3f} of the rules' time (95 %: {whole['low']:.3f} to {whole['high']:.3f})"
    verdict = f"{len(found['accepted'])} kernels shipped" if result["faster"] else "not beyond doubt, not shipped"
    return f"{run.name}: {ratio}, {verdict} ({tried})"


def ship(targets: Sequence[str], models: Sequence[str], work: Path) -> None:
    """What compile can use goes beside the cards, instead of what those models had; trials stay in ``work``."""
    for target in targets:
        if not (work / f"{target}.jsonl").exists():
            continue
        kept = pruned(merged([_of_others(SHIPPED / f"{target}.jsonl", models), read_records(work / f"{target}.jsonl")]))
        if kept.records:
            SHIPPED.mkdir(exist_ok=True)
            write_records(SHIPPED / f"{target}.jsonl", kept)
            print(f"{SHIPPED / target}.jsonl: {len(kept.records)} records")
        else:
            print(f"{target}: no records to ship")


def _of_others(shipped: Path, models: Sequence[str]) -> RecordFile:
    """The records that were shipped for other models."""
    if not shipped.exists():
        return RecordFile((), (), ())
    records = read_records(shipped).records
    return RecordFile(tuple(record for record in records if record.about.get("model") not in models), (), ())


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)([smh])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time like 90s, 4m or 1h")
    return float(found[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0}[found[2]]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--work", type=Path, required=True, help="trials, compiled models and reports, kept in this folder")
    add("--budget", default="4m", help="of each run; compiling is about a minute more (%(default)s)")
    add("--targets", nargs="+", default=list(TARGETS), help="(%(default)s)")
    add("--models", nargs="+", default=list(MODELS), help="(%(default)s)")
    add("--stop-after", type=_seconds, metavar="TIME", help="begin no run that would not end by then: 75m")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, work: Path) -> None:
    began_s, budget_s, failed = time.monotonic(), _seconds(options.budget), 0
    for run in runs_of(options.targets, options.models):
        result = work / f"{run.name}.json"
        if not result.exists():
            spent_s = time.monotonic() - began_s
            if options.stop_after is not None and spent_s + budget_s + A_RUN_BESIDE_S > options.stop_after:
                print(f"{run.name}: no time left, not tuned")
                continue
            say(f"{run.name}: load average {os.getloadavg()[0]:.1f}")
            try:
                made = tuned(run, options.budget, budget_s, work)
            except Failed as error:
                print(f"{run.name}: {error}", flush=True)
                failed += 1
                continue
            result.write_text(json.dumps(made, indent=1), "utf-8")
        print(told(run, json.loads(result.read_text("utf-8"))), flush=True)
    ship(options.targets, options.models, work)
    if failed:
        raise ValueError(f"{failed} runs failed: see above, then start it again")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    options = _options(arguments)
    return run_in_folder(lambda folder: _run(options, folder), options.work)


if __name__ == "__main__":
    sys.exit(main())
