"""The page's own process: takes messages of the run, and serves them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
import time

from tsm_edge.page.guard import Guard
from tsm_edge.page.hub import Hub
from tsm_edge.page.readings import Reader
from tsm_edge.page.server import serve
from tsm_edge.page.state import State
from tsm_edge.page.wire import WITH_PICTURE, WITHOUT_PICTURE, About, unpack
from tsm_edge.priority import be_last

_READ_EVERY_S = 2.0


def main() -> None:
    """Serve until the run ends: its end of the socket closes whatever became of it, so signals are left to it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    be_last()
    # What a stranger sends is no event to log.
    logging.getLogger("tornado.general").setLevel(logging.CRITICAL)
    listener, run = (socket.socket(fileno=int(text)) for text in sys.argv[2:4])
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        asyncio.run(_serve(listener, run))


async def _serve(listener: socket.socket, run: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=run)
    about = About.from_plain((await unpack(reader))[0])
    state = State(about)
    hub = Hub(state, lambda looked_at: writer.write(WITH_PICTURE if looked_at else WITHOUT_PICTURE))
    server = serve(hub, Guard(about.token), listener)
    writer.write(WITHOUT_PICTURE)
    threading.Thread(target=_read_machine, args=(state,), daemon=True).start()
    try:
        while True:
            hub.take(*await unpack(reader))
    finally:
        server.stop()


def _read_machine(state: State) -> None:
    """Keep the readings up to date, in a thread: sensors may take their time."""
    be_last()
    reader = Reader()
    while True:
        state.readings = reader.read()
        time.sleep(_READ_EVERY_S)
