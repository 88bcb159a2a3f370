"""``python -m benchmarks.fuzz TARGET``, from the top of the checkout: exit code 1 if an input failed."""

from __future__ import annotations

import argparse
import os
import sys
import time

from benchmarks.fuzz.driver import Limits, fuzz
from benchmarks.fuzz.target import load_target, target_modules
from benchmarks.fuzz.worker import Outcome


def main() -> int:
    """Run the program and return its exit code."""
    known = target_modules()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.partition(":")[0])
    parser.add_argument("target", choices=known, nargs="+", help="what to fuzz")
    parser.add_argument("--count", type=int, default=10_000, help="inputs [10000]")
    parser.add_argument("--first", type=int, default=0, help="seed of the first; the others follow it [0]")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="worker processes [all CPUs]")
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="an input may take [%(default)s]")
    parser.add_argument("--memory", type=int, default=Limits.memory_mib, help="MiB it may use [%(default)s]")
    parser.add_argument("--verbose", action="store_true", help="print every outcome")
    parser.add_argument("--debug", action="store_true", help="run the first seed's input in this process, unlimited")
    options = parser.parse_args()
    if options.debug:
        target = load_target(known[options.target[0]])
        target.run(target.make(options.first))
        return 0
    limits = Limits(options.seconds, options.memory)
    seeds = range(options.first, options.first + options.count)
    return max(_fuzz(name, known[name], seeds, options.jobs, limits, options.verbose) for name in options.target)


def _fuzz(name: str, module: str, seeds: range, jobs: int, limits: Limits, verbose: bool) -> int:
    done = 0
    shown_s = time.monotonic()

    def show(outcome: Outcome) -> None:
        nonlocal done, shown_s
        done += 1
        if verbose or outcome.kind == "failed":
            print(f"{name} {outcome.seed}: {outcome.kind} {outcome.text}", flush=True)
        if time.monotonic() - shown_s > 30:
            shown_s = time.monotonic()
            print(f"{name}: {done} of {len(seeds)}", file=sys.stderr, flush=True)

    report = fuzz(module, seeds, jobs, limits, show)
    counts = ", ".join(f"{report.counts.get(kind, 0)} {kind}" for kind in ("accepted", "refused", "failed"))
    print(
        f"{name}: {len(seeds)} inputs from seed {seeds.start}: {counts}; {report.seconds:.0f} s, "
        f"largest worker {report.memory_mib} MiB"
    )
    if report.failed:
        print(f"look at one with: python -m benchmarks.fuzz {name} --debug --first {report.failed[0].seed}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
