"""Where over ssh: what a person may write, and what may be meant by it."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.errors import DeployError

_SCHEME = "ssh://"
_URL = re.compile(
    r"ssh://((?P<user>[^@/]*)@)?(\[(?P<number>[^]/]+)\]|(?P<host>[^][:/@]+))(:(?P<port>\d*))?(?P<path>/.*)?"
)


@dataclass(frozen=True)
class SshDestination:
    """Where a model goes.

    Attributes
    ----------
    host : str
        ``user@host``, ``host``, or a name from the ssh configuration.
    path : str
        A folder there; relative: below the home folder; empty: ``tsm-edge/NAME``.
    config : Path or None
        Another configuration file (``ssh -F``).
    port : int or None
        None: the ssh configuration's.
    """

    host: str
    path: str = ""
    config: Path | None = None
    port: int | None = None


def parse_destination(text: str, config: Path | None = None) -> SshDestination:
    """Read ``[user@]host[:path]``, an IPv6 number in brackets, or ``ssh://[user@]host[:port][/path]``.

    The path of the second form begins at the root, or with ``/~/`` at the home folder.

    Raises
    ------
    DeployError
        It is neither, or what follows the host may be a port as well as a folder.
    """
    host, port, path = _split_url(text) if text.startswith(_SCHEME) else _split(text)
    # A host that begins with a dash would be an option of ssh.
    bad = not host or host.startswith(("-", "@")) or host.endswith("@")
    if bad or any(character == "/" or character.isspace() for character in host) or not (host + path).isprintable():
        raise _not_a_destination(text)
    if path.startswith("~/"):
        path = path[2:]
    elif path.startswith("~"):
        raise DeployError(f"{path!r}: another user's home folder is not known here", "give the whole path")
    return SshDestination(host, path, config, port)


def _split(text: str) -> tuple[str, int | None, str]:
    """Host, no port and path of ``[user@]host[:path]``."""
    user, _, rest = text.rpartition("@")
    if _is_ipv6(rest):
        return text, None, ""
    if not rest.startswith("["):
        host, _, path = text.partition(":")
        _refuse_port(text, host, path)
        return host, None, path
    number, bracket, path = rest[1:].partition("]")
    if not bracket or (path and not path.startswith(":")):
        raise _not_a_destination(text)
    _refuse_port(text, text[: text.index("]") + 1], path[1:])
    return _host(user, number), None, path[1:]


def _refuse_port(text: str, host: str, path: str) -> None:
    """``root@board:2222`` is a folder to scp and a port to most other programs."""
    first, slash, below = path.partition("/")
    if first.isascii() and first.isdigit():
        url = f"{_SCHEME}{host}:{first}{f'/~/{below}' if slash else ''}"
        raise DeployError(
            f"{text!r}: {first} may be a port or a folder", f"for the port: {url}, for the folder: {host}:./{path}"
        )


def _split_url(text: str) -> tuple[str, int | None, str]:
    """Host, port and path of ``ssh://[user@]host[:port][/path]``."""
    if re.match(r"ssh://[^@/]*:[^@/]*@", text):
        raise DeployError("in a destination a password is not taken", "put a key there with: ssh-copy-id USER@HOST")
    match = _URL.fullmatch(text)
    if match is None or not 0 < int(match["port"] or 22) < 65536:
        raise _not_a_destination(text)
    user, path = (urllib.parse.unquote(match[name] or "") for name in ("user", "path"))
    path = path[1:] if path.startswith("/~") else path.rstrip("/")
    return _host(user, match["number"] or match["host"]), int(match["port"]) if match["port"] else None, path


def _host(user: str, host: str) -> str:
    return f"{user}@{host}" if user and host else host


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _not_a_destination(text: str) -> DeployError:
    return DeployError(
        f"{text!r} is not a destination, expected [USER@]HOST[:PATH] or {_SCHEME}[USER@]HOST[:PORT][/PATH]",
        "for example: tsm-edge deploy pi@raspberrypi",
    )
