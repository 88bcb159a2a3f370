"""What answers at an address is said, each in its own words; real servers on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from encoded_clips import clip, encode, index_first, plain
from loopback import Handler, address, http_server, running
from mjpeg_server import MjpegServer, Send, serving

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions
from tsm_edge.video.source import open_source

QUICK = SourceOptions(open_timeout_s=1.0, read_timeout_s=0.5)


def refusal(url: str) -> str:
    with pytest.raises(VideoError) as caught:
        open_source(url, QUICK)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("stream ")
    return message


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """Serve one answer over HTTP; yields the address."""

    class PageHandler(Handler):
        def do_GET(self) -> None:
            """Answer with a page."""
            asked = {"WWW-Authenticate": 'Basic realm="camera"'} if status == 401 else None
            self.answer(b"<html><body>hello</body></html>", status, asked)

    with running(http_server(PageHandler)) as server:
        yield f"{address(server)}/camera"


@contextlib.contextmanager
def rtsp_answering(status: str) -> Iterator[str]:
    """Serve one answer to every request of one RTSP connection after the other; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def work() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        while request := connection.recv(4096):
                            number = next(
                                line for line in request.split(b"\r\n") if line.lower().startswith(b"cseq")
                            ).decode()
                            answer = f'RTSP/1.0 {status}\r\n{number}\r\nWWW-Authenticate: Basic realm="camera"\r\n\r\n'
                            connection.sendall(answer.encode())

        threading.Thread(target=work, daemon=True).start()
        yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/1"
        server.shutdown(socket.SHUT_RDWR)


ANSWERS = [
    (401, "it asks for a user name and password (401); try: "),
    (403, "access is forbidden (403)"),
    (404, "there is nothing at this path (404)"),
    (410, "the server refuses the request"),
    (503, "the server failed"),
    (200, "what answers is no video"),
]


@pytest.mark.parametrize(("status", "expected"), ANSWERS)
def test_each_answer_of_a_web_server_has_its_words(status: int, expected: str) -> None:
    with answering(status) as url:
        assert f"no video could be opened there: {expected}" in refusal(url)


def test_a_refused_password_is_told_from_a_missing_one() -> None:
    with answering(401) as url:
        message = refusal(url.replace("http://", "http://user:secret@"))
    assert "this user name or password is not accepted (401)" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("status", "expected"),
    [("401 Unauthorized", "user name and password (401); try: rtsp://USER"), ("404 Not Found", "nothing at this path")],
)
def test_cameras_are_understood_too(status: str, expected: str) -> None:
    with rtsp_answering(status) as url:
        assert expected in refusal(url)


def test_what_does_not_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        for scheme in ("http", "rtsp"):
            assert "connection refused" in refusal(f"{scheme}://127.0.0.1:{unused.getsockname()[1]}/x")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "rtsp"):
            assert "within 1 s: no answer" in refusal(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x")


def test_addresses_that_cannot_be() -> None:
    assert "foo:// is no protocol that FFmpeg knows" in refusal("foo://camera/1")
    assert "the host camera.invalid is not known" in refusal("http://camera.invalid/1")
    assert "no video could be opened there" in refusal("http://[::1/1")


def test_a_file_of_which_the_server_sends_a_part_is_not_whole(tmp_path: Path) -> None:
    data = index_first(tmp_path / "whole.mp4", clip("carphone_pristine.mp4")).read_bytes()

    class PartHandler(Handler):
        def do_GET(self) -> None:
            """Promise the whole file and send two thirds of it."""
            self.answer(data, headers={"Content-Type": "video/mp4"}, sent=2 * len(data) // 3)

    with running(http_server(PartHandler)) as server, open_source(f"{address(server)}/x.mp4", QUICK) as source:
        frames = list(source)
    assert 0 < len(frames) < 120
    assert not source.complete


def test_a_stream_that_stalls_is_not_one_that_ended_although_the_decoder_still_had_frames(tmp_path: Path) -> None:
    images = [plain(10 * (index % 20)) for index in range(100)]
    data = encode(tmp_path / "stream.ts", images, "libx264", options={"bf": "2"}).read_bytes()
    done = threading.Event()

    class StallingHandler(Handler):
        def do_GET(self) -> None:
            """Send some of an endless stream, then nothing."""
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)
            done.wait(5)

    with running(http_server(StallingHandler)) as server:
        source = open_source(f"{address(server)}/stream", SourceOptions(read_timeout_s=0.5))
        with source, pytest.raises(VideoError, match=r"no frame for \d\.\d s after \d+ frames"):
            list(source)
        done.set()


def test_a_web_camera_that_sends_no_picture_is_named() -> None:
    def script(server: MjpegServer, send: Send) -> None:
        server.pause(3)

    with serving(script) as server:
        assert "no video could be opened there within 1 s: no answer" in refusal(server.url)
