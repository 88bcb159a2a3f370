"""``tsm-edge run`` telling of events: to a file, a web address and a real broker, which goes away in between."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from background import Background
from broker import Broker, Subscriber, needs_broker
from encoded_clips import clip
from fake_session import open_fake
from mjpeg_server import MjpegServer, Script, Send, serving, wait_until
from running_page import PROGRAM, TESTS, RunningPage
from web_hook import hooked

import tsm_edge
from tsm_edge.cli.main import entry_point

RULES = "[[rule]]\nprobability = 0.2\nduration_s = 0\nrelease_s = 0\n"  # holds however busy the machine is


def levels(goes_on: Callable[[], bool], each: int = 8, pause_s: float = 0.02) -> Script:
    """A camera that shows one level after the other, as long as ``goes_on`` says so."""

    def script(server: MjpegServer, send: Send) -> None:
        number = 0
        while goes_on() and not server.stopping.is_set():
            for _ in range(each):
                send(25 * (number % 5) * 2 + 12)
                server.pause(pause_s)
            number += 1
        server.stopping.wait(30)

    return script


def start(folder: Path, *arguments: object) -> Background:
    package = str(Path(tsm_edge.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": f"{package}:{TESTS}", "OMP_NUM_THREADS": "1"}
    return Background([*PROGRAM, "run", "model", "--quiet", *map(str, arguments)], folder / "log", environment)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


@needs_broker
def test_every_event_arrives_once_though_broker_and_webhook_go_away(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    file = tmp_path / "events.jsonl"
    enough: list[bool] = []
    broker = Broker(tmp_path / "broker")
    subscriber = Subscriber(broker.port, "tsm-edge/#", "homeassistant/#")
    with hooked(500, 204, 503) as hook, serving(levels(lambda: not enough)) as camera:
        shared = ("--events", file, "--rules", tmp_path / "rules.toml", "--spool", tmp_path / "spool")
        mqtt = ("--mqtt", f"127.0.0.1:{broker.port}", "--name", "Küche 1")
        program = start(tmp_path, "--camera", camera.url, "--webhook", hook.url, *mqtt, *shared)
        try:
            wait_until(lambda: len(subscriber.of("/event")) >= 6, 30)
            broker.stop()
            before = len(lines_of(file))
            wait_until(lambda: len(lines_of(file)) >= before + 10, 30)  # the run goes on, and so does the file
            broker.start()
            wait_until(lambda: len(lines_of(file)) >= before + 20, 30)
            enough.append(True)
            wait_until(lambda: len(subscriber.of("/event")) >= len(lines_of(file)) - 2, 60)
            os.killpg(program.process.pid, signal.SIGTERM)
            assert program.process.wait(20) == 143
            events = lines_of(file)
            expected = [event["id"] for event in events]
            wait_until(lambda: len(subscriber.of("/event")) >= len(events), 20)
            time.sleep(0.3)  # what came twice would come now
            assert [event["id"] for event in subscriber.of("/event")] == expected
            assert [json.loads(body)["id"] for _, body in hook.taken] == expected
            assert set(Counter(expected).values()) == {1}
            assert Counter(event["event_type"] for event in events)["start"] == len(events) / 2
            assert "lost" not in program.output()
        finally:
            program.kill()
            subscriber.close()
            broker.stop()
    topics = dict(subscriber.messages)
    assert {topic for topic in topics if topic.startswith("tsm-edge/")} == {
        "tsm-edge/K-che-1/event", "tsm-edge/K-che-1/status",
    }  # fmt: skip
    assert topics["tsm-edge/K-che-1/status"] == "offline"
    found = json.loads(topics["homeassistant/sensor/K-che-1/label/config"])
    assert (found["state_topic"], found["availability_topic"]) == ("tsm-edge/K-che-1/event", "tsm-edge/K-che-1/status")


@needs_broker
def test_the_last_will_is_told_when_the_run_is_killed(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    subscriber = Subscriber(broker.port, "tsm-edge/#")
    program = start(
        tmp_path, "--camera", clip("bikes.mp4"), "--loop", "--mqtt", f"127.0.0.1:{broker.port}", "--name", "n"
    )
    try:
        wait_until(lambda: ("tsm-edge/n/status", "online") in subscriber.messages, 30)
        program.kill()
        wait_until(lambda: ("tsm-edge/n/status", "offline") in subscriber.messages, 30)
    finally:
        program.kill()
        subscriber.close()
        broker.stop()


def test_what_a_killed_run_could_not_deliver_the_next_one_does(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    file = tmp_path / "events.jsonl"
    with serving(levels(lambda: True)) as camera:
        shared = ("--events", file, "--rules", tmp_path / "rules.toml", "--spool", tmp_path / "spool")
        first = start(tmp_path, "--camera", camera.url, "--webhook", "http://127.0.0.1:9/", *shared)
        wait_until(lambda: len(lines_of(file)) >= 10, 30)
        time.sleep(0.3)
        first.kill()
        with hooked() as hook:
            second = start(tmp_path, "--camera", clip("bikes.mp4"), "--limit", 3, "--webhook", hook.url, *shared)
            assert second.process.wait(30) == 0
            taken = [json.loads(body)["id"] for _, body in hook.taken]
        assert taken[:10] == [event["id"] for event in lines_of(file)][:10]


def test_a_clip_of_an_event_is_kept(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text('[[rule]]\nlabel = "level 4"\nprobability = 0.2\nduration_s = 0.3\n')
    page = RunningPage(
        tmp_path, "--camera", clip("bikes.mp4"), "--loop", "--quiet", "--record", tmp_path / "clips",
        "--rules", tmp_path / "rules.toml",
    )  # fmt: skip
    try:
        waiting = page.wait_for(lambda: page.state()["receivers"][0]["waiting"], 40)
        assert waiting == 1
        os.killpg(page.program.process.pid, signal.SIGTERM)
        page.program.process.wait(20)
        (made,) = (tmp_path / "clips").iterdir()
        assert re.fullmatch(r"\d{8}T\d{9}Z-level-4-[0-9a-f]{8}\.mp4", made.name)
    finally:
        page.program.kill()


def test_mistakes_are_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tsm_edge.session.open.open_session", open_fake)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("short")
    cases = [
        (("--webhook", "nowhere"), "--webhook nowhere: expected an address"),
        (("--webhook", "http://localhost/", "--webhook-secret", "short"), "secret file short: expected 24 to 64 bytes"),
        (("--mqtt", "a:b:c"), "--mqtt a:b:c: expected [mqtts://]HOST[:PORT]"),
        (("--mqtt", "localhost", "--mqtt-login", "short"), "login file short: expected USER:PASSWORD"),
        (("--events", "/dev/null"), "events file /dev/null: is no file"),
        (("--events", "x.jsonl", "--rules", "none.toml"), "none.toml: cannot be read"),
        (("--events", "x.jsonl", "--spool", "short"), "spool short/file.sqlite: cannot be used"),
        (("--rules", "none.toml"), "--rules goes with --events"),
        (("--record", "/proc/none"), "--record /proc/none: cannot be written"),
        (("--page", "x"), "--page x: expected [HOST:]PORT"),
        (("--page", "0", "--page-token", "short"), "token file short: expected one word"),
    ]
    for arguments, expected in cases:
        assert entry_point(["run", "model", "--video", str(clip("bikes.mp4")), *arguments]) == 2, arguments
        out, err = capfd.readouterr()
        assert expected in err
        assert err.count("\n") == 1, err
        assert out == ""
