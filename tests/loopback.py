"""Real servers on loopback, each in a thread of its own for the length of a test."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import threading
from collections.abc import Iterator
from typing import TypeVar

_Server = TypeVar("_Server", bound=socketserver.TCPServer)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests over HTTP, and logs none of them."""

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, sent: int = -1) -> None:
        """Send a whole answer, or only the first ``sent`` bytes of the body that the headers promise."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body if sent < 0 else body[:sent])


def http_server(handler: type[Handler]) -> http.server.ThreadingHTTPServer:
    """A server whose requests a handler answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    return server


@contextlib.contextmanager
def running(server: _Server) -> Iterator[_Server]:
    """Serve in a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(30)


def address(server: socketserver.TCPServer) -> str:
    """Where a server is reached over HTTP, without a path."""
    return f"http://127.0.0.1:{server.server_address[1]}"
