"""Where the page is served, and what it takes to open it there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tsm_edge.errors import PageError
from tsm_edge.page.address import Address, open_door, read_token
from tsm_edge.page.guard import Guard, of_header


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("8080", "127.0.0.1", 8080), (":8080", "127.0.0.1", 8080), ("0.0.0.0:0", "0.0.0.0", 0), ("[::1]:80", "::1", 80)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "x", "1.2.3.4", "70000", "a:b:80", "::1:80", "[::1]", "h:-1", "h:8٣", "h\n:80"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(PageError, match="HOST:"):
        Address.parse(text)


def test_loopback_needs_no_token() -> None:
    door = open_door(Address("127.0.0.1", 0))
    with door.listener:
        assert (door.token, door.warning) == ("", "")
        assert door.url == f"http://127.0.0.1:{door.address.port}/"


def test_a_wider_address_has_a_token_of_its_own_and_warns_with_the_tunnel() -> None:
    doors = [open_door(Address("0.0.0.0", 0)) for _ in range(2)]
    for door in doors:
        door.listener.close()
    first, second = doors
    assert first.token != second.token
    assert len(first.token) == 32
    assert first.url == f"http://{socket.gethostname()}:{first.address.port}/?token={first.token}"
    assert f"ssh -L {first.address.port}:127.0.0.1:{first.address.port} " in first.warning
    assert first.token not in first.warning


def test_a_token_can_stay_the_same(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abcdefghij-KLMNOP_123\n")
    door = open_door(Address("127.0.0.1", 0), file)
    door.listener.close()
    assert door.token == "abcdefghij-KLMNOP_123"
    for text in ("", "short", "two words of enough letters", "x" * 257, "öööööööööööööööööööööö", "a;b" * 10):
        file.write_text(text)
        with pytest.raises(PageError, match="one word"):
            read_token(file)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with open_door(Address("127.0.0.1", 0)).listener as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PageError, match=f"--page 127.0.0.1:{port}: cannot listen there") as error:
            open_door(Address("127.0.0.1", port))
    assert f"--page {port + 1}" in error.value.hint
    with pytest.raises(PageError, match=r"no-such-host\.invalid is not an address"):
        open_door(Address("no-such-host.invalid", 0))


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost:8080", "localhost", "[::1]:80", "127.9.9.9"])
def test_names_of_this_machine(host: str) -> None:
    assert Guard("").knows_host(host)


@pytest.mark.parametrize(
    "host", ["evil.example:8080", "127.0.0.1.evil.example", "192.168.1.2:80", "", "[::1", "a:b:c", "127.1"]
)
def test_other_names_are_refused_without_a_token(host: str) -> None:
    assert not Guard("").knows_host(host)
    assert Guard("secret").knows_host(host)


def test_tokens() -> None:
    guard = Guard("secret-secret-secret")
    assert guard.opens(["", "secret-secret-secret"])
    assert not guard.opens(["", "secret-secret-secre", "\ud800"])
    assert not guard.opens([])
    assert of_header("Bearer  abc ") == "abc"
    assert of_header("Basic abc") == of_header("") == ""
