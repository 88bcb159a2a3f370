"""Where the page is served, who can open it there, and the secret that others than this machine need."""

from __future__ import annotations

import errno
import getpass
import ipaddress
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.errors import PageError
from tsm_edge.files.atomic import read_text

_LOOPBACK = "127.0.0.1"
_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 256
_BACKLOG = 128


@dataclass(frozen=True)
class Address:
    """``[HOST:]PORT`` of ``--page``.

    Attributes
    ----------
    host : str
        Without brackets.
    port : int
        0: any free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``PORT``, ``HOST:PORT`` or ``[IPV6]:PORT``.

        Raises
        ------
        PageError
            It is none of these.
        """
        host, _, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            port = ""
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536) or not host.isprintable():
            raise PageError(f"--page {text}: expected [HOST:]PORT", "try: --page 8080, or --page 0.0.0.0:8080")
        return cls(host or _LOOPBACK, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Door:
    """A listening socket, and what opens it.

    Attributes
    ----------
    listener : socket
    address : Address
        With the port that was taken.
    token : str
        What a browser must show; empty where only this machine can connect.
    """

    listener: socket.socket
    address: Address
    token: str

    @property
    def url(self) -> str:
        """What to open in a browser, with the secret."""
        where = Address(_name_for_others(self.address.host), self.address.port)
        return f"http://{where}/?token={self.token}" if self.token else f"http://{where}/"

    @property
    def warning(self) -> str:
        """What to say where others can connect; empty where they cannot."""
        if not self.token:
            return ""
        port = self.address.port
        return (
            f"other machines can open the page at {self.address} with the token in its address, which travels "
            f"unencrypted; better use --page {port} and a tunnel: {tunnel(port)}"
        )


def tunnel(port: int) -> str:
    """The command that brings the page to another machine's own loopback address."""
    return f"ssh -L {port}:{_LOOPBACK}:{port} {_user()}@{socket.gethostname()}"


def open_door(address: Address, token_file: Path | None = None) -> Door:
    """Listen.

    Parameters
    ----------
    address : Address
    token_file : Path, optional
        Holds the token; else, where one is needed, it is new each time.

    Raises
    ------
    PageError
        The address cannot be bound, or the file holds no token.
    """
    given = read_token(token_file) if token_file is not None else ""
    try:
        family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise PageError(
            f"--page {address}: {address.host} is not an address of this machine", f"try: --page {address.port}"
        ) from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _not_bound(address, error) from None
    bound = Address(str(listener.getsockname()[0]), listener.getsockname()[1])
    token = given or ("" if is_loopback(bound.host) else secrets.token_urlsafe(24))
    return Door(listener, bound, token)


def read_token(path: Path) -> str:
    """The token in a file.

    Raises
    ------
    PageError
        It is not one word of 16 to 256 letters, digits, ``-`` and ``_``.
    """
    words = read_text(path).split()
    token = words[0] if len(words) == 1 else ""
    plain = token.isascii() and token.replace("-", "").replace("_", "").isalnum()
    if not (plain and _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN):
        raise PageError(
            f"token file {path}: expected one word of {_SHORTEST_TOKEN} to {_LONGEST_TOKEN} letters, digits, - and _",
            "make one with: (umask 077; head -c 24 /dev/urandom | base64 | tr +/ -_ > FILE)",
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether a numeric address is this machine's own, which no other can reach."""
    return ipaddress.ip_address(host.split("%")[0]).is_loopback


def _name_for_others(host: str) -> str:
    """A host that a browser can open: not the one that stands for all."""
    return socket.gethostname() if ipaddress.ip_address(host.split("%")[0]).is_unspecified else host


def _not_bound(address: Address, error: Exception) -> PageError:
    reason = getattr(error, "strerror", None) or str(error)
    taken = getattr(error, "errno", None) == errno.EADDRINUSE
    hint = f"try: --page {address.port + 1 if address.port < 65535 else 0}" if taken else "try: --page 8080"
    return PageError(f"--page {address}: cannot listen there ({reason})", hint)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "USER"
