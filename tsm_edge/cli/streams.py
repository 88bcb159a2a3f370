"""The standard streams, made safe: closed, broken or of few characters, they do not decide how a command ends."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

import click


def prepare_streams() -> None:
    """Send what is written to a closed stream to nowhere, and replace characters that stdout cannot show.

    A closed stream's number would else go to the next file that is opened, which would then get the stream's text.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(_open_nowhere(), True)  # the lowest free number: this one
    sys.stdout = sys.stdout or _writer(1)
    sys.stderr = sys.stderr or _writer(2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        if isinstance(sys.stdout.buffer, io.RawIOBase):  # PYTHONUNBUFFERED: what is not taken would be forgotten
            sys.stdout = _writer(sys.stdout.fileno(), sys.stdout.encoding)
        sys.stdout.reconfigure(errors="replace")


def print_to_stderr(text: str, **options: Any) -> None:
    """Print as :func:`click.echo` does; if nobody can read it, this and all that follows goes to nowhere."""
    try:
        click.echo(text, err=True, **options)
    except OSError:
        _redirect_to_nowhere(2)


def stdout_is_gone() -> bool:
    """Whether stdout's reader went away; if so, send the rest to nowhere so that the interpreter exits quietly."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # not a file: replaced by a test or an embedding program
        return False
    poller = select.poll()
    poller.register(descriptor, select.POLLERR)
    if not poller.poll(0):
        return False
    _redirect_to_nowhere(descriptor)
    return True


def stdout_fails() -> bool:
    """Whether stdout does not take what it was given (a full disk, say); if so, that and the rest goes to nowhere.

    Else the interpreter would try once more at its end, and turn the exit code into its own.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _redirect_to_nowhere(sys.stdout.fileno())
        return True
    return False


def _redirect_to_nowhere(descriptor: int) -> None:
    nowhere = _open_nowhere()
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _writer(descriptor: int, encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)), encoding)


def _open_nowhere() -> int:
    return os.open(os.devnull, os.O_RDWR)
