"""Does ``tsm-edge bench`` find the same latency here and over loopback RPC? Measured in turns.

python -m benchmarks.bench_routes DIR [--rounds 200] [--threads 1]: starts ``tsm-edge serve`` and TVM's own server, and
times short stretches by each way, one after the other, in an order that turns. Prints the median ratio of
each way to the local loop and its 95 % interval (bootstrap over rounds).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np

from tsm_edge.artifact.folder import load_artifact
from tsm_edge.bench.paired import paired_ratio
from tsm_edge.bench.subject import Subject, here, over_rpc
from tsm_edge.rpc.place import Place, parse_endpoint

_HEAD = 2


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
        ways = {
            "local": here(artifact, arguments.threads),
            "tsm-edge serve": over_rpc(artifact, Place(parse_endpoint(ours)), arguments.threads),
            "TVM's own server": over_rpc(artifact, Place(parse_endpoint(stock)), None),
        }
        for subject in ways.values():
            stack.callback(subject.close)
        seconds = _race(ways, frames, arguments.rounds)
    for name, samples in seconds.items():
        ratio = paired_ratio(samples, seconds["local"])
        print(
            f"{name:18s} p50 {1e3 * np.median(samples):7.3f} ms, over local {ratio.value:.3f} "
            f"[{ratio.low:.3f}, {ratio.high:.3f}]"
        )


def _race(ways: dict[str, Subject], frames: np.ndarray, rounds: int) -> dict[str, np.ndarray]:
    names = list(ways)
    step_ns = float(np.median(ways["local"].session.measure(frames, 0, 20).duration_ns))
    count = max(5, int(0.05e9 / step_ns))
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for turn in range(rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order[::-1] if turn % 2 else order:
            timings = ways[name].session.measure(frames, turn * count, _HEAD + count)
            found[name].append(timings.duration_ns[_HEAD:] * 1e-9)
    return {name: np.array(values) for name, values in found.items()}


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
