"""Does ``tsm-edge bench --compare`` flag what is the same, and find what is 10 % slower?

python -m benchmarks.bench_compare DIR [--repetitions 10] [--duration 10] [--json FILE]: measures one artifact again and
again. Each run is compared with the first: none should be called slower or faster. Then the same runs with every step
made 10 % longer by arithmetic on their samples (no artifact is exactly 10 % slower): all should be found, where the
machine had a speed in common with the first run. Prints the machine's speed, too, as the yardstick found it.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tsm_edge import __version__
from tsm_edge.artifact.folder import load_artifact
from tsm_edge.bench.compare import compare
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.result import SCHEMA, Document, Result, write_document
from tsm_edge.bench.run import run
from tsm_edge.bench.speed import speed_ratio, spread
from tsm_edge.bench.subject import here

SLOWDOWN = 1.10
TOLERANCE_PERCENT = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--duration", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="keep all runs in this file")
    arguments = parser.parse_args()
    plan = Plan(duration_s=arguments.duration, power="none", peak=False)
    first, *later = [_measured(arguments.artifact, plan) for _ in range(1 + arguments.repetitions)]
    if arguments.json is not None:
        write_document(Document(SCHEMA, __version__, (first, *later)), arguments.json)
    for result in (first, *later):
        moved = spread(result)
        arithmetic, memory = speed_ratio(first, result)
        bad = ", ".join(verdict.name for verdict in result.verdicts if verdict.level == "bad") or "none"
        within = "" if moved is None else f" within {moved.arithmetic_percent:.0f} and {moved.memory_percent:.0f} %"
        print(
            f"p50 {result.latency_ms.p50:.3f} ms; fixed work ×{arithmetic:.2f}, memory ×{memory:.2f} of the first run"
            f"{within}; bad verdicts: {bad}"
        )
    for name, runs in (("the same", later), ("10 % slower", [_slower(result) for result in later])):
        found = [compare(first, result, TOLERANCE_PERCENT) for result in runs]
        regressions = sum(one.is_regression for one in found)
        said = ", ".join(
            f"{sum(one.finding == finding for one in found)} {finding}"
            for finding in ("slower", "faster", "not distinguishable")
        )
        apart = sum(bool(one.reason) for one in found)
        print(f"{name}: {regressions} of {len(found)} are regressions; {said}, of which {apart} by the machine's speed")
        for one in found:
            print(f"  {one.text()}")


def _measured(path: str, plan: Plan) -> Result:
    with closing(here(load_artifact(path), 1)) as subject:
        return run(subject, plan, "").result


def _slower(result: Result) -> Result:
    slow = tuple(value * SLOWDOWN for value in result.samples.step_ms)
    return replace(result, samples=replace(result.samples, step_ms=slow))


if __name__ == "__main__":
    main()
