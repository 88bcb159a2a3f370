"""A TCP server on loopback that follows a script, however little it makes sense."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tsm_edge.rpc.place import Endpoint

Script = Callable[[socket.socket], None]


@contextmanager
def scripted_server(script: Script) -> Iterator[Endpoint]:
    """Runs ``script`` on the first connection, which stays open until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        stream, _ = listener.accept()
        with stream, suppress(OSError):  # the client may leave at any time
            script(stream)
            over.wait(10)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield Endpoint("127.0.0.1", listener.getsockname()[1])
    finally:
        over.set()
        listener.close()
