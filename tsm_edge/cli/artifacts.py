"""Which artifact a command works on: the directory given, or the one compiled last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tsm_edge.cli.output import note

_F = TypeVar("_F", bound=Callable[..., Any])


def artifact_argument(command: _F) -> _F:
    """Give a click command the optional argument DIR, received as ``artifact``."""
    return click.argument("artifact", metavar="[DIR]", required=False, type=click.Path(path_type=Path))(command)


def chosen_artifact(path: Path | None) -> Path:
    """The directory given, or the newest artifact below ``./out``, named on stderr."""
    if path is not None:
        return path
    from tsm_edge.artifact import latest_artifact

    newest = latest_artifact()
    note(f"artifact: {newest}")
    return newest
