"""What the run tells the page's process, and what becomes of that when it fails."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mjpeg_server import wait_until

from tsm_edge.live.observer import Snapshot, Totals
from tsm_edge.live.result import FrameResult
from tsm_edge.page import child as child_module
from tsm_edge.page.address import Address, open_door
from tsm_edge.page.child import Child
from tsm_edge.page.publisher import Publisher
from tsm_edge.page.wire import About

ABOUT = About("model", "camera 0", ("a", "b"), False, "")


def snapshot(index: int, logits: list[float], probability: float) -> Snapshot:
    result = FrameResult(index, 0.0, "a", 0, probability, 1.0, 1.0, 1.0, 1.0, "", np.array(logits, np.float32))
    return Snapshot(np.zeros((4, 4, 3), np.uint8), result, Totals(index, index, 0, 0), time.time(), time.monotonic())


def state_at(port: int) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/state.json")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return found


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_network_that_gives_nan_does_not_end_the_page() -> None:
    door = open_door(Address("127.0.0.1", 0))
    with Publisher(door, ABOUT, "", list) as publisher:
        shown: list[dict[str, Any]] = []

        def seen(index: int, logits: list[float], probability: float) -> bool:
            publisher.see(snapshot(index, logits, probability))
            shown.append(state_at(door.address.port))
            return int(shown[-1]["frame"]) == index

        wait_until(lambda: seen(1, [math.nan, math.nan], math.nan), 30)
        assert (shown[-1]["probability"], [share for _, share in shown[-1]["top"]]) == (0.0, [0.0, 0.0])
        wait_until(lambda: seen(2, [2.0, 1.0], 0.7), 30)
        assert shown[-1]["probability"] == 0.7


def test_a_module_of_the_users_folder_is_not_taken_for_pythons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    door = open_door(Address("127.0.0.1", 0))
    with door.listener, contextlib.closing(Child(door.listener, ABOUT.to_plain())) as child:

        def asks() -> bool:
            child.listen()
            return child.ready

        wait_until(asks, 30)


def test_a_page_that_cannot_be_told_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        return started[-1]

    def fail(*_: object) -> bytes:
        raise BrokenPipeError

    monkeypatch.setattr(child_module.subprocess, "Popen", noted)
    monkeypatch.setattr(child_module, "pack", fail)
    door = open_door(Address("127.0.0.1", 0))
    with door.listener, pytest.raises(BrokenPipeError):
        Child(door.listener, ABOUT.to_plain())
    (process,) = started
    assert process.poll() is not None
