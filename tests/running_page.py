"""``tsm-edge run --page`` as a real process, and what can be asked of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, TypeVar

from background import Background
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

import tsm_edge

TESTS = Path(__file__).resolve().parent
PROGRAM = (sys.executable, str(TESTS / "run_cli_with_fake_session.py"))
_T = TypeVar("_T")


class RunningPage:
    """A run with a page.

    Parameters
    ----------
    folder : Path
        For what it prints.
    arguments : object
        Of ``tsm-edge run model``; without ``--page`` among them it is any free port of loopback.

    Attributes
    ----------
    program : Background
    port : int
    """

    def __init__(self, folder: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        package = str(Path(tsm_edge.__file__).resolve().parents[1])
        page = () if "--page" in arguments else ("--page", "0")
        self.program = Background(
            [
                sys.executable,
                str(TESTS / "run_cli_with_fake_session.py"),
                "run",
                "model",
                *map(str, (*page, *arguments)),
            ],
            folder / "log",
            {**os.environ, "PYTHONPATH": f"{package}:{TESTS}", "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        self.url = self.program.wait_for(r"page: (http://\S+)")[1]
        self.port = int(self.url.split(":")[2].split("/")[0])
        self.wait_for(lambda: self.get("/healthz").status == 200)

    def get(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> HTTPResponse:
        """Ask once; the body can still be read."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, headers=dict(headers or {}))
        return connection.getresponse()

    def state(self) -> dict[str, Any]:
        """What browsers are told."""
        found: dict[str, Any] = json.loads(self.get("/state.json").read())
        return found

    def wait_for(self, condition: Callable[[], _T], timeout_s: float = 60.0) -> _T:
        """Wait until something is true; a server that is not there yet is not."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            try:
                if value := condition():
                    return value
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not true within {timeout_s} s; {self.program.output()[-2000:]}")

    def send_raw(self, data: bytes, timeout_s: float = 5.0) -> bytes:
        """What is answered to some bytes, until the server hangs up or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as stream:
            answer = b""
            try:
                stream.sendall(data)
                stream.shutdown(socket.SHUT_WR)
                while block := stream.recv(65536):
                    answer += block
            except OSError:
                pass
            return answer

    async def viewer(self, **headers: str) -> WebSocketClientConnection:
        """A browser that looks."""
        request = HTTPRequest(f"ws://127.0.0.1:{self.port}/live", headers=headers)
        return await websocket_connect(request, max_message_size=8 << 20)

    def child(self) -> int:
        """The process that serves the page."""
        tasks = Path(f"/proc/{self.program.process.pid}/task").glob("*/children")  # whichever thread started it
        (process,) = " ".join(task.read_text() for task in tasks).split()
        return int(process)


def together(work: Awaitable[_T], timeout_s: float = 60.0) -> _T:
    """Run a coroutine to its end, which comes in time."""

    async def bounded() -> _T:
        try:
            return await asyncio.wait_for(work, timeout_s)
        except asyncio.TimeoutError:
            raise AssertionError(f"not done within {timeout_s} s") from None

    return asyncio.run(bounded())
