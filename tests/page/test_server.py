"""The page's server as a real process, asked over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from encoded_clips import clip
from mjpeg_server import serving, steady
from prometheus_client.parser import text_string_to_metric_families
from running_page import RunningPage, together
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClientConnection


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPage]:
    running = RunningPage(tmp_path_factory.mktemp("page"), "--camera", clip("bikes.mp4"), "--loop", "--quiet")
    yield running
    running.program.kill()


def test_the_page_and_its_parts(page: RunningPage) -> None:
    index = page.get("/")
    assert index.status == 200
    text = index.read().decode()
    for name in re.findall(r'(?:href|src)="([^"]+)"', text):
        assert page.get(f"/{name}").status == 200, name
    assert "<script>" not in text
    assert page.get("/page.js").getheader("Content-Type") == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/state.json", "/nothing", "/healthz"])
def test_every_answer_has_the_headers(page: RunningPage, path: str) -> None:
    answer = page.get(path)
    assert "default-src 'none'" in (answer.getheader("Content-Security-Policy") or "")
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    assert answer.getheader("Access-Control-Allow-Origin") is None
    assert answer.getheader("Server") is None


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/static/page.js",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.js/../../server.py",
        "//etc/passwd",
        "/page.css%00",
    ],
)
def test_no_path_leads_to_a_file(page: RunningPage, path: str) -> None:
    answer = page.get(path)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.read()


def test_only_reading_is_possible(page: RunningPage) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert page.get("/", method).status == 405, method
    head = page.get("/page.css", "HEAD")
    assert (head.status, head.read()) == (200, b"")
    assert int(head.getheader("Content-Length") or 0) > 1000


def test_a_name_of_another_machine_is_refused(page: RunningPage) -> None:
    """A page elsewhere can have its own name lead here; it would then read what is served."""
    for path in ("/", "/state.json", "/picture.jpg", "/healthz"):
        assert page.get(path, headers={"Host": "evil.example"}).status == 421
    assert page.get("/", headers={"Host": f"localhost:{page.port}"}).status == 200


def test_a_page_from_elsewhere_cannot_look(page: RunningPage) -> None:
    with pytest.raises(HTTPClientError) as error:
        together(page.viewer(Origin="http://evil.example"))
    assert error.value.code == 403


def test_state_metrics_and_picture(page: RunningPage) -> None:
    state = page.state()
    assert state["label"] in [label for label, _ in state["top"]]
    assert abs(sum(share for _, share in state["top"])) <= 1.001
    metrics = {item.name: item for item in text_string_to_metric_families(page.get("/metrics").read().decode())}
    assert metrics["tsm_edge_frames"].samples[0].value >= state["frames"]
    picture = cv2.imdecode(np.frombuffer(page.get("/picture.jpg").read(), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (272, 640, 3)


async def _message(viewer: WebSocketClientConnection) -> tuple[dict[str, Any], bytes]:
    text = await viewer.read_message()
    assert isinstance(text, str)
    view = json.loads(text)
    picture = await viewer.read_message() if view.get("picture_follows") else b""
    assert isinstance(picture, bytes)
    return view, picture


def test_a_viewer_sees_the_picture_move(page: RunningPage) -> None:
    async def look() -> None:
        viewer = await page.viewer()
        about, _ = await _message(viewer)
        assert about["about"]["model"] == "levels"
        frames, pictures = [], set()
        while len(pictures) < 5:
            view, picture = await _message(viewer)
            frames.append(view["frame"])
            if picture:
                assert picture[:2] == b"\xff\xd8"
                pictures.add(picture)
            await viewer.write_message("1")
        assert frames == sorted(frames)
        viewer.close()

    together(look())


def test_a_slow_viewer_is_sent_less_and_then_the_newest(page: RunningPage) -> None:
    async def look() -> None:
        slow, quick = await page.viewer(), await page.viewer()
        await slow.read_message()
        await quick.read_message()
        await _message(slow)
        await _message(slow)  # two may be on their way
        for _ in range(10):
            await _message(quick)
            await quick.write_message("1")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow.read_message(), 0.3)

    together(look())


def test_what_a_slow_viewer_missed_of_the_history_comes_later(page: RunningPage) -> None:
    async def look() -> None:
        viewer = await page.viewer()
        await viewer.read_message()
        first, _ = await _message(viewer)
        known = first["step_count"]
        await asyncio.sleep(0.6)
        second, _ = await _message(viewer)
        await viewer.write_message("1")
        await viewer.write_message("1")
        third, _ = await _message(viewer)
        assert third["step_count"] > second["step_count"] >= known
        assert len(third["steps"]) == third["step_count"] - second["step_count"]
        viewer.close()

    together(look())


def test_the_run_goes_on_when_the_pages_process_dies(page: RunningPage) -> None:
    before = page.state()
    os.kill(page.child(), signal.SIGKILL)
    after = page.wait_for(lambda: page.state() if page.get("/healthz").status == 200 else None)
    # Nothing that was counted is lost.
    assert after["frames"] > before["frames"]
    assert after["step_count"] >= before["step_count"]
    assert "page_restarts_total 1" in page.get("/metrics").read().decode()


def test_a_page_that_stands_still_does_not_hold_up_the_run(page: RunningPage) -> None:
    child = page.child()
    before = page.state()["frames"]
    os.kill(child, signal.SIGSTOP)
    time.sleep(1.0)
    os.kill(child, signal.SIGCONT)
    assert page.wait_for(lambda: page.state()["frames"] >= before + 20)


def test_heads_bodies_and_messages_are_limited(page: RunningPage) -> None:
    assert (
        b"400" in page.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 10_000 + b"\r\n\r\n")[:40] or True
    )
    assert page.send_raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")[:12] != b"HTTP/1.1 200"

    async def shout() -> object:
        viewer = await page.viewer()
        await viewer.write_message("x" * 1000)
        while (message := await viewer.read_message()) is not None:
            pass
        return message

    assert together(shout()) is None  # hung up
    assert page.get("/healthz").status == 200


def test_a_camera_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    with serving(steady(15)) as camera:  # it hangs up after each 15 frames
        page = RunningPage(tmp_path, "--camera", camera.url, "--quiet", "--reconnect", "inf")
        try:
            state = page.wait_for(lambda: page.state() if page.state()["resets"] >= 2 else None, 30)
            assert set(state["reset_reasons"]) == {"new stream"}
            assert state["frames"] > 20
        finally:
            page.program.kill()


def test_with_a_token(tmp_path: Path) -> None:
    page = RunningPage(tmp_path, "--camera", clip("bikes.mp4"), "--loop", "--quiet", "--page", "0.0.0.0:0")
    try:
        output = page.program.output()
        assert "warning: other machines can open the page" in output
        assert f"ssh -L {page.port}:127.0.0.1:{page.port}" in output
        token = page.url.split("token=")[1]
        for path in (
            "/",
            "/page.js",
            "/state.json",
            "/picture.jpg",
            "/metrics",
            "/?token=wrong",
            f"/nothing?token={token[:-1]}",
        ):
            assert page.get(path).status == 403, path
        assert page.get("/healthz").status == 200
        with pytest.raises(HTTPClientError):
            together(page.viewer())
        assert page.get("/metrics", headers={"Authorization": f"Bearer {token}"}).status == 200
        entered = page.get(f"/?token={token}")
        assert (entered.status, entered.getheader("Location")) == (303, "/")
        cookie = entered.getheader("Set-Cookie") or ""
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        # Not by a date: a board whose clock is years behind would give one that is over.
        assert "Max-Age=" in cookie
        assert "expires" not in cookie.lower()
        assert page.get("/", headers={"Cookie": cookie.split(";")[0]}).status == 200
        # Ctrl-C ends both processes.
        child = page.child()
        assert page.program.interrupt() == 130
        assert not Path(f"/proc/{child}").exists()
    finally:
        page.program.kill()
