"""Does ``tsm-edge bench --compare`` flag what is the same, and find what is 10 % slower?

python -m benchmarks.bench_compare DIR [--repetitions 10] [--duration 5]: measures one artifact again and again. Each
run is compared with the first: none should be called a regression. Then the same runs with every step made 10 % longer
by arithmetic on their samples (no artifact is exactly 10 % slower): all should be.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import replace

from tsm_edge.artifact.folder import load_artifact
from tsm_edge.bench.compare import compare
from tsm_edge.bench.plan import Plan
from tsm_edge.bench.result import Result
from tsm_edge.bench.run import run
from tsm_edge.bench.subject import here

SLOWDOWN = 1.10
TOLERANCE_PERCENT = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--duration", type=float, default=5.0)
    arguments = parser.parse_args()
    plan = Plan(duration_s=arguments.duration, power="none", peak=False)
    first, *later = [_measured(arguments.artifact, plan) for _ in range(1 + arguments.repetitions)]
    for name, runs in (("the same", later), ("10 % slower", [_slower(result) for result in later])):
        found = [compare(first, result, TOLERANCE_PERCENT) for result in runs]
        regressions = sum(one.is_regression for one in found)
        slower = sum(one.finding == "slower" for one in found)
        print(f"{name}: {regressions} of {len(found)} are regressions, {slower} are slower")
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
