"""Passwords in camera addresses: used, never shown."""

from __future__ import annotations

import re

_HIDDEN = r"\g<1>***"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(\S+)")
_USER = re.compile(r"([^:]*:).*")
# Cameras take passwords in the query or in the path, too (rtsp://host/user=admin&password=…&channel=1).
_FIELD = re.compile(
    r"((?:^|[?&;/])(?:[\w-]*(?:pass(?:word|wd)?|pwd|psw|token|secret|api_?key|signature)|auth)=)[^&;#]*?(?=[&;#]|:?$)",
    re.IGNORECASE,
)
# Properties of GStreamer's network sources.
_PROPERTY = re.compile(
    r"(\b(?:user-pw|proxy-pw|password|passwd)\s*=\s*)(?:\"[^\"]*\"|'[^']*'|[^\s!&;]+)", re.IGNORECASE
)


def redacted(text: str) -> str:
    """Replace the passwords of every address, and of every GStreamer pipeline, in a text by ``***``.

    The user's name stays: it tells one camera from another.
    """
    return _PROPERTY.sub(_HIDDEN, _URL.sub(lambda found: found[1] + _without_password(found[2]), text))


def _without_password(address: str) -> str:
    """``user:password@host/path`` with the password replaced."""
    end = _end_of_credentials(address)
    return _USER.sub(_HIDDEN, address[:end]) + _FIELD.sub(_HIDDEN, address[end:])


def _end_of_credentials(address: str) -> int:
    """Where the ``@`` after user and password is; 0: there are none."""
    authority = re.split("[/?#]", address, maxsplit=1)[0]
    credentials, at, _ = authority.rpartition("@")
    if at and ":" not in credentials:
        return len(credentials)
    host, colon, port = authority.rpartition(":")
    # What is no port begins a password with an unescaped slash in it. Better to hide too much than a part of one.
    password = at or (colon and not port.isdigit() and not host.startswith("["))
    return address.rindex("@") if password and "@" in address else 0
