"""Plain tables, as TOML and JSON give them, into the frozen dataclasses they stand for: every key and type is checked.

A dataclass's annotations are its format: text, whole numbers, numbers, ``true``/``false``, fractions, choices
(``Literal``), lists of one kind (``tuple[int, ...]``, ``tuple[int, int]``), one value or a list of them
(``int | tuple[int, int]``), tables within tables, and what may be left out (``… | None``).
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from dataclasses import dataclass
from fractions import Fraction
from types import UnionType
from typing import Any, Literal, TypeVar

from tsm_edge.errors import TsmEdgeError, unknown_name

_Table = TypeVar("_Table")
_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Place:
    """Where a value stands, for the errors about it.

    Attributes
    ----------
    where : str
        The file, then the keys that lead to the value.
    kind : type of TsmEdgeError
        What is raised.
    hint : str
        What to do about a key or type that is wrong.
    """

    where: str
    kind: type[TsmEdgeError]
    hint: str

    def at(self, key: str) -> Place:
        """The place of a value within this one."""
        return dataclasses.replace(self, where=self.where + key)

    def error(self, problem: str) -> TsmEdgeError:
        """The error that this place has ``problem``."""
        return self.kind(f"{self.where}{problem}", self.hint)


def from_table(cls: type[_Table], table: Any, place: Place) -> _Table:
    """Make a dataclass of a table.

    Raises
    ------
    TsmEdgeError
        Of ``place``'s kind: unknown or missing keys, wrong types, or what the dataclass itself refuses.
    """
    if not isinstance(table, dict):
        raise place.error(f": expected a table, found {shown(table)}")
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise place.error(f": {unknown_name('key', key, fields)}")
    hints = typing.get_type_hints(cls)
    values = {key: _convert(value, hints[key], place.at(f": {key}")) for key, value in table.items()}
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise place.error(f": key {name!r} is missing")
    try:
        return cls(**values)
    except place.kind as error:
        raise place.kind(f"{place.where}: {error.problem}", error.hint) from None


def shown(value: object) -> str:
    """Return a value as an error message shows it: short, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def _convert(value: Any, hint: Any, place: Place) -> Any:
    """Check one value against a field's annotation and convert it."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return from_table(typing.cast(type, hint), value, place)
    if origin is Literal:
        return _choice(value, typing.get_args(hint), place)
    if origin is UnionType and type(None) in typing.get_args(hint):
        (kind,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        return None if value is None else _convert(value, kind, place)
    if origin is UnionType:
        listed = isinstance(value, (list, tuple))
        return next(
            _convert(value, kind, place)
            for kind in typing.get_args(hint)
            if (typing.get_origin(kind) is tuple) == listed
        )
    if origin is tuple:
        inner, *others = typing.get_args(hint)
        length = None if others == [...] else 1 + len(others)
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            raise place.error(f" is {shown(value)}, expected a list{f' of {length}' if length else ''}")
        return tuple(_convert(entry, inner, place.at(f"[{index}]")) for index, entry in enumerate(value))
    if hint is Fraction:
        return _fraction(value, place)
    if hint is float:
        return _number(value, place)
    if type(value) is not hint:  # exactly: true is not a whole number
        raise place.error(f" is {shown(value)}, expected {_TYPE_NAMES[hint]}")
    if hint is int and not -(2**63) <= value < 2**63:  # later stages print it and do arithmetic with it
        raise place.error(f" is {shown(value)}, expected a whole number of 64 bits")
    return value


def _choice(value: Any, known: tuple[str, ...], place: Place) -> str:
    if not isinstance(value, str):
        raise place.error(f" is {shown(value)}, expected one of {', '.join(known)}")
    if value not in known:
        raise place.error(f": {unknown_name('value', value, known)}")
    return value


def _number(value: Any, place: Place) -> float:
    if type(value) not in (int, float):
        raise place.error(f" is {shown(value)}, expected {_TYPE_NAMES[float]}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise place.error(f" is {shown(value)}, expected a finite number")
    return number


def _fraction(value: Any, place: Place) -> Fraction:
    """Only what is written as a small one: ``Fraction`` itself would work out "1e999999999"."""
    text = value if isinstance(value, str) else shown(value) if type(value) is int else ""
    if not re.fullmatch(r"\d{1,4}(/[1-9]\d{0,3})?", text, re.ASCII):
        raise place.error(f' is {shown(value)}, expected a fraction such as "1/8"')
    return Fraction(text)
