"""A report that a command writes beside its output, with ``--html``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from tsm_edge.files.atomic import check_writable
from tsm_edge.files.paths import refuse_replacing


def check_report(path: Path, kept: Iterable[Path]) -> None:
    """Refuse a place where no report can be written, or that is one of the files to keep, before the work begins."""
    refuse_replacing(path, kept, "--html FILE.html")
    try:
        check_writable(path)
    except OSError as error:
        raise not_writable(path, error) from None


def not_writable(path: Path, error: OSError) -> click.BadParameter:
    """What to raise where a report cannot be written."""
    return click.BadParameter(f"{path} cannot be written ({error.strerror})", param_hint="--html")
