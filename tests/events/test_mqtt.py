"""MQTT against a broker that is scripted: what mosquitto does not do on request."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from mjpeg_server import wait_until
from paho.mqtt.client import Client

from tsm_edge.errors import EventError
from tsm_edge.events.mqtt import Broker, Mqtt

_CONNACK, _PUBLISH = b"\x20\x02\x00\x00", 3


class Flapping:
    """Takes a connection, greets, listens for a moment, and hangs up; again and again.

    Attributes
    ----------
    published : list of int
        How many messages each connection brought.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.published: list[int] = []
        self._listener = listener
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                stream, _ = self._listener.accept()
                with stream:
                    self._serve(stream)

    def _serve(self, stream: socket.socket) -> None:
        stream.settimeout(0.15)
        stream.recv(4096)  # CONNECT
        stream.sendall(_CONNACK)
        data = b""
        with contextlib.suppress(TimeoutError):
            while block := stream.recv(65536):
                data += block
        self.published.append(_count(data))


def _count(data: bytes) -> int:
    """How many PUBLISH packets there are in what a client sent."""
    found = place = 0
    while place < len(data):
        kind, length, shift, place = data[place] >> 4, 0, 0, place + 1
        while True:
            length |= (data[place] & 127) << shift
            shift, place = shift + 7, place + 1
            if data[place - 1] < 128:
                break
        place += length
        found += kind == _PUBLISH
    return found


def test_greetings_do_not_pile_up_where_connections_break(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = Client.reconnect_delay_set
    monkeypatch.setattr(Client, "reconnect_delay_set", lambda client, *_: delays(client, 0.02, 0.02))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        broker = Flapping(listener)
        receiver = Mqtt(Broker("127.0.0.1", listener.getsockname()[1]), "node", "model")
        try:
            wait_until(lambda: len(broker.published) >= 4, 20)
        finally:
            listener.close()
            receiver.close()
    assert broker.published[0] == 3  # that it is there, and what Home Assistant needs
    assert set(broker.published[:4]) == {3}


@pytest.mark.parametrize("host", ["a..b", "a" * 64, ".", "mqtts://a..b:8883"])
def test_no_name_of_a_machine_is_refused(host: str) -> None:
    with pytest.raises(EventError, match="expected \\[mqtts://\\]HOST"):
        Broker.parse(host)
