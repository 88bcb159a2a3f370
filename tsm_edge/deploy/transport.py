"""What deploying needs of a way to a device: running a line of shell there, and copying a file to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from tsm_edge.deploy.files import DeployFile
from tsm_edge.errors import DeployError


@dataclass(frozen=True)
class Finished:
    """A command that ended on the device.

    Attributes
    ----------
    code : int
        Its exit code.
    output, errors : str
        What it printed to stdout and stderr.
    """

    code: int
    output: str
    errors: str


class Transport(Protocol):
    """A way to a device.

    Every method raises :class:`DeployError`, in one line, when the way itself fails.
    """

    @property
    def name(self) -> str:
        """Of the device, for messages."""

    def folder(self, name: str) -> str:
        """Where a model called ``name`` goes."""

    def check(self) -> None:
        """Refuse early where the program for this way, or the device, is missing."""

    def run(self, script: str, limit_s: float) -> Finished:
        """Run one line of POSIX shell there."""

    def put(self, files: Sequence[DeployFile], folder: str, limit_s: float) -> Finished:
        """Copy files into a folder that is there, under their temporary names (:attr:`DeployFile.part`)."""

    def shown_run(self, script: str) -> str:
        """The command :meth:`run` runs here, as typed in a shell."""

    def shown_put(self, files: Sequence[DeployFile], folder: str) -> list[str]:
        """The commands :meth:`put` runs here, as typed in a shell."""


def find_program(name: str, hint: str) -> str:
    """The path of a program on this machine.

    Raises
    ------
    DeployError
        It is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise DeployError(f"the program {name} is not installed here", hint)
    return path


def run_program(
    command: Sequence[str], limit_s: float, device: str, stdin: IO[bytes] | int = subprocess.DEVNULL
) -> Finished:
    """Run a program here.

    Raises
    ------
    DeployError
        It does not end in time; ``device`` is named.
    """
    # Messages are recognised by their English text.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(command), stdin=stdin, capture_output=True, timeout=limit_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise DeployError(
            f"{device} does not finish within {limit_s:.0f} s", "check the connection, then deploy again: it goes on"
        ) from None
    return Finished(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
