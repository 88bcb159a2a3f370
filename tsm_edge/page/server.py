"""The page over HTTP, by Tornado: a few answers from memory, and a WebSocket for each browser that looks.

Nothing here opens a file: what is served was read at the start, under names of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable
from importlib import resources
from typing import Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from tsm_edge.page.guard import Guard, of_header
from tsm_edge.page.hub import Hub
from tsm_edge.page.metrics import CONTENT_TYPE, to_text

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
# Bytes of a request's head and body, seconds for each of them, connections, and browsers that look.
MOST_HEADER, MOST_BODY, LONGEST_S, MOST_CONNECTIONS, MOST_VIEWERS = 8192, 1024, 15.0, 320, 128
_LARGEST_MESSAGE, _PING_S = 64, 20.0
# Messages a browser has not answered yet: the second one travels while the first is drawn.
_UNANSWERED = 2
_A_YEAR_S = 365 * 86_400


class _Handler(RequestHandler):
    """What all answers share: methods, headers, and who may ask."""

    SUPPORTED_METHODS = ("GET", "HEAD")
    open_to_all = False
    hub: Hub
    guard: Guard

    def initialize(self, hub: Hub, guard: Guard) -> None:
        """Take what the application was made with."""
        self.hub, self.guard = hub, guard

    def set_default_headers(self) -> None:
        """Set the headers of every answer, those of errors too."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> Awaitable[None] | None:
        """Refuse who may not ask."""
        if not self.guard.knows_host(self.request.host):
            self._refuse(421, "this page is served for this machine's own names: http://127.0.0.1")
        elif not self.open_to_all and not self.guard.opens(self._tokens()):
            self._refuse(403, "open the page at the address with the token that tsm-edge printed")
        return None

    def _tokens(self) -> list[str]:
        cookie = self.get_cookie(_cookie(self)) or ""
        return [cookie, of_header(self.request.headers.get("Authorization", "")), *self.get_query_arguments("token")]

    def _refuse(self, status: int, text: str) -> None:
        self.set_status(status)
        self._text(text)

    def _text(self, text: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{text}\n")

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> asyncio.Future[None]:
        """Send the answer, and hang up on who does not take it: Tornado itself would keep the connection for ever."""
        stream = cast(HTTP1Connection, self.request.connection).stream
        sent = super().finish(chunk)
        if not sent.done():
            overdue = asyncio.get_running_loop().call_later(LONGEST_S, stream.close)
            sent.add_done_callback(lambda _: overdue.cancel())
        return sent

    def write_error(self, status_code: int, **_: Any) -> None:
        """Say an error in a line; nothing of the request is repeated."""
        self._text(f"{status_code} {self._reason}")

    def head(self) -> Awaitable[None] | None:
        """Answer as GET does; Tornado leaves out the body."""
        return self.get()  # type: ignore[no-any-return]


class _File(_Handler):
    """A file of the page, from memory."""

    def initialize(self, hub: Hub, guard: Guard, kind: str = "", data: bytes = b"") -> None:  # type: ignore[override]
        """Take what the application was made with."""
        super().initialize(hub, guard)
        self._kind, self._data = kind, data

    def get(self) -> None:
        """Send it."""
        self.set_header("Content-Type", self._kind)
        self.finish(self._data)


class _Index(_File):
    """The page itself; keeps the token in a cookie, so that it does not stay in the address."""

    def get(self) -> None:
        """Send it."""
        given = self.get_query_arguments("token")
        if self.guard.token and self.guard.opens(given):
            self.set_cookie(
                _cookie(self),
                self.guard.token,
                # Not a date: the clock of a board that has no battery may be years behind the browser's.
                max_age=_A_YEAR_S,
                httponly=True,
                samesite="Strict",
            )
            self.redirect("/", status=303)
            return
        super().get()


class _Picture(_Handler):
    """The newest picture alone, for programs that ask now and then."""

    async def get(self) -> None:
        """Send it, as soon as there is one of now."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.hub.fresh_picture(), 2.0)
        if not self.hub.state.picture:
            self._refuse(503, "there is no picture yet")
            return
        self.set_header("Content-Type", "image/jpeg")
        self.finish(self.hub.state.picture)


class _StateJson(_Handler):
    """What a browser is told, for programs."""

    def get(self) -> None:
        """Send it."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(self.hub.state.view()))


class _Metrics(_Handler):
    """For Prometheus."""

    def get(self) -> None:
        """Send them."""
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(to_text(self.hub.state))


class _Health(_Handler):
    """Whether predictions come: 200 or 503. Asked without a token, by Docker, say; tells nothing else."""

    open_to_all = True

    def get(self) -> None:
        """Send it."""
        state = self.hub.state
        if state.healthy:
            self._text(f"ok: last prediction {state.age_s:.1f} s ago")
        else:
            self._refuse(503, f"no prediction for {state.age_s:.1f} s")


class _Nothing(_Handler):
    """Every other path."""

    def get(self) -> None:
        """Say so."""
        self._refuse(404, "there is nothing here; the page is at /")


class _Viewer(WebSocketHandler, _Handler):
    """A browser that looks. It answers each message; who is slow to answer is sent less, and always the newest."""

    _feeding: asyncio.Task[None] | None = None

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Open the socket, if there is room."""
        if self.hub.state.viewers >= MOST_VIEWERS:
            self._refuse(503, f"{MOST_VIEWERS} browsers look already")
            return
        await super().get(*args, **kwargs)

    def head(self) -> None:
        """Say that this is a socket."""
        self._refuse(400, "this is a WebSocket")

    def open(self, *_: str, **__: str) -> None:
        """Begin to send."""
        self.set_nodelay(True)
        self._unanswered = 0
        self._answered = asyncio.Event()
        self.hub.add_viewer()
        self._feeding = asyncio.create_task(self._feed())

    def on_message(self, _message: str | bytes) -> None:
        """Know that a message was drawn."""
        self._unanswered = max(self._unanswered - 1, 0)
        self._answered.set()

    def on_close(self) -> None:
        """End."""
        if self._feeding is not None:  # it was opened
            self._feeding.cancel()
            self.hub.remove_viewer()

    async def _feed(self) -> None:
        version = picture = steps = 0
        segment = -1
        about = self.hub.state.about
        with contextlib.suppress(WebSocketClosedError):
            hello = {"model": about.model, "source": about.source, "random_weights": about.random_weights}
            await self.write_message(json.dumps({"about": hello}))
            while True:
                while self._unanswered >= _UNANSWERED:
                    self._answered.clear()
                    await self._answered.wait()
                version = await self.hub.newer_than(version)
                state = self.hub.state
                view = state.view(steps, segment)
                steps = view["step_count"]
                segment = view["segments"][-1][0] if view["segments"] else segment
                fresh = state.picture_version > picture
                picture = state.picture_version
                self._unanswered += 1
                await self.write_message(json.dumps({**view, "picture_follows": fresh}))
                if fresh:
                    await self.write_message(state.picture, binary=True)


class _Limited(HTTPServer):
    """A server that takes so many connections, and hangs up on more."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """See HTTPServer."""
        super().initialize(*args, **kwargs)
        self._streams: set[IOStream] = set()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a connection."""
        self._streams = {known for known in self._streams if not known.closed()}
        if len(self._streams) >= MOST_CONNECTIONS:
            stream.close()
            return
        self._streams.add(stream)
        super().handle_stream(stream, address)


def serve(hub: Hub, guard: Guard, listener: socket.socket) -> HTTPServer:
    """Serve on a listening socket, in the running event loop."""
    shared = {"hub": hub, "guard": guard}
    folder = resources.files("tsm_edge.page") / "static"
    files = {name: {**shared, "kind": kind, "data": (folder / name).read_bytes()} for name, kind in _TYPES.items()}
    application = Application(
        [
            (r"/", _Index, files.pop("index.html")),
            *((f"/{name}".replace(".", r"\."), _File, settings) for name, settings in files.items()),
            (r"/live", _Viewer, shared),
            (r"/picture\.jpg", _Picture, shared),
            (r"/state\.json", _StateJson, shared),
            (r"/metrics", _Metrics, shared),
            (r"/healthz", _Health, shared),
        ],
        default_handler_class=_Nothing,
        default_handler_args=shared,
        log_function=lambda _: None,
        websocket_max_message_size=_LARGEST_MESSAGE,
        websocket_ping_interval=_PING_S,
        websocket_ping_timeout=_PING_S,
    )
    server = _Limited(
        application,
        max_header_size=MOST_HEADER,
        max_body_size=MOST_BODY,
        body_timeout=LONGEST_S,
        idle_connection_timeout=LONGEST_S,
        max_buffer_size=1 << 20,
    )
    listener.setblocking(False)
    server.add_socket(listener)
    return server


def _cookie(handler: RequestHandler) -> str:
    """Its name: browsers send the cookies of all ports of a host."""
    _, _, port = handler.request.host.rpartition(":")
    return f"tsm_edge_{port}" if port.isdigit() else "tsm_edge"
