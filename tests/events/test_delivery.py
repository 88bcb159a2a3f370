"""From the outbox to files and web addresses: nothing twice, nothing lost uncounted, whatever fails."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
import standardwebhooks
from mjpeg_server import wait_until
from web_hook import hooked

from tsm_edge.errors import EventError
from tsm_edge.events import courier as courier_module
from tsm_edge.events.courier import Courier, NotNow, Refused
from tsm_edge.events.jsonl import JsonLines
from tsm_edge.events.outbox import Letter, Outbox
from tsm_edge.events.webhook import Webhook, read_secret

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="


def letter(number: int) -> Letter:
    return Letter(f"id-{number}", json.dumps({"number": number, "label": "Wischen ⟶"}))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier_module, "_FIRST_PAUSE_S", 0.02)


class Scripted:
    """A receiver that does what it is told."""

    name = "scripted"

    def __init__(self, *problems: Exception) -> None:
        self.problems = list(problems)
        self.got: list[str] = []
        self.closed = False

    def deliver(self, item: Letter) -> None:
        if self.problems:
            raise self.problems.pop(0)
        self.got.append(item.id)

    def close(self) -> None:
        self.closed = True


def test_it_is_tried_again_in_order_and_counted() -> None:
    receiver = Scripted(NotNow("a"), OSError("b"), Refused("c"), NotNow("d"))
    courier = Courier(receiver, Outbox(None))
    for number in range(3):
        courier.put(letter(number))
    wait_until(lambda: len(receiver.got) == 2)
    courier.close()
    assert receiver.got == ["id-1", "id-2"]  # the first was refused
    counts = courier.counts
    assert (counts.delivered, counts.retries, counts.lost, counts.waiting) == (2, 3, 1, 0)
    assert receiver.closed


def test_a_mistake_of_a_receiver_does_not_end_its_thread_and_the_reason_is_told() -> None:
    receiver = Scripted(ValueError("label too long"), *[NotNow("answer 401")] * 10_000)
    courier = Courier(receiver, Outbox(None))
    courier.put(letter(0))
    wait_until(lambda: courier.counts.trouble == "answer 401")
    receiver.problems.clear()
    wait_until(lambda: receiver.got == ["id-0"] and not courier.counts.trouble)
    courier.close()


def test_a_full_outbox_loses_the_oldest_and_counts_them() -> None:
    box = Outbox(None, most=3)
    for number in range(10):
        box.put(letter(number))
    assert box.oldest(0) == letter(7)
    assert (box.lost, len(box)) == (7, 3)


def test_what_was_not_delivered_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "webhook.sqlite"
    box = Outbox(path)
    for number in range(3):
        box.put(letter(number))
    assert box.oldest(0) == letter(0)
    box.done(letter(0))
    with pytest.raises(EventError, match="used by another run"):
        Outbox(path)
    box.close()
    again = Outbox(path)
    again.put(letter(3))
    found = []
    while (item := again.oldest(0)) is not None:
        found.append(item)
        again.done(item)
    assert found == [letter(1), letter(2), letter(3)]
    again.close()
    assert Outbox(path).oldest(0) is None


def test_a_spool_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database, but long enough to be none" * 100)
    with pytest.raises(EventError, match="cannot be used"):
        Outbox(tmp_path / "file")


def test_lines_are_appended_and_a_torn_one_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"number": -1}\n{"numb')  # what a power cut leaves
    lines = JsonLines(path)
    lines.deliver(letter(0))
    path.rename(tmp_path / "events.jsonl.1")  # what logrotate does
    lines.deliver(letter(1))
    lines.close()
    assert (tmp_path / "events.jsonl.1").read_text("utf-8").splitlines()[1:] == ['{"numb', letter(0).body]
    assert path.read_text("utf-8") == letter(1).body + "\n"


def test_a_full_disk_leaves_no_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    lines = JsonLines(path)
    lines.deliver(letter(0))
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr("os.write", lambda where, data: write(where, data[:5]))
        with pytest.raises(OSError, match="only 5 of"):
            lines.deliver(letter(1))
    lines.deliver(letter(2))
    lines.close()
    assert path.read_text("utf-8").splitlines() == [letter(0).body, letter(2).body]


def test_no_events_file_where_there_can_be_none(tmp_path: Path) -> None:
    with pytest.raises(EventError, match="cannot be written"):
        JsonLines(tmp_path)
    with pytest.raises(EventError, match=rf"the folder {tmp_path}/none does not exist; try: mkdir -p {tmp_path}/none$"):
        JsonLines(tmp_path / "none" / "x.jsonl")
    assert not (tmp_path / "none").exists()
    with pytest.raises(EventError, match="is no file"):
        JsonLines(Path("/dev/null"))


def test_a_webhook_is_signed_as_others_check_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    with hooked() as server:
        Webhook(server.url, read_secret(file)).deliver(letter(1))
    ((headers, body),) = server.taken
    plain = {name.lower(): value for name, value in headers.items()}
    assert standardwebhooks.Webhook(SECRET).verify(body.decode(), plain) == json.loads(letter(1).body)
    assert plain["webhook-id"] == "id-1"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(body.decode().replace("1", "2"), plain)


@pytest.mark.parametrize(
    ("answer", "kind"), [(500, NotNow), (429, NotNow), (302, NotNow), (401, NotNow), (422, Refused)]
)
def test_answers(answer: int, kind: type[Exception]) -> None:
    with hooked(answer) as server:
        with pytest.raises(kind, match=str(answer)):
            Webhook(server.url).deliver(letter(1))
        assert server.taken == []


def test_a_webhook_that_comes_back_gets_each_event_once() -> None:
    with hooked(503, 204, 500) as server:
        courier = Courier(Webhook(server.url), Outbox(None))
        for number in range(5):
            courier.put(letter(number))
        wait_until(lambda: len(server.taken) == 5)
        courier.close()
    assert [json.loads(body)["number"] for _, body in server.taken] == list(range(5))
    assert courier.counts.retries == 2


def test_a_server_that_speaks_no_http_and_one_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsm_edge.events.webhook._TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(OSError, match="timed out"):
            Webhook(url).deliver(letter(1))

        def answer() -> None:
            for _ in range(2):
                stream, _ = listener.accept()
                with stream:
                    stream.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises((NotNow, OSError)):
            Webhook(url).deliver(letter(1))
    with pytest.raises(OSError, match="refused"):
        Webhook(url).deliver(letter(1))


@pytest.mark.parametrize(
    "url",
    [
        "example.org",
        "ftp://example.org",
        "http://",
        "http://a:b@[::1",
        "http://h:99999/",
        "http://h/a b",
        "http://h/\r\nX: y",
        "http://a..b/",
        f"http://{'a' * 64}.example/",
    ],
)
def test_no_address_is_refused(url: str) -> None:
    with pytest.raises(EventError, match="--webhook"):
        Webhook(url)


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(EventError) as error:
        Webhook("ftp://user:secret@example.org/")
    assert "secret" not in str(error.value)


def test_secrets(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for text in ("", "short", "öö", "A" * 20, "A" * 400):
        file.write_text(text)
        with pytest.raises(EventError, match="24 to 64 bytes"):
            read_secret(file)


@pytest.mark.real_time
def test_a_receiver_that_hangs_does_not_hold_up_who_adds() -> None:
    going = threading.Event()

    class Hanging(Scripted):
        def deliver(self, item: Letter) -> None:
            going.wait(10)

    courier = Courier(Hanging(), Outbox(None, most=100))
    began_s = time.monotonic()
    for number in range(1000):
        courier.put(letter(number))
    assert time.monotonic() - began_s < 0.5
    assert courier.counts.lost >= 800
    assert courier.counts.lost + courier.counts.waiting == 1000
    going.set()
    courier.close()
