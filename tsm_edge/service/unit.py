"""The text of a systemd unit that runs a model, shut off from the rest of the system."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.errors import ServiceError

MARK = "# Written by tsm-edge service install."
_TEMPLATE = """\
{mark}
[Unit]
Description=tsm-edge: {name}
Wants=network-online.target
After=network-online.target
# A camera that is not there is waited for, however often that fails.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
Restart=on-failure
RestartSec=5
# A step or a driver that hangs is no failure that a program can see itself.
WatchdogSec=60
TimeoutStopSec=30
# How a run ends that is told to: no failure.
SuccessExitStatus=143

# A user of its own, made at the start; what it writes is in /var/lib/{folder}.
DynamicUser=yes
SupplementaryGroups=video
StateDirectory={folder}
WorkingDirectory=%S/{folder}
UMask=0077
{credentials}
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome={home}
PrivateTmp=yes
{devices}
ProtectClock={clock}
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged

[Install]
WantedBy=multi-user.target
"""
_CAMERAS = "# Cameras, and no other device.\nDevicePolicy=closed\nDeviceAllow=char-video4linux rw"
_ALL_DEVICES = "# The GPU's devices have different names on each board.\nDevicePolicy=auto"


@dataclass(frozen=True)
class Unit:
    """A service.

    Attributes
    ----------
    name : str
        Letters, digits, ``-`` and ``_``.
    command : tuple of str
        The program and its arguments. ``{credential}NAME`` in an argument is a file of ``credentials``.
    credentials : tuple of (str, Path)
        Secrets, by name: systemd reads them as root, and hands them to this service alone.
    reads_home : bool
        Something it reads is in a home folder.
    gpu : bool
        It needs a GPU.

    Raises
    ------
    ServiceError
        No unit can have such a name.
    """

    name: str
    command: tuple[str, ...]
    credentials: tuple[tuple[str, Path], ...] = ()
    reads_home: bool = False
    gpu: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", self.name):
            raise ServiceError(f"service {self.name!r}: expected letters, digits, - and _", "try: --service-name door")

    @property
    def file_name(self) -> str:
        """Of the unit."""
        return f"tsm-edge-{self.name}.service"

    def text(self) -> str:
        """The unit."""
        # The path is all that follows the colon, spaces and all.
        lines = [f"LoadCredential={name}:{str(path).replace('%', '%%')}" for name, path in self.credentials]
        return _TEMPLATE.format(
            mark=MARK,
            name=self.name,
            folder=f"tsm-edge-{self.name}",
            command=" ".join(_argument(part) for part in self.command),
            credentials="\n".join([*lines, ""]),
            home="read-only" if self.reads_home else "yes",
            devices=_ALL_DEVICES if self.gpu else _CAMERAS,
            # It closes the policy of devices.
            clock="no" if self.gpu else "yes",
        )


CREDENTIAL = "{credential}"


def state_folder(name: str) -> Path:
    """Where alone the service of this name may write."""
    return Path(f"/var/lib/tsm-edge-{name}")


def check_readable(path: Path, hint: str = "") -> None:
    """Refuse what the service's own user could not read; of a link, also what it leads to.

    Parameters
    ----------
    path : Path
    hint : str
        What to do about it; empty: to copy it elsewhere.

    Raises
    ------
    ServiceError
        It, or a folder it lies in, is closed to others.
    """
    for end in (path, path.resolve()):
        for place in (end, *end.parents):
            if not _is_open(place, place == end):
                raise ServiceError(
                    f"{place} is closed to other users, and the service is one",
                    hint or f"put {end} elsewhere: sudo cp -r {end} /opt",
                )


def _is_open(place: Path, to_read: bool) -> bool:
    """Whether others may read a file or folder, or at least pass through a folder."""
    try:
        mode = place.stat().st_mode
    except PermissionError:
        return False
    needed = 0o001 if not to_read else 0o005 if stat.S_ISDIR(mode) else 0o004
    return mode & needed == needed


def is_in_home(paths: Sequence[Path]) -> bool:
    """Whether systemd would hide one of them with the home folders."""
    ends = [end for path in paths for end in (path, path.resolve())]
    return any(end.is_relative_to(home) for end in ends for home in ("/home", "/root", "/run/user"))


def _argument(text: str) -> str:
    before, mark, name = text.partition(CREDENTIAL)
    return f"{before}${{CREDENTIALS_DIRECTORY}}/{name}" if mark else _quoted(text.replace("$", "$$"))


def _quoted(text: str) -> str:
    """As systemd reads it: percent signs are its own, and spaces end a word."""
    text = text.replace("%", "%%")
    if re.fullmatch(r"[\w@%+=:,./$-]+", text, re.ASCII):
        return text
    if not text.isprintable():
        raise ServiceError(f"{text!r} has characters that do not print", "leave them out")
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


def program(executable: Path) -> tuple[str, ...]:
    """How this program is started: from its virtual environment, by its absolute path."""
    return (os.path.abspath(executable), "-m", "tsm_edge.cli")
