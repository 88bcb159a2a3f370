"""``python -m benchmarks.soak DIR``: many minutes at a high frame rate, with all that watches a run, and its memory.

A small clip is played again and again at hundreds of frames a second, with a page and viewers of it, events to a file
and to a web address that fails now and then, and clips. The memory of both processes is read all the time: what is
their own, and no pages of files that they share with whatever else runs here. What it grows by once the page's history
of 5 minutes is full is the verdict.
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
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
from tornado.httpclient import HTTPError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tsm_edge.page.wire import HISTORY_S

_SIZE, _FRAMES = 64, 600
# Histories are full then, and a few viewers have come and gone.
_WARM_UP_S = HISTORY_S + 60.0
_SHORTEST_MIN = 10.0
# A machine may be busy.
_START_S, _CONNECT_S, _END_S = 120.0, 60.0, 60.0
# Seconds since the start, and MB.
Point = tuple[float, float]
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


async def connect(port: int) -> WebSocketClientConnection:
    """Open the page's socket; one that is busy is asked again, up to a minute."""
    until_s = time.monotonic() + _CONNECT_S
    while True:
        left_s = max(until_s - time.monotonic(), 1.0)
        request = HTTPRequest(f"ws://127.0.0.1:{port}/live", connect_timeout=left_s, request_timeout=left_s)
        try:
            return await asyncio.wait_for(websocket_connect(request), left_s)
        except (OSError, HTTPError, asyncio.TimeoutError) as error:
            if time.monotonic() > until_s:
                raise SystemExit(f"a viewer could not connect within {_CONNECT_S:.0f} s: {error!r}") from None
            await asyncio.sleep(0.5)


async def look(port: int, until_s: float, slow: bool) -> int:
    """Be a viewer, who leaves and comes back; returns how many messages came."""
    seen = 0
    while time.monotonic() < until_s:
        leave_s = time.monotonic() + random.uniform(5, 60)
        viewer = await connect(port)
        while (left_s := min(until_s, leave_s) - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(asyncio.shield(viewer.read_message()), left_s)
            except asyncio.TimeoutError:
                break
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
    """What a process has for itself, MB: pages of files go and come as others use them, which is no growth."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    found = re.search(r"^Pss_Anon:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise SystemExit("this kernel does not tell Pss_Anon: Linux 5.4 or newer is needed")
    return int(found[1]) / 1024


def watch(processes: dict[str, int], viewers: Future[list[int]], every_s: float) -> dict[str, list[Point]]:
    """Read the memory as long as there are viewers."""
    began_s = time.monotonic()
    found: dict[str, list[Point]] = {name: [] for name in processes}
    while not viewers.done():
        for name, process in processes.items():
            found[name].append((time.monotonic() - began_s, memory_mb(process)))
        time.sleep(every_s)
    return found


def verdict(name: str, points: list[Point]) -> bool:
    """Print how the memory went; whether it is flat."""
    warm = [point for point in points if point[0] >= _WARM_UP_S]
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
    if options.minutes < _SHORTEST_MIN:
        parser.error(f"--minutes {options.minutes:g}: expected {_SHORTEST_MIN:g} or more, histories take 5 to fill")
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
        # Into a file: a pipe that nobody reads would fill up.
        with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                return _soak(process, folder, options)
            finally:
                process.kill()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s and process.poll() is None:
        if found := re.search(r"page: http://[^:]+:(\d+)/", log.read_text()):
            return int(found[1])
        time.sleep(0.2)
    raise SystemExit(f"the run did not start within {_START_S:.0f} s:\n{log.read_text()}")


def _soak(process: subprocess.Popen[bytes], folder: Path, options: argparse.Namespace) -> int:
    port = _port(process, folder / "log")
    time.sleep(3)
    children = " ".join(path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")).split()
    until_s = time.monotonic() + 60 * options.minutes

    async def all_viewers() -> list[int]:
        return await asyncio.gather(*(look(port, until_s, index % 2 == 1) for index in range(options.viewers)))

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(asyncio.run, all_viewers())
        points = watch({"run": process.pid, "page": int(children[0])}, looking, 5.0)
        viewers = looking.result()
    state = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/state.json", timeout=_END_S))
    process.terminate()
    process.wait(_END_S)
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
