"""What happens in months: a disk that fills up, a clock that is set, a camera that goes away. The run goes on."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mjpeg_server import MjpegServer, Send, serving
from running_page import RunningPage

from tsm_edge.events.courier import Courier
from tsm_edge.events.detector import Detector
from tsm_edge.events.jsonl import JsonLines
from tsm_edge.events.outbox import Outbox
from tsm_edge.events.rules import Rule
from tsm_edge.events.watch import Watch
from tsm_edge.live.observer import Snapshot, Totals
from tsm_edge.live.result import FrameResult

RULES = "[[rule]]\nprobability = 0.2\nduration_s = 0\nrelease_s = 0\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("a small disk cannot be made here: mounting needs root")
    yield place
    subprocess.run(["umount", str(place)], timeout=30, check=True)


def flicker(server: MjpegServer, send: Send) -> None:
    """A camera whose level changes every few frames, for ever."""
    number = 0
    while not server.stopping.is_set():
        for _ in range(6):
            send(50 * (number % 5) + 12)
            server.pause(0.02)
        number += 1


def test_a_disk_that_fills_up_and_is_emptied(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    with serving(flicker) as camera:
        page = RunningPage(
            tmp_path, "--camera", camera.url, "--quiet", "--rules", tmp_path / "rules.toml",
            "--events", small_disk / "events.jsonl", "--spool", small_disk / "spool", "--record", small_disk / "clips",
        )  # fmt: skip
        try:

            def receiver(name: str) -> dict[str, int]:
                return next(item for item in page.state()["receivers"] if item["name"] == name)

            page.wait_for(lambda: receiver("file")["delivered"] > 2)
            with contextlib.suppress(OSError), ballast.open("ab") as stream:
                while True:
                    stream.write(bytes(4096))
                    stream.flush()
            page.wait_for(lambda: receiver("file")["retries"] > 0, 40)
            frames = page.state()["frames"]
            page.wait_for(lambda: page.state()["frames"] > frames + 10)
            ballast.unlink()
            page.wait_for(lambda: receiver("file")["waiting"] == 0 and receiver("file")["delivered"] > 10, 40)
            os.killpg(page.program.process.pid, signal.SIGTERM)
            assert page.program.process.wait(20) == 143
        finally:
            page.program.kill()
    lines = [json.loads(line) for line in (small_disk / "events.jsonl").read_text("utf-8").splitlines()]
    # Each line is whole, and none is missing: starts and ends take turns.
    assert [line["event_type"] for line in lines] == ["start", "end"] * (len(lines) // 2)
    assert "Traceback" not in page.program.output()


def snapshot(index: int, wall_s: float, label: int) -> Snapshot:
    logits = np.zeros(2, np.float32)
    time_s = 0.1 * index
    result = FrameResult(index, time_s, f"label {label}", label, 0.9, 1.0, 1.0, 1.0, 1.0, "", logits)
    return Snapshot(np.zeros((4, 4, 3), np.uint8), result, Totals(index, index, 0, 0), wall_s, 100 + time_s)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, -1.6e9])
def test_a_clock_that_is_set_changes_no_duration(jump_s: float, tmp_path: Path) -> None:
    courier = Courier(JsonLines(tmp_path / "events.jsonl"), Outbox(None))
    with Watch(Detector([Rule(duration_s=0.35, release_s=0.15)], "model", "camera 0"), [courier]) as watch:
        for index in range(40):
            wall_s = 1.7e9 + 0.1 * index + (jump_s if index >= 15 else 0.0)
            watch.see(snapshot(index, wall_s, label=index // 10))
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(line["event_type"], line["class_index"], line["frame"]) for line in lines] == [
        ("start", 0, 4), ("end", 0, 9), ("start", 1, 14), ("end", 1, 19), ("start", 2, 24), ("end", 2, 29),
        ("start", 3, 34), ("end", 3, 39),
    ]  # fmt: skip
    assert {line["duration_s"] for line in lines} == {0.4, 0.9}
    # The time of day is what the clock says.
    seen = datetime.datetime.fromisoformat(lines[-1]["time"].replace("Z", "+00:00")).timestamp()
    assert abs(seen - (1.7e9 + 3.9 + jump_s)) < 0.01


def test_an_event_ends_when_the_camera_falls_silent() -> None:
    told: list[str] = []

    class Ear:
        name = "ear"

        def deliver(self, letter: object) -> None:
            told.append(json.loads(letter.body)["event_type"])  # type: ignore[attr-defined]

        def close(self) -> None: ...

    with Watch(Detector([Rule(duration_s=0.0)], "model", "camera 0"), [Courier(Ear(), Outbox(None))]) as watch:
        watch.see(snapshot(0, 1.7e9, 0))  # by the monotonic clock that was long ago
        watch.idle()
        watch.idle()
    assert told == ["start", "end"]
