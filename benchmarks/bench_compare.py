"""Does ``tsm-edge bench --compare`` flag what is the same, and find what is 10 % slower?

python -m benchmarks.bench_compare DIR [--repetitions 10] [--duration 10] [--json FILE]: measures one artifact again and
again, and compares every two runs: none should be called slower or faster. Then the same with every step of the later
run made 10 % longer by arithmetic on its samples (no artifact is exactly 10 % slower): those should be found in which
the machine had a speed in common. Prints the machine's speed, too, as the yardstick found it. With a FILE of an earlier
run in the place of DIR nothing is measured.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tsm_edge import __version__
from tsm_edge.artifact.folder import load_artifact
from tsm_edge.bench.compare import compare
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.result import SCHEMA, Document, Result, read_document, write_document
from tsm_edge.bench.run import run
from tsm_edge.bench.speed import speed_ratio, spread
from tsm_edge.bench.subject import here

SLOWDOWN = 1.10
TOLERANCE_PERCENT = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--duration", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="keep all runs in this file")
    arguments = parser.parse_args()
    results: list[Result]
    if arguments.artifact.is_file():
        results = list(read_document(arguments.artifact).results)
    else:
        plan = Plan(duration_s=arguments.duration, power="none", peak=False)
        results = [_measured(arguments.artifact, plan)]
        if not results[0].yardstick:
            parser.error(f"{arguments.artifact} has no yardstick inside: compile it again with this version")
        results += [_measured(arguments.artifact, plan) for _ in range(arguments.repetitions)]
    if arguments.json is not None:
        write_document(Document(SCHEMA, __version__, tuple(results)), arguments.json)
    for result in results:
        print(_described(results[0], result))
    _print_pairs("the same", results, 1.0)
    _print_pairs(f"{100 * (SLOWDOWN - 1):.0f} % slower", results, SLOWDOWN)


def _measured(path: Path, plan: Plan) -> Result:
    with closing(here(load_artifact(path), 1)) as subject:
        return run(subject, plan, "").result


def _described(first: Result, result: Result) -> str:
    moved = spread(result)
    arithmetic, memory = speed_ratio(first, result)
    bad = ", ".join(dict.fromkeys(verdict.name for verdict in result.verdicts if verdict.level == "bad"))
    within = "" if moved is None else f", within {moved.arithmetic_percent:.0f} and {moved.memory_percent:.0f} %"
    return (
        f"p50 {result.latency_ms.p50:.3f} ms; fixed work ×{arithmetic:.2f}, memory ×{memory:.2f} of the first "
        f"run{within}; bad: {bad or 'nothing'}"
    )


def _print_pairs(name: str, results: Sequence[Result], factor: float) -> None:
    """Every run against each one before it."""
    found = [compare(old, _slower(new, factor), TOLERANCE_PERCENT) for old, new in itertools.combinations(results, 2)]
    able = [one for one in found if not one.reason]
    counts = ", ".join(
        f"{sum(one.finding == finding for one in able)} {finding}"
        for finding in ("slower", "faster", "not distinguishable")
    )
    regressions = sum(one.is_regression for one in found)
    print(f"{name}: of {len(found)} pairs {len(able)} at one speed of the machine: {counts}; {regressions} regressions")
    for one in able:
        print(f"  {one.text()}")
    for reason in sorted({one.reason.partition(" (")[0] for one in found if one.reason}):
        print(f"  {sum(one.reason.startswith(reason) for one in found)} × not distinguishable: {reason}")


def _slower(result: Result, factor: float) -> Result:
    slow = tuple(value * factor for value in result.samples.step_ms)
    return replace(result, samples=replace(result.samples, step_ms=slow))


if __name__ == "__main__":
    main()
