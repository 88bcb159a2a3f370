from __future__ import annotations

import re

import pytest

from tsm_edge.errors import RpcError
from tsm_edge.rpc.place import Endpoint, Place, chosen_place, parse_endpoint


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


@pytest.mark.parametrize("text", ["", ":9090", "pi:", "pi:0", "pi:65536", "pi:http", "[::1", "[::1]9090", "pi:٣"])
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(RpcError, match=re.escape(f"{text!r} is not an address, expected HOST:PORT")):
        parse_endpoint(text)


def test_the_options_of_commands() -> None:
    assert chosen_place(None, None, "") is None
    assert chosen_place("pi", None, "k") == Place(Endpoint("pi", 9090), "k")
    assert chosen_place(None, "pi", "k") == Place(Endpoint("pi", 9190), "k", by_tracker=True)
    with pytest.raises(RpcError, match="both given"):
        chosen_place("pi", "pi", "k")
    with pytest.raises(RpcError, match="--key was given without --rpc or --tracker"):
        chosen_place(None, None, "k")
    with pytest.raises(RpcError, match="none was given; name it with: --key K"):
        chosen_place(None, "pi", "")
    with pytest.raises(RpcError, match="'two words' has spaces"):
        chosen_place("pi", None, "two words")
