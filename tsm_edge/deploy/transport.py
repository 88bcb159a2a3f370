"""What deploying needs of a way to a device: running a line of shell there, and copying a file to it."""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from tsm_edge.deploy.files import DeployFile
from tsm_edge.errors import DeployError

MOST_OUTPUT = 1 << 24  # bytes; a device's shell may print whatever it likes


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

    def run(self, script: str, limit_s: float, most_output: int = MOST_OUTPUT) -> Finished:
        """Run one line of POSIX shell there; it may print so many bytes."""

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
    command: Sequence[str],
    limit_s: float,
    device: str,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    most_output: int = MOST_OUTPUT,
) -> Finished:
    """Run a program here.

    Raises
    ------
    DeployError
        It does not end in time, or prints without end; ``device`` is named.
    """
    # Messages are recognised by their English text.
    environment = {**os.environ, "LC_ALL": "C"}
    with subprocess.Popen(
        list(command), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as program:
        try:
            output, errors = _collect(program, time.monotonic() + limit_s, most_output)
        except subprocess.TimeoutExpired:
            raise DeployError(
                f"{device} does not finish within {limit_s:.0f} s",
                "check the connection, then deploy again: it goes on",
            ) from None
        except _Endless:
            raise DeployError(
                f"{device} prints more than {most_output >> 20} MiB, expected a few lines",
                f"look at what this prints: {shlex.join(command)}",
            ) from None
        finally:
            program.kill()  # no more than a formality if it has ended
    return Finished(program.returncode, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


class _Endless(Exception):
    """A program prints more than anybody would."""


def _collect(program: subprocess.Popen[bytes], until_s: float, most_output: int) -> tuple[bytes, bytes]:
    """What a program prints until it ends: to stdout and to stderr."""
    found = {stream.fileno(): bytearray() for stream in (program.stdout, program.stderr) if stream is not None}
    with selectors.DefaultSelector() as selector:
        for descriptor in found:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(_left_s(program, until_s)):
                block = os.read(key.fd, 1 << 16)
                found[key.fd] += block
                if not block:
                    selector.unregister(key.fd)
            if sum(map(len, found.values())) > most_output:
                raise _Endless
    program.wait(_left_s(program, until_s))
    output, errors = found.values()
    return bytes(output), bytes(errors)


def _left_s(program: subprocess.Popen[bytes], until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise subprocess.TimeoutExpired(program.args, left_s)
    return left_s


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
