"""A real HTTP server on loopback that takes events, and answers as it is told."""

from __future__ import annotations

import contextlib
import http.server
from collections.abc import Iterator

from loopback import Handler, address, running


class Hook(http.server.ThreadingHTTPServer):
    """Takes events; ``answers`` are given one after the other, then 204."""

    daemon_threads = True

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers)
        self.taken: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _HookHandler)

    @property
    def url(self) -> str:
        return f"{address(self)}/hook?key=1"


class _HookHandler(Handler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.server.answers.pop(0) if self.server.answers else 204
        if answer < 300:
            self.server.taken.append((dict(self.headers), body))
        self.send_response(answer)
        if 300 <= answer < 400:
            self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()


@contextlib.contextmanager
def hooked(*answers: int) -> Iterator[Hook]:
    with running(Hook(*answers)) as server:
        yield server
