"""``tsm-edge bench --table8``: results beside the paper's seven devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tsm_edge.cli.output import note, print_json, print_table


def show_table8(paths: Sequence[Path], json_file: str | None) -> None:
    """Print the table from files of ``bench --json`` and ``compile --explain --json``; none is fine, too.

    Parameters
    ----------
    paths : sequence of Path
    json_file : str or None
        ``-``: as JSON.

    Raises
    ------
    ArtifactError
        A file is neither.
    """
    from tsm_edge.bench.table8 import read_files, table8

    if json_file not in (None, "-"):
        # It may be a result that was meant to be read.
        raise click.UsageError(
            f"--table8 prints its JSON, expected no file after --json: write --json last ({json_file})"
        )
    table = table8(*read_files(paths))
    if json_file is not None:
        print_json(table.to_json())
        return
    print_table("", table.columns, table.rows)
    for line in table.notes:
        note(line)
