"""Sessions' processes that do nothing of RPC: how they end, and what is left."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tsm_edge.rpc import session_process
from tsm_edge.rpc.session_process import SessionProcess, begin_session


def end_of(session: SessionProcess) -> str:
    """Look after a session as a server does, until it is gone."""
    until_s = time.monotonic() + 20
    while not (how := session.how_it_ended(time.monotonic())):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    session.clear()
    return how


def sleep() -> None:
    time.sleep(60)


def fail() -> None:
    raise ValueError("nonsense")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("serve", "limit_s", "expected"),
    [
        (lambda: None, None, "ended after"),
        (fail, None, "was cut off after"),
        (crash, None, "died of SIGSEGV; serving goes on, after"),
        (sleep, 0.1, "was ended: the time limit its client set is over after"),
    ],
)
def test_how_it_ended(serve: Callable[[], None], limit_s: float | None, expected: str, tmp_path: Path) -> None:
    ours, client = socket.socketpair()
    folder = tmp_path / "session-1"
    session = begin_session(ours, folder, limit_s, serve)
    assert folder.is_dir()
    assert end_of(session).startswith(expected)
    assert client.recv(1) == b""
    assert not folder.exists()
    client.close()


def test_one_that_goes_on_for_nobody_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_process, "_ALONE_S", 0.1)
    ours, client = socket.socketpair()
    session = begin_session(ours, tmp_path / "session-1", None, sleep)
    time.sleep(0.3)
    assert session.how_it_ended(time.monotonic()) == ""
    client.shutdown(socket.SHUT_RDWR)
    assert end_of(session).startswith("was ended: its client has gone after")
    client.close()


@pytest.mark.parametrize("call", ["pipe", "fork"])
def test_nothing_is_left_of_one_that_cannot_begin(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EAGAIN, "no more")

    ours, client = socket.socketpair()
    before = sorted(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="no more"):
        begin_session(ours, tmp_path / "session-1", None, sleep)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []
    ours.close()
    client.close()
