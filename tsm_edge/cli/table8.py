"""``tsm-edge bench --table8``: results beside the paper's seven devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tsm_edge.cli.output import note, print_json, print_table


def show_table8(paths: Sequence[Path], as_json: bool) -> None:
    """Print the table, or JSON, from files of ``bench --json`` and ``compile --explain --json``; none is fine, too.

    Raises
    ------
    ArtifactError
        A file is neither.
    """
    from tsm_edge.bench.table8 import read_files, table8

    table = table8(*read_files(paths))
    if as_json:
        print_json(table.to_json())
        return
    print_table("", table.columns, table.rows)
    for line in table.notes:
        note(line)
