"""A real MQTT broker (mosquitto) that can be stopped and started again, and somebody who subscribes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_broker = pytest.mark.skipif(PROGRAM is None, reason="no MQTT broker: apt install mosquitto")


class Broker:
    """mosquitto on a port of its own, which keeps its sessions on disk.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o777, parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        lines = [
            f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence true",
            f"persistence_location {folder}/", "user root", "max_queued_messages 0",
        ]  # fmt: skip
        (folder / "conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            command = [str(PROGRAM), "-v", "-c", str(self._folder / "conf")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError((self._folder / "log").read_text())

    def stop(self) -> None:
        """Stop it as a system does."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


class Subscriber:
    """Takes messages, each once, in a session that the broker keeps.

    Attributes
    ----------
    messages : list of tuple
        Topic and payload, in order.
    """

    def __init__(self, port: int, *topics: str) -> None:
        self.messages: list[tuple[str, str]] = []
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="subscriber", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, 2) for topic in topics])
        self._client.on_message = lambda _client, _user, item: self.messages.append((item.topic, item.payload.decode()))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def of(self, topic_end: str) -> list[Any]:
        """What came in on topics that end so."""
        return [json.loads(text) for topic, text in self.messages if topic.endswith(topic_end)]

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()
