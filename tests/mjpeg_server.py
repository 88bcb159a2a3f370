"""A real HTTP server on loopback that sends a motion JPEG stream the way IP cameras do, and misbehaves on request."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from encoded_clips import Image, jpeg, plain
from loopback import Handler, address, http_server, running

# Sends a frame of one brightness, or a picture (uint8 BGR).
Send = Callable[["int | Image"], None]
Script = Callable[["MjpegServer", Send], None]


class MjpegServer(http.server.ThreadingHTTPServer):
    """Serves ``/`` by running a script that sends frames at its own pace."""

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.connections = 0
        self.sent = 0
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        """Address of the stream."""
        return f"{address(self)}/stream.mjpg"

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the test."""
        self.stopping.wait(seconds)


class _Handler(Handler):
    server: MjpegServer

    def do_GET(self) -> None:
        """Send what the script says until it returns or the reader leaves."""
        self.server.connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.server.script(self.server, self._send)

    def _send(self, frame: int | Image) -> None:
        data = jpeg(plain(frame) if isinstance(frame, int) else frame)
        self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
        self.wfile.write(data + b"\r\n")
        self.server.sent += 1


@contextlib.contextmanager
def serving(script: Script) -> Iterator[MjpegServer]:
    """Run a server in a thread for the length of a test."""
    with running(MjpegServer(script)) as server:
        try:
            yield server
        finally:
            server.stopping.set()


def steady(frames: int, interval_s: float = 0.02, first_level: int = 0) -> Script:
    """Send frames of rising brightness at a steady pace, then hang up."""

    def script(server: MjpegServer, send: Send) -> None:
        for index in range(frames):
            send((first_level + index) % 256)
            server.pause(interval_s)

    return script


@contextlib.contextmanager
def serving_file(path: Path) -> Iterator[str]:
    """Serve one ordinary file over HTTP; yields its address."""
    data = path.read_bytes()

    class FileHandler(Handler):
        def do_GET(self) -> None:
            """Send the file."""
            self.answer(data, headers={"Content-Type": "video/mp4"})

    with running(http_server(FileHandler)) as server:
        yield f"{address(server)}/{path.name}"


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for a condition; fail if it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_s} s")
        time.sleep(0.01)
