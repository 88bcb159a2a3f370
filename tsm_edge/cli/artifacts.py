"""Which artifact a command works on (the directory given, or the one compiled last), and on which machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from tsm_edge.cards.architecture import MOST_THREADS
from tsm_edge.cli.output import note

_F = TypeVar("_F", bound=Callable[..., Any])


def artifact_argument(command: _F) -> _F:
    """Give a click command the optional argument DIR, received as ``artifact``."""
    return click.argument("artifact", metavar="[DIR]", required=False, type=click.Path(path_type=Path))(command)


def threads_option(command: _F) -> _F:
    """Give a click command ``--threads``."""
    kind = click.IntRange(1, MOST_THREADS)
    return click.option(
        "--threads", metavar="N", type=kind, default=1, show_default=True, help="CPU threads of the model."
    )(command)


def advised_threads_option(command: _F) -> _F:
    """As :func:`threads_option`; without it None: as tuning found."""
    kind = click.IntRange(1, MOST_THREADS)
    return click.option(
        "--threads", metavar="N", type=kind, help="CPU threads of the model.  [default: as tuned, else 1]"
    )(command)


def rpc_options(command: _F) -> _F:
    """Give a click command ``--rpc``, ``--tracker``, ``--key`` and ``--key-file``, received as ``device``.

    That is a :class:`tsm_edge.rpc.place.Place`, or None: this machine.
    """

    @functools.wraps(command)
    def with_device(
        *arguments: Any, rpc: str | None, tracker: str | None, key: str, key_file: Path | None, **options: Any
    ) -> Any:
        from tsm_edge.rpc.key import chosen_key
        from tsm_edge.rpc.place import chosen_place

        return command(*arguments, device=chosen_place(rpc, tracker, chosen_key(key, key_file)), **options)

    for option in (
        click.option("--key-file", metavar="FILE", type=click.Path(path_type=Path), help="Read the key from a file."),
        click.option("--key", metavar="K", default="", help="The server's key; with --tracker: the devices' key."),
        click.option("--tracker", metavar="HOST:PORT", help="Run on a device that this tracker has free under --key."),
        click.option("--rpc", metavar="HOST:PORT", help="Run on the device served there (or: unix:PATH)."),
    ):
        with_device = option(with_device)
    return cast(_F, with_device)


def chosen_artifact(path: Path | None) -> Path:
    """The directory given, or the newest artifact below ``./out``, named on stderr."""
    if path is not None:
        return path
    from tsm_edge.artifact.folder import latest_artifact

    newest = latest_artifact()
    note(f"artifact: {newest}")
    return newest
