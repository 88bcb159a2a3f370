"""A line of a file of tuning records: JSON that ends with a checksum of itself: half a line is known as such."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT = 1
_SUM = "sum"


def sealed(table: Mapping[str, Any]) -> str:
    """A table as a line."""
    text = json.dumps({"format": FORMAT, **table}, sort_keys=True, ensure_ascii=False)
    return f'{text[:-1]}, "{_SUM}": "{hashed(text)}"}}'


def opened(line: str) -> dict[str, Any]:
    """The inverse of :func:`sealed`.

    Raises
    ------
    ValueError
        It is no such line, was cut off, or is of another format.
    """
    text, separator, end = line.rpartition(f', "{_SUM}": "')
    if not separator or end != f'{hashed(text + "}")}"}}':
        raise ValueError("its checksum is not that of its content")
    table: dict[str, Any] = json.loads(text + "}")
    if table.pop("format") != FORMAT:
        raise ValueError("it is of another format")
    return table


def hashed(value: object) -> str:
    """16 hexadecimal digits that tell values apart."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ratio_from(value: Any) -> tuple[float, float, float] | None:
    """A ratio: median, and its 95 % interval; None: there is none.

    Raises
    ------
    TypeError, ValueError, IndexError
        It is something else.
    """
    return None if value is None else (float(value[0]), float(value[1]), float(value[2]))
