"""The key a device's server asks for: one word, known to those who may come in.

TVM's handshake sends it as it is. It keeps out other users of the device's machine, and mistaken clients; on a network
that others listen to it needs a tunnel around it.
"""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path

from tsm_edge.errors import RpcError

_LONGEST_KEY = 1024  # bytes
_MAKE_ONE = "make one with: (umask 077; head -c 24 /dev/urandom | base64 > FILE)"


def check_key(key: str) -> None:
    """Refuse a key TVM's handshake cannot carry.

    Raises
    ------
    RpcError
        It has a space or another character that does not print, or it is too long.
    """
    if any(character.isspace() or not character.isprintable() for character in key):
        raise RpcError(
            f"key {key!r} has spaces or characters that do not print, expected one word",
            "choose another for both sides",
        )
    if len(key.encode()) > _LONGEST_KEY:
        raise RpcError(
            f"the key has {len(key.encode())} bytes, expected at most {_LONGEST_KEY}",
            "choose a shorter one for both sides",
        )


def read_key_file(path: Path) -> str:
    """The word in a file that only its owner can read.

    Raises
    ------
    RpcError
        It cannot be read, others can read it, or it holds something else than one word.
    """
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            data = stream.read(2 * _LONGEST_KEY)
    except OSError as error:
        raise RpcError(f"key file {path}: {error.strerror}", _MAKE_ONE) from None
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        raise RpcError(f"key file {path} can be read by other users", f"keep it to yourself: chmod 600 {path}")
    try:
        words = data.decode("utf-8-sig").split()
    except UnicodeDecodeError:
        words = []
    if len(words) != 1 or not words[0].isprintable() or len(data) > _LONGEST_KEY:
        # What is in it is not told: it may be a secret of another kind.
        raise RpcError(f"key file {path} does not hold one word of at most {_LONGEST_KEY} bytes", _MAKE_ONE)
    return words[0]


def chosen_key(key: str, file: Path | None) -> str:
    """The key that ``--key`` and ``--key-file`` give; empty: none.

    Raises
    ------
    RpcError
        Both were given, or the file holds no key.
    """
    if file is None:
        return key
    if key:
        raise RpcError("--key and --key-file were both given, expected one", "a file keeps the key out of `ps`")
    return read_key_file(file)


def same_key(given: bytes, expected: str) -> bool:
    """Compare in a time that does not tell how much of a guess is right."""
    return hmac.compare_digest(given, expected.encode())
