from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsm_edge.errors import RpcError
from tsm_edge.rpc.listener import Listener
from tsm_edge.rpc.place import UnixEndpoint


@pytest.fixture
def path() -> Iterator[Path]:
    """Of a socket: short, as they must be."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "board"


def test_only_the_owner_can_connect(path: Path) -> None:
    listener = Listener(UnixEndpoint(str(path)))
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        caller = listener.accept()
        assert caller.name.startswith(f"process {os.getpid()} of ")
        assert caller.origin == os.geteuid()
        caller.stream.close()
    listener.close()
    assert not path.exists()


def test_a_socket_left_by_a_server_that_is_no_more_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    listener = Listener(UnixEndpoint(str(path)))
    with pytest.raises(RpcError, match=f"a server listens on unix:{path} already; end it, or name another path"):
        Listener(UnixEndpoint(str(path)))
    listener.close()


def test_a_file_of_the_users_is_not_replaced(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(RpcError, match=f"{path} exists and is not a socket; name another path with: --unix PATH"):
        Listener(UnixEndpoint(str(path)))
    assert path.read_text() == "mine"


def test_what_is_not_its_own_is_not_removed_at_the_end(path: Path) -> None:
    listener = Listener(UnixEndpoint(str(path)))
    path.unlink()
    path.write_text("mine")
    listener.close()
    assert path.read_text() == "mine"


def test_a_folder_that_is_not_there(path: Path) -> None:
    with pytest.raises(RpcError, match=r"cannot be made \(No such file or directory\); name a socket in a"):
        Listener(UnixEndpoint(str(path.parent / "none" / "board")))
