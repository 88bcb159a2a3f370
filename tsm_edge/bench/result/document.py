"""A whole file of results, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsm_edge.bench.result.whole import Result
from tsm_edge.cards.tables import Place, from_table, shown
from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import write_atomic

SCHEMA = "tsm-edge-bench/1"
_HINT = "write one with: tsm-edge bench --json FILE"
_LARGEST_FILE = 1 << 28  # bytes


@dataclass(frozen=True)
class Document:
    """A whole file: results measured side by side.

    Attributes
    ----------
    schema : str
        :data:`SCHEMA`.
    tsm_edge : str
        The version that wrote it.
    results : tuple of Result
    """

    schema: str
    tsm_edge: str
    results: tuple[Result, ...]


def to_json(document: Document) -> dict[str, Any]:
    """The document as JSON has it."""
    return dataclasses.asdict(document)


def from_json(table: Any, where: str) -> Document:
    """Check a JSON value and make a document of it; ``where`` names it in errors.

    Raises
    ------
    ArtifactError
        It is of another schema, or a key is missing, unknown or of the wrong type.
    """
    schema = table.get("schema") if isinstance(table, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(f"{where}: schema is {shown(schema)}, expected {SCHEMA!r}", _HINT)
    return from_table(Document, table, Place(where, ArtifactError, _HINT))


def read_document(path: Path) -> Document:
    """Read a file that ``--json FILE`` wrote.

    Raises
    ------
    ArtifactError
        It is missing, or no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", _HINT) from None
    try:
        table = json.loads(data)
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path} is not JSON", _HINT) from None
    return from_json(table, str(path))


def write_document(document: Document, path: Path) -> None:
    """Write what :func:`read_document` reads, whole or not at all.

    Raises
    ------
    OSError
        It cannot be written.
    """
    write_atomic(path, json.dumps(to_json(document), indent=1, allow_nan=False).encode())
