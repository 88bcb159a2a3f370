"""The tracker's client against trackers that misbehave: each is a real socket on loopback that follows a script."""

from __future__ import annotations

import json
import socket
import struct
import time
from contextlib import AbstractContextManager
from typing import Any

import pytest
from scripted_server import scripted_server

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Endpoint, TimeLimits
from tsm_edge.rpc.tracker import Announcement, request_device

MAGIC = struct.pack("<i", 0x2F271)
SHORT = TimeLimits(connect_s=0.4, device_s=0.4, answer_s=0.4)


def message(value: Any) -> bytes:
    data = json.dumps(value).encode()
    return struct.pack("<i", len(data)) + data


SUMMARY = message([0, {"server_info": [{"key": "server:board"}, {"key": 3}, "x"], "queue_info": {}}])


def device(host: object = "127.0.0.1", port: object = 1, key: object = "board:1") -> bytes:
    return message([0, [host, port, key]])


def tracker(*answers: bytes, pause_s: float = 0.0) -> AbstractContextManager[Endpoint]:
    """Gives each message the next answer; with ``pause_s``, byte by byte."""

    def script(stream: socket.socket) -> None:
        for answer in (MAGIC, *answers):
            stream.recv(1 << 16)
            for piece in [answer[i : i + 1] for i in range(len(answer))] if pause_s else [answer]:
                time.sleep(pause_s)
                stream.sendall(piece)

    return scripted_server(script)


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((SUMMARY, device(port="abc")), "failed (it answers with something else than a device's host, port"),
        ((SUMMARY, device(port=70000)), "a device nobody can reach: 70000 is not a port, expected 0..65535"),
        ((SUMMARY, device(host="a..b")), "a device nobody can reach: 'a..b' is not the name or number of a machine"),
        ((SUMMARY, device(host="a\0b")), "a device nobody can reach: 'a\\x00b' is not the name or number"),
        ((SUMMARY, device(key="two words")), "a device nobody can reach: key 'two words' has spaces"),
        ((SUMMARY, message([3, None])), "failed (it answers with something else than a device's host, port"),
        ((SUMMARY, message(None)), "failed (it answers with something else than a device's host, port"),
        ((SUMMARY, b""), "no device with key 'board' became free within 0.4 s"),
        ((message([0, []]),), "failed (it answers with a summary of another form)"),
        ((message([0, {"server_info": [{"key": "server:other"}]}]),), "no device with key 'board': its keys are other"),
        ((struct.pack("<i", 2) + b"{]",), "failed (it answers with a message that is not JSON)"),
        ((struct.pack("<i", 1 << 19) + b"[" * (1 << 19),), "failed (it answers with a message that is not JSON)"),
        ((struct.pack("<i", 1 << 30),), "failed (it answers with a message of 1073741824 bytes)"),
        ((struct.pack("<i", -1),), "failed (it answers with a message of -1 bytes)"),
        ((b"",), "failed (it does not answer in time)"),
    ],
)
def test_one_line_and_in_time(answers: tuple[bytes, ...], expected: str) -> None:
    with tracker(*answers) as endpoint:
        began_s = time.monotonic()
        with pytest.raises(RpcError) as caught:
            request_device(endpoint, "board", SHORT)
        assert time.monotonic() - began_s < 3
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"tracker {endpoint}")
    assert "\n" not in str(caught.value)


@pytest.mark.real_time
def test_a_tracker_that_drips() -> None:
    with tracker(SUMMARY, pause_s=0.05) as endpoint:
        began_s = time.monotonic()
        with pytest.raises(RpcError, match=r"failed \(it does not answer in time\)"):
            request_device(endpoint, "board", SHORT)
        assert time.monotonic() - began_s < 3


def test_a_device() -> None:
    with tracker(SUMMARY, device("::1", 9090)) as endpoint:
        assert request_device(endpoint, "board", SHORT) == (Endpoint("::1", 9090), "board:1")


@pytest.mark.parametrize("pending", [message(5), message(None), message({}), struct.pack("<i", -1)])
def test_an_announcement_outlives_a_tracker_that_answers_nonsense(pending: bytes) -> None:
    announcement = Announcement(Endpoint("127.0.0.1", 1), "board", 9090, None)
    announcement.offer()
    announcement.tend(0.0)
    assert not announcement.connected  # nothing listens there
    with tracker(message(0), message(0), pending) as endpoint:
        announcement = Announcement(endpoint, "board", 9090, None)
        announcement.offer()
        announcement.tend(0.0)
        assert announcement.connected
        announcement.tend(announcement.PING_S)
        assert not announcement.connected
    announcement.close()


def test_match_keys_cannot_be_guessed() -> None:
    announcement = Announcement(Endpoint("127.0.0.1", 1), "board", 9090, None)
    keys = set()
    for _ in range(3):
        announcement.offer()
        keys.add(announcement.match_key)
    assert len(keys) == 3
    assert all(key.startswith("board:") and len(key) == len("board:") + 16 for key in keys)
