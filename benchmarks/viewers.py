"""``python -m benchmarks.viewers DIR --video FILE``: whether those who look at the page slow the network.

One run plays a clip again and again at its own pace. Phases without viewers and with viewers take turns; each pair
gives a ratio of median step times. The viewers are WebSockets on this machine, at the lowest priority: they take every
picture, as a browser does, but do not decode it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from tornado.websocket import websocket_connect

_SETTLE_S = 1.0


async def look(port: int, seconds: float, count: int) -> int:
    """Be so many viewers for a while; returns how many pictures came."""

    async def one() -> int:
        viewer = await websocket_connect(f"ws://127.0.0.1:{port}/live")
        pictures = 0
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and (message := await viewer.read_message()) is not None:
            pictures += isinstance(message, bytes)
            if isinstance(message, bytes) or not json.loads(message).get("picture_follows"):
                await viewer.write_message("1")
        viewer.close()
        return pictures

    return sum(await asyncio.gather(*(one() for _ in range(count))))


def ratio_interval(ratios: list[float], seed: int = 0) -> tuple[float, float]:
    """95 % of the medians of samples drawn from them again."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(high)


class Steps:
    """Step times of a run, with the moment each was printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.found: list[tuple[float, float]] = []
        self._stream = process.stdout
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._stream or ():
            if line.startswith('{"type": "frame"'):
                self.found.append((time.monotonic(), json.loads(line)["step_ms"]))

    def between(self, begin_s: float, end_s: float) -> list[float]:
        """Those of a while."""
        return [step for moment, step in self.found if begin_s <= moment < end_s]


def _set_priorities(run: int, busy: bool) -> None:
    """Put this process, which the viewers are in, last; on a busy machine it and the page before all others."""
    os.setpriority(os.PRIO_PROCESS, 0, -10 if busy else 19)
    if not busy:
        return
    children = " ".join(path.read_text() for path in Path(f"/proc/{run}/task").glob("*/children")).split()
    for process in (str(run), *children):
        for task in Path(f"/proc/{process}/task").iterdir():
            if task.name != str(run):
                os.setpriority(os.PRIO_PROCESS, int(task.name), -10)


def main() -> int:
    """Run the program; exit code 1: viewers cost more than 3 %."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.viewers", description=__doc__.partition(":")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--video", required=True)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a phase [5]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--busy-machine",
        action="store_true",
        help="as root: the network's thread in real time, and all that serves and looks at nice -10, above all others",
    )
    options = parser.parse_args()
    command = [
        sys.executable, "-m", "tsm_edge.cli", "run", str(options.artifact), "--camera", options.video, "--loop",
        "--json", "--page", "0", "--threads", str(options.threads),
    ]  # fmt: skip
    if options.busy_machine:
        command = ["chrt", "--reset-on-fork", "--fifo", "50", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port = 0
    while not port:
        found = re.search(r"page: http://[^:]+:(\d+)/", process.stderr.readline())
        port = int(found[1]) if found else 0
    steps = Steps(process)
    time.sleep(3)
    _set_priorities(process.pid, options.busy_machine)
    ratios, pictures = [], 0
    for number in range(options.pairs):
        medians = {}
        # Which of the two goes first takes turns, too.
        for count in (0, options.viewers) if number % 2 else (options.viewers, 0):
            began_s = time.monotonic()
            if count:
                pictures += asyncio.run(look(port, options.seconds, count))
            else:
                time.sleep(options.seconds)
            medians[count] = statistics.median(steps.between(began_s + _SETTLE_S, time.monotonic()))
            time.sleep(_SETTLE_S)
        ratios.append(medians[options.viewers] / medians[0])
        print(f"pair {number + 1}: {medians[0]:.3f} ms, {medians[options.viewers]:.3f} ms with viewers", flush=True)
    process.terminate()
    process.wait(30)
    low, high = ratio_interval(ratios)
    middle = statistics.median(ratios)
    rate = pictures / options.viewers / (options.pairs * options.seconds)
    print(f"{options.viewers} viewers, {rate:.1f} pictures/s each: step time × {middle:.4f} [{low:.4f}, {high:.4f}]")
    return 0 if middle <= 1.03 else 1


if __name__ == "__main__":
    sys.exit(main())
