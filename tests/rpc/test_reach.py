from __future__ import annotations

import pytest

from tsm_edge.rpc.place import Endpoint, UnixEndpoint
from tsm_edge.rpc.reach import reach


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8"])
def test_loopback(host: str) -> None:
    found = reach(Endpoint(host, 9090), has_key=False)
    assert not found.exposed
    assert "whoever connects can run any program here as " in found.text
    assert "keep other users of this machine out with --key-file FILE, or use --unix PATH" in found.text
    keyed = reach(Endpoint(host, 9090), has_key=True)
    assert "whoever has the key can run any program here as " in keyed.text
    assert "--key-file" not in keyed.text


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "no-such-host.invalid", ""])
def test_beyond_loopback(host: str) -> None:
    found = reach(Endpoint(host, 9090), has_key=True)
    assert found.exposed
    assert "whoever has the key can run any program here as " in found.text
    assert "no encryption, and a key, if any, is sent as it is" in found.text


def test_a_unix_socket() -> None:
    found = reach(UnixEndpoint("/run/board"), has_key=False)
    assert not found.exposed
    assert "tunnel first: ssh -L 9090:/run/board " in found.text
