"""What every command prints with: tables, JSON, notes on stderr, a spinner. Only presentation, no logic."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Protocol, TypeVar

import click

from tsm_edge.cli.streams import print_to_stderr
from tsm_edge.cli.table import Table
from tsm_edge.errors import shortened
from tsm_edge.redact import redacted

_F = TypeVar("_F", bound=Callable[..., Any])


def json_option(command: _F) -> _F:
    """Give a click command the flag ``--json``, received as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], optional: Sequence[str] = ()
) -> None:
    """Print an aligned table to stdout, fitted to the window on a terminal.

    A table too wide for the window has its widest column wrapped. Where that leaves too little, optional columns are
    left out, and named below; where there are none, it is printed as one block a row.

    Parameters
    ----------
    title : str
        Printed above; empty for none.
    columns : sequence of str
        Headings, with the unit of a column of numbers (``"step (ms)"``).
    rows : iterable of sequences
        One cell a column. Cells are shown by ``str``; a column of numbers only is aligned to the right; None is
        shown as ``-``. No cell is ever cut; in a pipe or file none is wrapped and none left out.
    optional : sequence of str
        Headings of columns that a narrow window can do without, the least important first.

    Raises
    ------
    ValueError
        A row has not as many cells as there are columns.
    """
    table = Table.of(columns, rows)
    lines = table.fitted(shutil.get_terminal_size().columns, optional) if sys.stdout.isatty() else table.plain()
    click.echo("\n".join([title, *lines] if title else lines))


def print_entry(mark: str, text: str) -> None:
    """Print a text with a mark before it to stdout; on a terminal it is wrapped under itself at the window's width."""
    head = f"{mark}  "
    if not sys.stdout.isatty():
        click.echo(head + text)
        return
    width = max(len(head) + 20, shutil.get_terminal_size().columns)
    indent = " " * len(head)
    click.echo(textwrap.fill(text, width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False))


def print_text(text: str) -> None:
    """Print a line of prose to stdout; on a terminal it is wrapped at the window's width."""
    if sys.stdout.isatty():
        text = textwrap.fill(text, max(20, shutil.get_terminal_size().columns), break_on_hyphens=False)
    click.echo(text)


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

    Where stderr is not a terminal, only texts with a share are shown: a line each, and of those that differ by
    figures alone one in ten seconds.

    Yields
    ------
    callable
        Call it with another text, and the share of the work that is done, where it is known.
    """
    if not sys.stderr.isatty():
        yield _StageLines()
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(redacted(text))) as spinner:
        yield lambda new, done=None: spinner.update(escape(_with_share(new, done)))


class Advance(Protocol):
    """Says that one more of many things is done."""

    def __call__(self, text: str, /) -> None:
        """Show a text beside the bar: what was done."""


# Where there is no terminal: seconds between two lines.
_BETWEEN_LINES_S = 10.0


@contextlib.contextmanager
def progress_bar(text: str, total: int, alone: bool) -> Iterator[Advance]:
    """Show on stderr how many of ``total`` things are done, and when the rest may be.

    On a terminal it is a bar, if what is printed meanwhile goes elsewhere (``alone``, or stdout is no terminal); else a
    line now and then.

    Yields
    ------
    callable
        Call it as each is done.
    """
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not alone):
        yield _Lines(text, total, sys.stderr.isatty())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(text, total=total)
        yield lambda done: bars.update(task, advance=1, description=f"{text} {escape(shortened(redacted(done)))}")


class _Lines:
    """Progress as lines, not many of them; none on a terminal that shows the results themselves."""

    def __init__(self, text: str, total: int, silent: bool) -> None:
        self._text, self._total, self._silent = text, total, silent
        self._done, self._told_s = 0, time.monotonic()

    def __call__(self, text: str, /) -> None:
        self._done += 1
        if not self._silent and time.monotonic() - self._told_s > _BETWEEN_LINES_S:
            self._told_s = time.monotonic()
            note(_with_share(f"{self._text}: {self._done} of {self._total}", self._done / self._total))


class _StageLines:
    """Stages as lines: a new one at once, and now and then what differs from the last line by figures alone."""

    def __init__(self) -> None:
        self._words, self._told_s = "", 0.0

    def __call__(self, text: str, done: float | None = None, /) -> None:
        if done is None:
            return
        words, now_s = re.sub(r"[\d.]+", "", text), time.monotonic()
        if words != self._words or now_s - self._told_s > _BETWEEN_LINES_S:
            self._words, self._told_s = words, now_s
            note(_with_share(text, done))


def _with_share(text: str, done: float | None) -> str:
    return redacted(text) if done is None else f"[{round(100 * done):3d} %] {redacted(text)}"
