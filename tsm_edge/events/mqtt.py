"""Events to an MQTT broker, with what Home Assistant needs to find them by itself.

Each event is published with quality of service 2 in a session that the broker keeps: it arrives once, also where the
broker or the network goes away in between.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tsm_edge import __version__
from tsm_edge.errors import EventError
from tsm_edge.events.courier import NotNow
from tsm_edge.events.hosts import is_host
from tsm_edge.events.outbox import Letter
from tsm_edge.files.atomic import read_text

_PORT, _TLS_PORT = 1883, 8883
_TLS = "mqtts://"
_ARRIVAL_S = 5.0
_SLOWEST_RECONNECT_S = 60
_KEEPALIVE_S = 30
_DISCOVERY = "homeassistant"


@dataclass(frozen=True)
class Broker:
    """Where a broker is, and who asks.

    Attributes
    ----------
    host : str
    port : int
    tls : bool
    user, password : str
        Empty: none is sent.
    """

    host: str
    port: int
    tls: bool = False
    user: str = ""
    password: str = ""

    @classmethod
    def parse(cls, text: str, login_file: Path | None = None) -> Broker:
        """Read ``[mqtts://]HOST[:PORT]``, and ``USER:PASSWORD`` from a file.

        Raises
        ------
        EventError
            It is none.
        """
        tls = text.startswith(_TLS)
        rest = text.removeprefix(_TLS).removeprefix("mqtt://").rstrip("/")
        found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", rest, re.ASCII)
        port = int(found[2] or (_TLS_PORT if tls else _PORT)) if found else 0
        if found is None or not is_host(found[1].strip("[]")) or not 0 < port < 65536:
            raise EventError(f"--mqtt {rest}: expected [mqtts://]HOST[:PORT]", "for example: --mqtt broker:1883")
        user = password = ""
        if login_file is not None:
            user, colon, password = read_text(login_file).strip().partition(":")
            if not (user and colon):
                raise EventError(f"login file {login_file}: expected USER:PASSWORD", "one line, for the broker")
        return cls(found[1].strip("[]"), port, tls, user, password)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def node_name(text: str) -> str:
    """A name as topics may have it."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "tsm-edge"


class Mqtt:
    """A broker that takes events.

    A broker that is not there is tried again for ever; what was published meanwhile is sent when it is back.

    Parameters
    ----------
    broker : Broker
    node : str
        Names this run among others at the broker; no two may have the same.
    model : str
        For people.
    """

    name = "mqtt"

    def __init__(self, broker: Broker, node: str, model: str) -> None:
        self._node, self._model = node, model
        self._status = f"tsm-edge/{node}/status"
        self._topic = f"tsm-edge/{node}/event"
        self._on_its_way: tuple[str, int] | None = None
        self._change = threading.Condition()
        self._confirmed: set[int] = set()
        self._why = "the broker has not answered yet"
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"tsm-edge-{node}", clean_session=False)
        if broker.user:
            self._client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            self._client.tls_set_context(ssl.create_default_context())
        self._client.will_set(self._status, "offline", qos=1, retain=True)
        self._client.reconnect_delay_set(1, _SLOWEST_RECONNECT_S)
        self._client.on_connect = self._greet
        self._client.on_disconnect = self._note_loss
        self._client.on_publish = self._confirm
        self._client.connect_async(broker.host, broker.port, _KEEPALIVE_S)
        self._client.loop_start()

    def deliver(self, letter: Letter) -> None:
        """Publish an event, and wait until the broker has it.

        Raises
        ------
        NotNow
            It has not said so. The message is on its way, and is not published a second time.
        """
        if self._on_its_way is None or self._on_its_way[0] != letter.id:
            with self._change:
                self._confirmed.clear()
            # Without a connection it is queued, and sent when there is one.
            self._on_its_way = letter.id, self._client.publish(self._topic, letter.body, qos=2).mid
        number = self._on_its_way[1]
        with self._change:
            if not self._change.wait_for(lambda: number in self._confirmed, _ARRIVAL_S):
                raise NotNow(self._why)
        self._on_its_way = None

    def close(self) -> None:
        """Say goodbye: the broker then does not announce the last will, so it is said here."""
        with contextlib.suppress(RuntimeError, ValueError):  # there is no connection
            self._client.publish(self._status, "offline", qos=1, retain=True).wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _greet(
        self, client: Client, _user: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        """Announce this run. In MQTT's own thread, each time a connection is made."""
        if reason.is_failure:
            self._why = f"the broker refuses: {reason}"
            return
        self._why = "the broker has not confirmed it"
        # Said anew at each connection, so nothing of it is kept for the next one: those would pile up.
        client.publish(self._status, "online", qos=0, retain=True)
        for kind, config in discovery(self._node, self._model, self._topic, self._status).items():
            client.publish(f"{_DISCOVERY}/{kind}/config", json.dumps(config), qos=0, retain=True)

    def _confirm(self, _client: Client, _user: Any, number: int, _reason: ReasonCode, _properties: Properties) -> None:
        with self._change:
            self._confirmed.add(number)
            self._change.notify_all()

    def _note_loss(
        self, _client: Client, _user: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._why = f"the connection to the broker was lost: {reason}"


def discovery(node: str, model: str, topic: str, status: str) -> dict[str, dict[str, Any]]:
    """What Home Assistant is told, by the middle of the topic: a sensor with the label, and the events themselves."""
    device = {
        "identifiers": [f"tsm-edge-{node}"],
        "name": node,
        "manufacturer": "tsm-edge",
        "model": model,
        "sw_version": __version__,
    }
    shared = {"availability_topic": status, "device": device, "origin": {"name": "tsm-edge", "sw": __version__}}
    return {
        f"sensor/{node}/label": {
            **shared,
            "name": "Label",
            "unique_id": f"tsm-edge-{node}-label",
            "icon": "mdi:gesture",
            "state_topic": topic,
            "value_template": "{{ value_json.label if value_json.event_type == 'start' else 'none' }}",
            "json_attributes_topic": topic,
        },
        f"event/{node}/event": {
            **shared,
            "name": "Event",
            "unique_id": f"tsm-edge-{node}-event",
            "state_topic": topic,
            "event_types": ["start", "end"],
        },
    }


def default_node(model: str) -> str:
    """A name for a run where none is given: of the machine, and of what runs on it."""
    return node_name(f"{socket.gethostname()}-{model}")
