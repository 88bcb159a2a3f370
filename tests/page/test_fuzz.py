"""Malformed requests, many at a time: the page goes on serving. ``pytest -m slow tests/page`` sends 10 000."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Iterator

import pytest
from encoded_clips import clip
from running_page import RunningPage, together

from tsm_edge.page.server import LONGEST_S, MOST_CONNECTIONS, MOST_VIEWERS

_PATHS = ("/", "/live", "/state.json", "/picture.jpg", "/metrics", "/healthz", "/page.js", "/nothing")
_HEADERS = (
    "Host: localhost", "Host: evil", "Host:", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Key: x", "Transfer-Encoding: chunked",
    "Sec-WebSocket-Extensions: permessage-deflate", "Content-Length: 5", "Content-Length: -1", "Content-Length: 5, 6",
    "Content-Length: 99999999999999999999", "Expect: 100-continue", "Cookie: tsm_edge_1=\x7f;;=;a", "Range: bytes=0-",
    "Authorization: Bearer", "Origin: null", "Content-Type: multipart/form-data; boundary=", "Accept-Encoding: gzip",
    "If-None-Match: *", ": empty", "no colon", "\tfolded", "Content-Encoding: gzip", "X: " + "y" * 9000,
)  # fmt: skip
_BODIES = (b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"fffffffff\r\n", b"\x81\x85\0\0\0\0hello")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPage]:
    running = RunningPage(tmp_path_factory.mktemp("page"), "--camera", clip("bikes.mp4"), "--loop", "--quiet")
    yield running
    running.program.kill()


def malformed(seed: int) -> bytes:
    """A request that is wrong in some way, the same for the same seed; a few are right by chance."""
    rng = random.Random(seed)
    method = rng.choice(("GET", "HEAD", "POST", "get", "PRI", "CONNECT", "G\0T", "", "A" * 300))
    path = rng.choice(_PATHS) + rng.choice(("", "?token=%ff", "?" + "&" * 50, "#x", "\0", "/..", "%", " ", "?a=%u1"))
    version = rng.choice(("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "http/1.1", "", "HTTP/1.1 x"))
    lines = [f"{method} {path} {version}", *rng.choices(_HEADERS, k=rng.randrange(8))]
    if rng.random() < 0.5:
        lines.insert(1, "Host: localhost")
    end = rng.choice(("\r\n", "\r\n", "\n", "\r", "\r\r\n"))
    data = bytearray(end.join([*lines, "", ""]).encode("utf-8", "surrogatepass"))
    data += rng.choice((*_BODIES, rng.randbytes(300)))
    for _ in range(rng.choice((0, 0, 1, 5))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def send(page: RunningPage, seed: int) -> bytes:
    """Send it; half of the senders leave without waiting for an answer."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=LONGEST_S + 15) as stream:
        try:
            stream.sendall(malformed(seed))
            if seed % 2:
                return b""
            stream.shutdown(socket.SHUT_WR)
            answer = b""
            while len(answer) < 100_000 and (block := stream.recv(65536)):
                answer += block
            return answer
        except ConnectionError:
            return b""


def fuzz(page: RunningPage, seeds: range) -> None:
    child = page.child()
    before = page.state()["frames"]
    answers = [send(page, seed)[:12] for seed in seeds]
    assert page.child() == child  # the same process, not one that was started again
    assert page.get("/healthz").status == 200
    end = time.monotonic() + 30
    while page.state()["frames"] <= before:  # the run goes on beside it, on a machine that may be busy
        assert time.monotonic() < end
        time.sleep(0.1)
    known = {answer for answer in answers if answer}
    assert not [answer for answer in known if not answer.startswith(b"HTTP/1.1 ")]
    # The server's own mistakes would be 500; 503 is a picture that was not there in time.
    assert not known & {b"HTTP/1.1 500"}
    assert "Traceback" not in page.program.output()


def test_400_malformed_requests(page: RunningPage) -> None:
    fuzz(page, range(400))


@pytest.mark.slow
def test_10_000_malformed_requests(page: RunningPage) -> None:
    fuzz(page, range(10_000))


def test_more_connections_than_there_may_be(page: RunningPage) -> None:
    """Silent ones are hung up on in the end; until then the rest of the world waits, but the run does not."""
    before = page.state()["frames"]
    idle = [socket.create_connection(("127.0.0.1", page.port), timeout=10) for _ in range(MOST_CONNECTIONS + 30)]
    try:
        refused = 0
        for stream in idle[-30:]:
            stream.settimeout(5)
            try:
                refused += stream.recv(1) == b""
            except ConnectionError:
                refused += 1
        assert refused >= 25
    finally:
        for stream in idle:
            stream.close()
    assert page.wait_for(lambda: page.get("/healthz").status == 200)
    assert page.wait_for(lambda: page.state()["frames"] > before)


@pytest.mark.slow
def test_a_head_that_never_ends_is_hung_up_on(page: RunningPage) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=60) as stream:
        began_s = time.monotonic()
        stream.sendall(b"GET / HTTP/1.1\r\n")
        stream.settimeout(1)
        try:
            while time.monotonic() - began_s < 3 * LONGEST_S:
                stream.sendall(b"X")
                try:
                    if stream.recv(1) == b"":
                        break
                except TimeoutError:
                    continue
        except ConnectionError:
            pass
        assert LONGEST_S - 2 < time.monotonic() - began_s < 2 * LONGEST_S


def test_100_viewers(page: RunningPage) -> None:
    async def one() -> int:
        viewer = await page.viewer()
        seen = 0
        while seen < 3:
            message = await viewer.read_message()
            assert message is not None
            if isinstance(message, bytes):
                seen += 1
            if isinstance(message, bytes) or not json.loads(message).get("picture_follows"):
                await viewer.write_message("1")
        viewer.close()
        await viewer.read_message()
        return seen

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(one() for _ in range(100)))

    assert MOST_VIEWERS >= 100
    assert together(all_of_them(), 60) == [3] * 100
    assert page.wait_for(lambda: page.state()["viewers"] == 0)
