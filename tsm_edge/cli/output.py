"""What every command prints with: tables, JSON, notes on stderr, a spinner. Only presentation, no logic."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import PurePath
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(command: _F) -> _F:
    """Give a click command the flag ``--json``, received as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to stdout: framed and fitted to the window on a terminal, aligned plain text in a pipe or file.

    Parameters
    ----------
    title : str
        Printed above; empty for none.
    columns : sequence of str
        Headings, with the unit of a column of numbers (``"step (ms)"``).
    rows : iterable of sequences
        One cell a column. Cells are shown by ``str``; a column of numbers only is aligned to the right; None is
        shown as ``-``. In a pipe no cell is ever cut or wrapped.

    Raises
    ------
    ValueError
        A row has not as many cells as there are columns.
    """
    table = [list(row) for row in rows]
    for row in table:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(columns)} columns: {row!r}")
    numeric = [bool(table) and all(_is_number(row[index]) for row in table) for index in range(len(columns))]
    texts = [["-" if cell is None else str(cell) for cell in row] for row in table]
    if sys.stdout.isatty():
        _print_framed(title, columns, texts, numeric)
    else:
        click.echo(_plain_table(title, columns, texts, numeric))


def print_json(obj: object) -> None:
    """Print an object as indented JSON to stdout (see :func:`to_plain` for what it may contain)."""
    click.echo(json.dumps(to_plain(obj), indent=2, ensure_ascii=False, allow_nan=False))


def print_json_line(obj: object) -> None:
    """Print an object as one line of JSON and flush it, for output that goes on and on (JSON Lines)."""
    click.echo(json.dumps(to_plain(obj), ensure_ascii=False, allow_nan=False))
    sys.stdout.flush()


def to_plain(obj: object) -> Any:
    """Turn dataclasses, fractions, paths, NumPy scalars and arrays into what JSON knows; NaN and infinity into null.

    Raises
    ------
    TypeError
        There is something else in it.
    """
    if obj is None or isinstance(obj, (bool, int, str)):
        return obj
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, (Fraction, PurePath)):
        return str(obj)
    if isinstance(obj, Mapping):
        return {str(key): to_plain(value) for key, value in obj.items()}
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {item.name: to_plain(getattr(obj, item.name)) for item in dataclasses.fields(obj)}
    if isinstance(obj, (list, tuple, set, frozenset)):
        return [to_plain(entry) for entry in obj]
    if hasattr(obj, "tolist"):  # NumPy, recognised without importing it
        return to_plain(obj.tolist())
    raise TypeError(f"{type(obj).__name__} cannot be printed as JSON")


def note(text: str) -> None:
    """Print a line for the person at the terminal to stderr, so that stdout stays what was asked for."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    """Print a warning line to stderr (in yellow on a terminal, unless NO_COLOR is set)."""
    color = False if os.environ.get("NO_COLOR") else None  # None: only on a terminal
    click.echo(click.style(f"warning: {text}", fg="yellow"), err=True, color=color)


@contextlib.contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with a text on stderr while something takes long; silent where stderr is not a terminal.

    Yields
    ------
    callable
        Call it with another text to replace the one shown.
    """
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(text)) as spinner:
        yield lambda new: spinner.update(escape(new))


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _print_framed(title: str, columns: Sequence[str], rows: list[list[str]], numeric: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets in a cell are not markup
    Console().print(table)


def _plain_table(title: str, columns: Sequence[str], rows: list[list[str]], numeric: list[bool]) -> str:
    lines = [list(columns), *rows]
    widths = [max(_width(line[index]) for line in lines) for index in range(len(columns))]
    text = ["  ".join(map(_pad, line, widths, numeric)).rstrip() for line in lines]
    return "\n".join([title, *text] if title else text)


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space


def _width(text: str) -> int:
    """Columns a text takes on a terminal (East Asian wide characters take two, combining ones none)."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
