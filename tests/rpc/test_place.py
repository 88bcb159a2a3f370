from __future__ import annotations

import re

import pytest

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Endpoint, Place, UnixEndpoint, chosen_place, parse_address, parse_endpoint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pi", Endpoint("pi", 9090)),
        ("192.168.1.20:9091", Endpoint("192.168.1.20", 9091)),
        ("[::1]:9091", Endpoint("::1", 9091)),
        ("[fe80::1]", Endpoint("fe80::1", 9090)),
        ("::1", Endpoint("::1", 9090)),
    ],
)
def test_addresses(text: str, expected: Endpoint) -> None:
    assert parse_endpoint(text) == expected
    assert parse_endpoint(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":9090",
        "pi:",
        "pi:0",
        "pi:65536",
        "pi:http",
        "[::1",
        "[::1]9090",
        "pi:٣",
        "pi:" + "9" * 5000,
        "a..b",
        "a..b:9090",
        "x" * 64,
        "a\0b",
        "\udcff",
    ],
)
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(RpcError, match=re.escape(f"{text!r} is not an address, expected HOST:PORT")):
        parse_endpoint(text)


def test_unix_sockets() -> None:
    assert parse_address("unix:/run/board") == UnixEndpoint("/run/board")
    assert str(UnixEndpoint("/run/board")) == "unix:/run/board"
    assert parse_address("pi:9091") == Endpoint("pi", 9091)
    for path in ("", "/" + "x" * 103, "a\nb", "a\0b", "\udcff"):
        with pytest.raises(RpcError, match="is not a path for a socket, expected 1 to 103 bytes that print"):
            parse_address(f"unix:{path}")


@pytest.mark.parametrize(("host", "port"), [("a..b", 1), ("a\0b", 1), ("x" * 64, 1), ("pi", -1), ("pi", 65536)])
def test_what_no_machine_can_be(host: str, port: int) -> None:
    with pytest.raises(RpcError, match=r"is not the name or number of a machine|is not a port"):
        Endpoint(host, port)


def test_the_options_of_commands() -> None:
    assert chosen_place(None, None, "") is None
    assert chosen_place("pi", None, "k") == Place(Endpoint("pi", 9090), "k")
    assert chosen_place(None, "pi", "k") == Place(Endpoint("pi", 9190), "k", by_tracker=True)
    assert chosen_place("unix:/run/board", None, "k") == Place(UnixEndpoint("/run/board"), "k")
    for empty in (("", None), (None, "")):
        with pytest.raises(RpcError, match="'' is not an address"):
            chosen_place(*empty, "k")
    with pytest.raises(RpcError, match="both given"):
        chosen_place("pi", "pi", "k")
    with pytest.raises(RpcError, match="--key was given without --rpc or --tracker"):
        chosen_place(None, None, "k")
    with pytest.raises(RpcError, match="none was given; name it with: --key K"):
        chosen_place(None, "pi", "")
    with pytest.raises(RpcError, match="'two words' has spaces"):
        chosen_place("pi", None, "two words")
