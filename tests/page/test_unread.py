"""Who asks and does not take the answer is hung up on; the server is one of this process, with shorter limits."""

from __future__ import annotations

import asyncio
import socket

import pytest
from running_page import together

from tsm_edge.page import server as server_module
from tsm_edge.page.guard import Guard
from tsm_edge.page.hub import Hub
from tsm_edge.page.server import serve
from tsm_edge.page.state import State
from tsm_edge.page.wire import About

_REQUESTS = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100


@pytest.mark.parametrize("token", ["", "none that is shown"])
def test_a_client_that_reads_no_answer_is_hung_up_on(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LONGEST_S", 0.3)

    async def ask_and_ask() -> None:
        hub = Hub(State(About("model", "camera 0", (), False, token)), lambda _: None)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # full after a few answers
        server = serve(hub, Guard(token), listener)
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            try:
                while True:  # until nothing more is taken, and then until the other end is gone
                    await loop.sock_sendall(client, _REQUESTS)
            finally:
                server.stop()

    with pytest.raises(ConnectionError):
        together(ask_and_ask(), 40)
