"""Files: texts that a person edits, and writing so that a reader, or an interrupted run, never sees half of one."""

from __future__ import annotations

import codecs
import os
import shlex
from pathlib import Path

from tsm_edge.errors import TextFileError

_LARGEST_TEXT = 16 << 20


def read_text(path: Path) -> str:
    """Read a text that a person edits: UTF-8, with or without the byte order mark that some editors put before it.

    The mark is left out and every line end is a newline.

    Raises
    ------
    TextFileError
        It cannot be opened, has more than 16 MiB, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_TEXT + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TextFileError(f"{path}: cannot be read ({reason})", "check the name and its permissions") from None
    if len(data) > _LARGEST_TEXT:
        raise TextFileError(f"{path}: has more than 16 MiB, expected a text", "check the name")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TextFileError(
            f"{path}: is UTF-16, expected UTF-8", f"convert it: iconv -f UTF-16 -t UTF-8 {shlex.quote(str(path))}"
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextFileError(
            f"{path}: is not UTF-8 (byte 0x{data[error.start]:02x} in line {line})", "save it as UTF-8 in your editor"
        ) from None


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` under a temporary name beside ``path`` and rename it; missing folders are made.

    Raises
    ------
    OSError
        As from :func:`open` and :func:`os.replace`; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
