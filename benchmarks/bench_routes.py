"""Does ``tsm-edge bench`` find the same latency here, over loopback RPC and by ``tsm-runner``? Measured in turns.

python -m benchmarks.bench_routes DIR [--rounds 200] [--threads 1]: starts ``tsm-edge serve`` and TVM's own server, and
times short stretches by each way, one after the other, in a random order; ``tsm-runner`` is started for each of
its own. Before and after each the yardstick in model.so is read. Prints the median ratio of each way to the local loop
and its 95 % interval (bootstrap): of all rounds as they are, and adjusted for the machine's speed in each turn.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.folder import RUNNER, Artifact, load_artifact
from tsm_edge.bench.paired import paired_ratio
from tsm_edge.bench.result import Yardstick, from_json
from tsm_edge.bench.speed import Stretch, stretch_between
from tsm_edge.bench.subject import Subject, here, over_rpc
from tsm_edge.rpc.place import Place, parse_endpoint
from tsm_edge.session.timings import Speed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEAD = 2
_RESAMPLES = 2000


@dataclass(frozen=True)
class Turn:
    """Frames of a way, seconds, between two looks at the machine's speed."""

    seconds: NDArray[np.float64]
    speeds: tuple[Speed, ...]

    def speed(self) -> tuple[float, float]:
        """Logarithms of what the yardstick took: arithmetic, memory."""
        stretch = self.stretch()
        return stretch.arithmetic, stretch.memory

    def stretch(self) -> Stretch:
        """As a comparison of runs has it."""
        pauses = [Yardstick(0.0, one.arithmetic_ns * 1e-6, one.memory_ns * 1e-6) for one in self.speeds]
        return stretch_between(self.seconds * 1e3, pauses[0], pauses[-1])


Way = Callable[[int, int], Turn]
"""Times so many frames from a number on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    artifact = load_artifact(arguments.artifact)
    shape = artifact.manifest.frame.shape[1:]
    frames = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    with ExitStack() as stack:
        ours = _started(stack, ["tsm_edge.cli", "serve", "--port", "0"], r"serving on (\S+?):? ", arguments.threads)
        command = ["tvm.exec.rpc_server", "--host", "127.0.0.1", "--port", "9500", "--port-end", "9599"]
        stock = _started(stack, command, r"bind to (\S+)", arguments.threads)
        subjects = {
            "local": here(artifact, arguments.threads),
            "tsm-edge serve": over_rpc(artifact, Place(parse_endpoint(ours)), arguments.threads),
            "TVM's own server": over_rpc(artifact, Place(parse_endpoint(stock)), None),
        }
        for subject in subjects.values():
            stack.callback(subject.close)
        ways = {name: partial(_by_session, subject, frames) for name, subject in subjects.items()}
        ways["tsm-runner"] = partial(_by_runner, artifact, arguments.threads)
        turns = _race(ways, arguments.rounds)
    _print(turns)


def _print(turns: Mapping[str, Sequence[Turn]]) -> None:
    local = turns["local"]
    for name, own in turns.items():
        everything = np.array([turn.seconds for turn in own])
        ratio = paired_ratio(everything, np.array([turn.seconds for turn in local]))
        line = f"{name:17s} p50 {1e3 * np.median(everything):.3f} ms"
        print(f"{line}, over local {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]; {_adjusted(local, own)}")


def _adjusted(local: Sequence[Turn], own: Sequence[Turn]) -> str:
    """The ratio at one speed of the machine: logarithms, by least squares on the way and the yardstick's two times."""
    if own is local:
        return "at one speed 1"
    values = np.array([(turn.stretch().log_ms, *turn.speed(), 0.0) for turn in local])
    others = np.array([(turn.stretch().log_ms, *turn.speed(), 1.0) for turn in own])
    random = np.random.default_rng(0)
    found = [_effect(values, others)]
    for _ in range(_RESAMPLES):
        picks = [random.integers(0, len(part), len(part)) for part in (values, others)]
        found.append(_effect(values[picks[0]], others[picks[1]]))
    low, high = np.exp(np.percentile(found[1:], [2.5, 97.5]))
    return f"at one speed {math.exp(found[0]):.3f} [{low:.3f}, {high:.3f}]"


def _effect(*parts: NDArray[np.float64]) -> float:
    rows = np.concatenate(parts)
    known = np.column_stack([np.ones(len(rows)), rows[:, 1:]])
    return float(np.linalg.lstsq(known, rows[:, 0], rcond=None)[0][-1])


def _race(ways: Mapping[str, Way], rounds: int) -> dict[str, list[Turn]]:
    names = list(ways)
    step_s = float(np.median(ways["local"](0, 20).seconds))
    count = max(5, int(0.05 / step_s))
    found: dict[str, list[Turn]] = {name: [] for name in names}
    random = np.random.default_rng(0)
    for turn in range(rounds):
        for name in random.permutation(names):
            found[name].append(ways[name](turn * count, count))
    return found


def _by_session(subject: Subject, frames: NDArray[np.float32], first: int, count: int) -> Turn:
    session = subject.session
    before = session.machine_speed()
    timings = session.measure(frames, first, _HEAD + count)
    after = session.machine_speed()
    speeds = tuple(speed for speed in (before, after) if speed is not None)
    return Turn(timings.duration_ns[_HEAD:] * 1e-9, speeds)


def _by_runner(artifact: Artifact, threads: int, first: int, count: int) -> Turn:
    program = [artifact.path / RUNNER, "bench", "--frames", str(count), "--warmup", "0", "--threads", str(threads)]
    printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    [result] = from_json(json.loads(printed), RUNNER).results
    speeds = [Speed(round(1e6 * one.arithmetic_ms), round(1e6 * one.memory_ms)) for one in result.yardstick]
    return Turn(np.array(result.samples.step_ms) * 1e-3, tuple(speeds))


def _started(stack: ExitStack, command: list[str], pattern: str, threads: int) -> str:
    """Start a server; returns its address."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TSM_EDGE_THREADS": str(threads)}
    program = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    stack.callback(program.wait)
    stack.callback(program.terminate)
    assert program.stdout is not None
    for line in program.stdout:
        if found := re.search(pattern, line):
            time.sleep(1.0)
            return found[1]
    raise SystemExit(f"{command[0]} did not start")


if __name__ == "__main__":
    main()
