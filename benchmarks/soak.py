"""``python -m benchmarks.soak DIR``: many minutes at a high frame rate, with all that watches a run, and its memory.

A small clip is played again and again at hundreds of frames a second, with a page and viewers of it, events to a file
and to a web address that fails now and then, and clips. The memory of both processes (PSS: shared pages by their share)
is read all the time; what it grows by after the first quarter is the verdict.
"""

from __future__ import annotations

import argparse
import asyncio
import http.server
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

import numpy as np
from tornado.websocket import websocket_connect

_SIZE, _FRAMES = 64, 600
_WARM_UP = 0.25
# What a fifth of an hour may add: allocators are no bookkeepers.
_MOST_GROWTH_MB = 2.0


class Hook(http.server.BaseHTTPRequestHandler):
    """A receiver of events that fails one time in ten."""

    ids: ClassVar[set[str]] = set()
    twice = 0

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        """Take an event."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fails = random.random() < 0.1
        if not fails:
            Hook.twice += body["id"] in Hook.ids
            Hook.ids.add(body["id"])
        self.send_response(503 if fails else 204)
        self.end_headers()


def write_clip(path: Path, fps: int) -> None:
    """A clip whose brightness changes every half second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = _SIZE
        stream.pix_fmt = "yuv420p"
        for index in range(_FRAMES):
            image = np.full((_SIZE, _SIZE, 3), 40 + 50 * (2 * index // fps % 5), np.uint8)
            image[:, index % _SIZE] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


async def look(port: int, until_s: float, slow: bool) -> int:
    """Be a viewer, who leaves and comes back; returns how many messages came."""
    seen = 0
    while time.monotonic() < until_s:
        leave_s = time.monotonic() + random.uniform(5, 60)
        viewer = await websocket_connect(f"ws://127.0.0.1:{port}/live")
        while time.monotonic() < min(until_s, leave_s):
            message = await viewer.read_message()
            if message is None:
                break
            seen += 1
            if isinstance(message, bytes) or not json.loads(message).get("picture_follows"):
                await viewer.write_message("1")
            if slow:
                await asyncio.sleep(0.5)
        viewer.close()
    return seen


def memory_mb(process: int) -> float:
    """PSS of a process, MB."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def watch(processes: dict[str, int], until_s: float, every_s: float) -> dict[str, list[tuple[float, float]]]:
    """Read the memory until it is over."""
    began_s = time.monotonic()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    while time.monotonic() < until_s:
        for name, process in processes.items():
            found[name].append((time.monotonic() - began_s, memory_mb(process)))
        time.sleep(every_s)
    return found


def verdict(name: str, points: list[tuple[float, float]]) -> bool:
    """Print how the memory went; whether it is flat."""
    warm = points[int(_WARM_UP * len(points)) :]
    seconds, values = np.array(warm).T
    slope, _ = np.polyfit(seconds, values, 1)
    third = max(len(values) // 3, 1)
    growth = float(np.median(values[-third:]) - np.median(values[:third]))
    print(
        f"{name}: {points[0][1]:.1f} MB at the start, {values[0]:.1f} MB warm, {values[-1]:.1f} MB at the end; "
        f"last third - first third {growth:+.2f} MB, slope {3600 * slope:+.2f} MB/h "
        f"over {seconds[-1] - seconds[0]:.0f} s"
    )
    return growth <= _MOST_GROWTH_MB


def main() -> int:
    """Run the program; exit code 1: the memory grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition(":")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--fps", type=int, default=300, help="of the clip [300]")
    parser.add_argument("--viewers", type=int, default=4, help="half of them slow [4]")
    parser.add_argument("--program", nargs="+", default=[sys.executable, "-m", "tsm_edge.cli"])
    options = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip(folder / "clip.mp4", options.fps)
        (folder / "rules.toml").write_text("[[rule]]\nprobability = 0.1\nduration_s = 0.05\nrelease_s = 0.02\n")
        command = [
            *options.program, "run", str(options.artifact), "--camera", str(folder / "clip.mp4"), "--loop", "--quiet",
            "--page", "0", "--events", str(folder / "events.jsonl"), "--rules", str(folder / "rules.toml"),
            "--webhook", f"http://127.0.0.1:{server.server_address[1]}/", "--spool", str(folder / "spool"),
            "--record", str(folder / "clips"), "--record-quota", "5",
        ]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            return _soak(process, folder, options)


def _soak(process: subprocess.Popen[str], folder: Path, options: argparse.Namespace) -> int:
    assert process.stderr is not None
    port = 0
    while not port:
        found = re.search(r"page: http://[^:]+:(\d+)/", process.stderr.readline())
        port = int(found[1]) if found else 0
    time.sleep(3)
    children = " ".join(path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")).split()
    until_s = time.monotonic() + 60 * options.minutes
    viewers: list[int] = []

    async def all_viewers() -> None:
        viewers.extend(await asyncio.gather(*(look(port, until_s, index % 2 == 1) for index in range(options.viewers))))

    looking = threading.Thread(target=lambda: asyncio.run(all_viewers()))
    looking.start()
    points = watch({"run": process.pid, "page": int(children[0])}, until_s, 5.0)
    looking.join()
    state = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/state.json", timeout=10))
    process.terminate()
    process.wait(30)
    flat = [verdict(name, values) for name, values in points.items()]
    lines = [json.loads(line)["id"] for line in (folder / "events.jsonl").read_text().splitlines()]
    missing = len(set(lines) - Hook.ids)
    print(
        f"{state['frames']} frames in {state['running_s']:.0f} s, {state['frames'] / state['running_s']:.0f} frames/s"
    )
    print(f"{len(lines)} events: {len(lines) - len(set(lines))} twice in the file, {Hook.twice} twice at the webhook, "
          f"{missing} not there")  # fmt: skip
    print(f"{len(list((folder / 'clips').iterdir()))} clips left; receivers: {state['receivers']}")
    print(f"messages to viewers: {viewers}")
    return 0 if all(flat) and not Hook.twice and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
