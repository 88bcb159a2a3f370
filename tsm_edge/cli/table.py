"""How the cells of a table become lines: plain, or fitted to a window."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import click

_GAP = "  "
_NARROWEST = 24  # characters a line of wrapped text needs to be readable


@dataclass(frozen=True)
class Table:
    """The text of a table's cells, and the ways to lay them out as lines.

    Attributes
    ----------
    columns : tuple of str
        Headings.
    rows : tuple of tuple of str
    numeric : tuple of bool
        For each column: only numbers, aligned to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]

    @classmethod
    def of(cls, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
        """The table of some cells, each shown by ``str``, None as ``-``.

        Raises
        ------
        ValueError
            A row has not as many cells as there are columns.
        """
        table = [tuple(row) for row in rows]
        for row in table:
            if len(row) != len(columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(columns)} columns: {row!r}")
        numeric = (bool(table) and all(_is_number(row[index]) for row in table) for index in range(len(columns)))
        texts = (tuple("-" if cell is None else str(cell) for cell in row) for row in table)
        return cls(tuple(columns), tuple(texts), tuple(numeric))

    def plain(self) -> list[str]:
        """A line a row, as wide as it takes."""
        widths = self._widths()
        return [self._line(row, widths) for row in (self.columns, *self.rows)]

    def fitted(self, window: int, optional: Sequence[str] = ()) -> list[str]:
        """Lines no wider than ``window``: the widest column wrapped, then columns left out, else a block a row."""
        for count in range(len(optional) + 1):
            table = self._without(optional[:count])
            widths = table._widths_within(window)
            if widths:
                left_out = f"(no room for {', '.join(optional[:count])}: widen the window)" if count else ""
                return [*table._wrapped(widths), *_wrap(left_out, window)]
        return self._blocks()

    def _without(self, names: Collection[str]) -> Table:
        kept = [index for index, name in enumerate(self.columns) if name not in names]
        return Table(
            tuple(self.columns[index] for index in kept),
            tuple(tuple(row[index] for index in kept) for row in self.rows),
            tuple(self.numeric[index] for index in kept),
        )

    def _widths_within(self, window: int) -> list[int]:
        """The widths of the columns with the widest one made narrower; empty where that leaves too little."""
        widths, widest = self._widths(), self._widest()
        wanted = widths[widest]
        widths[widest] = min(wanted, window - sum(widths) - len(_GAP) * (len(widths) - 1) + wanted)
        return widths if widths[widest] >= min(_NARROWEST, wanted) else []

    def _wrapped(self, widths: list[int]) -> list[str]:
        lines = [click.style(self._line(self.columns, widths), bold=True)]
        widest = self._widest()
        for row in self.rows:
            for part, text in enumerate(_wrap(row[widest], widths[widest]) or [""]):
                cells = row if part == 0 else ("",) * len(row)
                lines.append(self._line((*cells[:widest], text, *cells[widest + 1 :]), widths))
        return lines

    def _blocks(self) -> list[str]:
        lines = []
        width = max(map(_width, self.columns))
        for first, *rest in self.rows:
            lines.append(click.style(first, bold=True))
            lines += [
                f"  {_pad(name, width, False)}  {cell.strip()}"
                for name, cell in zip(self.columns[1:], rest, strict=True)
            ]
        return lines

    def _widths(self) -> list[int]:
        return [max(_width(row[index]) for row in (self.columns, *self.rows)) for index in range(len(self.columns))]

    def _widest(self) -> int:
        widths = self._widths()
        return widths.index(max(widths))

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        return _GAP.join(map(_pad, cells, widths, self.numeric)).rstrip()


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space


def _width(text: str) -> int:
    """Columns a text takes on a terminal (East Asian wide characters take two, combining ones none)."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
