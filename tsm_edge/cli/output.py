"""What every command prints with: tables, JSON, notes on stderr, a spinner. Only presentation, no logic."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Protocol, TypeVar

import click

from tsm_edge.cli.streams import print_to_stderr
from tsm_edge.redact import redacted

_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(command: _F) -> _F:
    """Give a click command the flag ``--json``, received as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print an aligned table to stdout, fitted to the window on a terminal.

    A table too wide for the window has its widest column wrapped, or, where that leaves too little, is printed as one
    block a row.

    Parameters
    ----------
    title : str
        Printed above; empty for none.
    columns : sequence of str
        Headings, with the unit of a column of numbers (``"step (ms)"``).
    rows : iterable of sequences
        One cell a column. Cells are shown by ``str``; a column of numbers only is aligned to the right; None is
        shown as ``-``. No cell is ever cut; in a pipe or file none is wrapped.

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
    layout = _Layout(list(columns), [["-" if cell is None else str(cell) for cell in row] for row in table], numeric)
    lines = layout.fitted(shutil.get_terminal_size().columns) if sys.stdout.isatty() else layout.plain()
    click.echo("\n".join([title, *lines] if title else lines))


def print_json(obj: object) -> None:
    """Print an object as indented JSON to stdout (see :func:`to_plain` for what it may contain)."""
    click.echo(_json(obj, indent=2))


def print_json_line(obj: object) -> None:
    """Print an object as one line of JSON and flush it, for output that goes on and on (JSON Lines)."""
    click.echo(_json(obj))
    sys.stdout.flush()


def _json(obj: object, indent: int | None = None) -> str:
    """JSON; as escapes what stdout cannot show, and the odd bytes of a file name that is no text."""
    plain = to_plain(obj)
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(plain, indent=indent, allow_nan=False)
    return text


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
    print_to_stderr(redacted(text))


def warn(text: str) -> None:
    """Print a warning line to stderr (in yellow on a terminal, unless NO_COLOR is set)."""
    color = False if os.environ.get("NO_COLOR") else None  # None: only on a terminal
    print_to_stderr(click.style(f"warning: {redacted(text)}", fg="yellow"), color=color)


class Show(Protocol):
    """Tells a person what is being done."""

    def __call__(self, text: str, done: float | None = None, /) -> None:
        """Show a text; ``done``: the share of the work that lies behind it, 0 to 1."""


@contextlib.contextmanager
def status(text: str) -> Iterator[Show]:
    """Show a spinner with a text on stderr while something takes long.

    Where stderr is not a terminal, only texts with a share are shown: a line each.

    Yields
    ------
    callable
        Call it with another text, and the share of the work that is done, where it is known.
    """
    if not sys.stderr.isatty():
        yield _line
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(redacted(text))) as spinner:
        yield lambda new, done=None: spinner.update(escape(_with_share(new, done)))


def _line(text: str, done: float | None = None) -> None:
    if done is not None:
        note(_with_share(text, done))


def _with_share(text: str, done: float | None) -> str:
    return redacted(text) if done is None else f"[{round(100 * done):3d} %] {redacted(text)}"


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The text of a table's cells, and the ways to lay them out as lines."""

    columns: list[str]
    rows: list[list[str]]
    numeric: list[bool]

    def plain(self) -> list[str]:
        widths = self._widths()
        return [self._line(row, widths) for row in (self.columns, *self.rows)]

    def fitted(self, window: int) -> list[str]:
        widths = self._widths()
        widest = widths.index(max(widths))
        widths[widest] = min(widths[widest], window - sum(widths) - len(_GAP) * (len(widths) - 1) + widths[widest])
        if widths[widest] < min(_NARROWEST, max(self._widths())):
            return self._blocks()
        lines = [click.style(self._line(self.columns, widths), bold=True)]
        for row in self.rows:
            for part, text in enumerate(textwrap.wrap(row[widest], widths[widest]) or [""]):
                cells = row if part == 0 else [""] * len(row)
                lines.append(self._line([*cells[:widest], text, *cells[widest + 1 :]], widths))
        return lines

    def _blocks(self) -> list[str]:
        lines = []
        width = max(map(_width, self.columns))
        for first, *rest in self.rows:
            lines.append(click.style(first, bold=True))
            lines += [
                f"  {_pad(name, width, False)}  {cell}" for name, cell in zip(self.columns[1:], rest, strict=True)
            ]
        return lines

    def _widths(self) -> list[int]:
        return [max(_width(row[index]) for row in (self.columns, *self.rows)) for index in range(len(self.columns))]

    def _line(self, cells: list[str], widths: list[int]) -> str:
        return _GAP.join(map(_pad, cells, widths, self.numeric)).rstrip()


_GAP = "  "
_NARROWEST = 24  # characters a line of wrapped text needs to be readable


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space


def _width(text: str) -> int:
    """Columns a text takes on a terminal (East Asian wide characters take two, combining ones none)."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
