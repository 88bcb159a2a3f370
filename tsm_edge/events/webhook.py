"""Events to a web address, signed as the Standard Webhooks specification says, so that ready-made code can check them.

The signature is HMAC-SHA256 over ``ID.TIMESTAMP.BODY`` (https://www.standardwebhooks.com). The same event that is sent
again has the same ``webhook-id``: whoever receives it tells it by that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import http.client
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from tsm_edge import __version__
from tsm_edge.errors import EventError
from tsm_edge.events.courier import NotNow, Refused
from tsm_edge.events.hosts import is_host
from tsm_edge.events.outbox import Letter
from tsm_edge.files.atomic import read_text
from tsm_edge.redact import redacted

_TIMEOUT_S = 10.0
_PREFIX = "whsec_"
_SHORTEST_SECRET, _LONGEST_SECRET = 24, 64  # bytes, as the specification asks for
_LARGEST_ANSWER = 1 << 16
# What is wrong with the event itself; all else may get better.
_FINAL = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.GONE,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
_MAKE_ONE = "make one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE)"


class Webhook:
    """A web address that takes events by POST. Redirects are not followed.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``; a user and password in it are sent as such.
    secret : bytes
        For the signature; empty: none.

    Raises
    ------
    EventError
        It is no such address.
    """

    name = "webhook"

    def __init__(self, url: str, secret: bytes = b"") -> None:
        self._address = _parsed(url)
        self._secret = secret

    def deliver(self, letter: Letter) -> None:
        """Send an event and wait for the answer.

        Raises
        ------
        NotNow, OSError
            There is no answer, or one that asks to come again.
        Refused
            The event itself is refused.
        """
        connection = self._connection()
        try:
            connection.request("POST", self._path(), letter.body.encode(), self._headers(letter))
            answer = connection.getresponse()
            answer.read(_LARGEST_ANSWER)
        except http.client.HTTPException as error:
            raise NotNow(f"what answers speaks no HTTP ({type(error).__name__})") from None
        finally:
            connection.close()
        if 200 <= answer.status < 300:
            return
        if answer.status in _FINAL:
            raise Refused(f"answer {answer.status}")
        raise NotNow(f"answer {answer.status}")

    def close(self) -> None:
        """Nothing stays open between two events."""

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
        return kind(self._address.hostname or "", self._address.port, timeout=_TIMEOUT_S)

    def _path(self) -> str:
        path = self._address.path or "/"
        return f"{path}?{self._address.query}" if self._address.query else path

    def _headers(self, letter: Letter) -> dict[str, str]:
        moment = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"tsm-edge/{__version__}",
            "webhook-id": letter.id,
            "webhook-timestamp": moment,
        }
        if self._secret:
            headers["webhook-signature"] = signature(self._secret, letter, moment)
        if self._address.username is not None:
            login = f"{self._address.username}:{self._address.password or ''}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        return headers


def signature(secret: bytes, letter: Letter, moment: str) -> str:
    """The header that proves who sent an event at a moment (Unix time in seconds)."""
    digest = hmac.new(secret, f"{letter.id}.{moment}.{letter.body}".encode(), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def read_secret(path: Path) -> bytes:
    """The secret in a file: base64 of 24 to 64 bytes, with or without ``whsec_`` before it.

    Raises
    ------
    EventError
        It holds no such thing.
    TextFileError
        It cannot be read.
    """
    text = read_text(path).strip().removeprefix(_PREFIX)
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not _SHORTEST_SECRET <= len(secret) <= _LONGEST_SECRET:
        raise EventError(f"secret file {path}: expected 24 to 64 bytes in base64", _MAKE_ONE)
    return secret


def _parsed(url: str) -> SplitResult:
    problem = EventError(
        f"--webhook {redacted(url)}: expected an address that begins with http:// or https://",
        "for example: --webhook https://example.org/hook",
    )
    try:
        address = urlsplit(url)
        known = address.scheme in ("http", "https") and is_host(address.hostname or "") and address.port != 0
    except ValueError:
        raise problem from None
    # http.client sends what it is given: no line may be hidden in it.
    if not known or not url.isascii() or any(character <= " " for character in url):
        raise problem
    return address
