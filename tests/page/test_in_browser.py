"""The page in a real browser, as on a desktop and on a phone: it moves, it can be used, and its console is clean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from browser import Tab, browser, needs_browser
from encoded_clips import clip
from mjpeg_server import MjpegServer, Send, serving
from running_page import RunningPage

pytestmark = needs_browser
_AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")
_PIXELS = "document.getElementById('picture').toDataURL('image/jpeg', 0.2)"
_LIVE = "document.getElementById('link').textContent === 'live' && document.querySelectorAll('#labels li').length > 1"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def keep(tab: Tab, name: str) -> None:
    """Save a screenshot where a person who wants to look at it says."""
    if folder := os.environ.get("TSM_EDGE_SCREENSHOTS"):
        tab.screenshot(Path(folder) / f"{name}.png")


def serious(tab: Tab) -> list[Any]:
    """What axe finds that keeps somebody out."""
    tab.evaluate(_AXE)
    found = tab.evaluate("axe.run().then((found) => found.violations)")
    return [(item["id"], item["nodes"][0]["html"]) for item in found if item["impact"] in ("serious", "critical")]


def text(tab: Tab, name: str) -> str:
    return str(tab.evaluate(f"document.getElementById('{name}').textContent"))


def test_a_file_in_a_loop_on_a_desktop_and_on_a_phone(tab: Tab, tmp_path: Path) -> None:
    page = RunningPage(tmp_path, "--camera", clip("bikes.mp4"), "--loop", "--quiet")
    try:
        tab.open(page.url)
        tab.wait_for(_LIVE)
        before, label = tab.evaluate(_PIXELS), text(tab, "label")
        assert tab.wait_for(f"{_PIXELS} !== '{before}'")
        assert tab.wait_for(f"document.getElementById('label').textContent !== '{label}'")
        assert tab.evaluate("[...document.querySelectorAll('#top li')].length") == 5
        assert "ms" in text(tab, "p90")
        assert tab.evaluate("document.title") == "levels – tsm-edge"
        assert serious(tab) == []
        keep(tab, "desktop")
        # The button works from the keyboard.
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        assert tab.evaluate("document.activeElement.id") == "pause"
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r")
        tab.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter")
        assert tab.evaluate("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        tab.open(page.url, 390, 844, mobile=True, dark=True)
        tab.wait_for(_LIVE)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390  # nothing sticks out
        assert serious(tab) == []
        keep(tab, "phone-dark")
        assert tab.complaints == []
    finally:
        tab.leave()
        page.program.kill()


def test_a_camera_that_falls_silent_and_comes_back(tab: Tab, tmp_path: Path) -> None:
    go_on: list[bool] = []

    def camera(server: MjpegServer, send: Send) -> None:
        for level in range(10_000):
            send(60 * (level // 10 % 4) + 20)
            server.pause(0.03)
            while level == 60 and not go_on and not server.stopping.is_set():
                server.pause(0.05)
            if server.stopping.is_set():
                return

    with serving(camera) as server:
        page = RunningPage(tmp_path, "--camera", server.url, "--quiet", "--reconnect", "60")
        try:
            tab.open(page.url)
            tab.wait_for("!document.getElementById('silence').hidden", 30)
            assert "no frame for" in text(tab, "silence")
            assert tab.wait_for("document.getElementById('spoken').textContent === 'no frame arrives'")
            keep(tab, "silent")
            go_on.append(True)
            tab.wait_for(f"document.getElementById('silence').hidden && {_LIVE}")
            before = tab.evaluate(_PIXELS)
            tab.wait_for(f"{_PIXELS} !== '{before}'")
            assert page.state()["resets"] >= 1
            assert tab.complaints == []
        finally:
            tab.leave()
            page.program.kill()


def test_labels_are_text_and_never_markup() -> None:
    source = (Path(__file__).resolve().parents[2] / "tsm_edge/page/static/page.js").read_text("utf-8")
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert danger not in source
