"""Who may see the page: this machine alone, or who has the token."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tsm_edge.page.address import is_loopback

_BEARER = "bearer "


@dataclass(frozen=True)
class Guard:
    """Decides on requests.

    Attributes
    ----------
    token : str
        What a browser must show; empty: only this machine can connect, and is asked for by its own name.
    """

    token: str

    def knows_host(self, host: str) -> bool:
        """Whether the name this page was asked for may be its own.

        Without a token it must be a loopback name: a page from elsewhere can have its own name lead to this machine
        (DNS rebinding), and would then read what is served here.
        """
        if self.token:
            return True
        try:
            name = urlsplit(f"//{host}").hostname
            return name == "localhost" or (name is not None and is_loopback(name))
        except ValueError:  # no address, or brackets that do not match
            return False

    def opens(self, shown: Iterable[str]) -> bool:
        """Whether one of the tokens shown is the right one; takes the same time whatever is wrong with them."""
        if not self.token:
            return True
        right = [_same(given, self.token) for given in shown]  # all of them are looked at
        return any(right)


def of_header(authorization: str) -> str:
    """The token in an ``Authorization: Bearer`` header; empty: there is none."""
    return authorization[len(_BEARER) :].strip() if authorization[: len(_BEARER)].lower() == _BEARER else ""


def _same(given: str, expected: str) -> bool:
    # Digests are of one length: how long the token is does not show either.
    digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (given, expected)]
    return hmac.compare_digest(*digests)
