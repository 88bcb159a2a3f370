"""A headless Chromium, driven over its DevTools protocol: real pages, screenshots, what its console says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import websocket_connect

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
needs_browser = pytest.mark.skipif(not PROGRAM, reason="no Chromium: apt install chromium")
_START_S, _ANSWER_S = 60.0, 30.0


class Tab:
    """A page that is open.

    Attributes
    ----------
    complaints : list of str
        Errors and warnings of the console and of loading, and what Chromium logged.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Any) -> None:
        self._loop = loop
        self._connection = connection
        self._number = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and wait for its answer."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), _ANSWER_S))

    async def _call(self, method: str, parameters: dict[str, Any]) -> Any:
        self._number += 1
        await self._connection.write_message(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._connection.read_message())
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        kind, details = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.complaints.append(str(details["exceptionDetails"].get("exception", details)))
        elif kind == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(details["args"]))
        elif kind == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(details["entry"]))

    def open(self, url: str, width: int = 1280, height: int = 900, mobile: bool = False, dark: bool = False) -> None:
        """Go there, in a window or on a phone of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.protocol !== 'about:'")

    def leave(self) -> None:
        """Go nowhere, and forget what was complained of."""
        self.call("Page.navigate", url="about:blank")
        self.wait_for("location.protocol === 'about:'")
        self.complaints.clear()

    def evaluate(self, script: str) -> Any:
        """The value of an expression, or of the promise it gives."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = 20.0) -> Any:
        """Wait until an expression is true; returns its value."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if value := self.evaluate(script):
                return value
            time.sleep(0.05)
        raise AssertionError(f"not true within {timeout_s} s: {script}; {self.complaints}")

    def screenshot(self, path: Path) -> None:
        """Save what is to be seen, all of the page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """Run Chromium with one empty tab; ``folder`` is for its profile."""
    command = [
        PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    loop = asyncio.new_event_loop()
    try:
        port = _port(folder / "DevToolsActivePort")
        yield Tab(loop, loop.run_until_complete(_connect(port)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        loop.close()


def _port(file: Path) -> int:
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")


async def _connect(port: int) -> Any:
    from tornado.httpclient import AsyncHTTPClient

    answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json")
    (tab,) = (page for page in json.loads(answer.body) if page["type"] == "page")
    return await websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=64 << 20)
