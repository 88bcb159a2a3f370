from __future__ import annotations

import socket
import struct

import pytest

from tsm_edge.rpc import serving
from tsm_edge.rpc.wire import init_packet

FIRST = b"".join(init_packet().framed())


@pytest.mark.parametrize("said", [b"", FIRST[:1], FIRST[:8], FIRST[:-1], struct.pack("<Q", 1 << 40) + bytes(100)])
def test_a_client_that_does_not_begin_its_session(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_BEGIN_S", 0.1)
    ours, client = socket.socketpair()
    client.sendall(said)
    with ours, client, pytest.raises(TimeoutError, match="the client has shaken hands and says nothing more"):
        serving._await_first_packet(ours)


def test_nothing_is_taken_from_one_that_does() -> None:
    ours, client = socket.socketpair()
    with ours, client:
        client.sendall(FIRST)
        serving._await_first_packet(ours)
        assert ours.recv(1000) == FIRST
        client.close()
        serving._await_first_packet(ours)  # TVM's loop ends by itself
