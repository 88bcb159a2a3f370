"""``/proc/cpuinfo``: the only place that knows how it is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

CPUINFO = "/proc/cpuinfo"
Table = dict[str, str]


def cpuinfo(root: Path = Path("/")) -> list[Table]:
    """The tables of this machine's file.

    Parameters
    ----------
    root : Path
        The folder that stands for ``/``.

    Returns
    -------
    list of dict
        As :func:`tables_of`; empty where there is no such file.
    """
    try:
        return tables_of((root / CPUINFO.lstrip("/")).read_text("utf-8", errors="replace"))
    except OSError:
        return []


def tables_of(text: str) -> list[Table]:
    """The tables of a file, most of them of a logical CPU, others of the board."""
    pairs = ([line.partition(":") for line in block.splitlines()] for block in re.split(r"\n\s*\n", text))
    tables = ({key.strip(): value.strip() for key, _, value in block if key.strip()} for block in pairs)
    return [table for table in tables if table]


def processors_of(tables: Sequence[Table]) -> list[Table]:
    """The tables of logical CPUs. (Raspberry Pi kernels end with a table on the board.)"""
    return [table for table in tables if table.get("processor", "").isdigit()]


def features_of(tables: Sequence[Table]) -> tuple[str, ...]:
    """The features of the first CPU; empty: not told."""
    # Old kernels for 32-bit Arm have them in a table of their own.
    lists = (table[key] for table in tables for key in ("flags", "Features") if key in table)
    return tuple(next(lists, "").split())


def arm_core(table: Table) -> tuple[int, int] | None:
    """Implementer and part of a logical CPU; None: it is no Arm core."""
    try:
        return int(table["CPU implementer"], 16), int(table["CPU part"], 16)
    except (KeyError, ValueError):
        return None
