"""Paths that come from outside: names that are no text, and outputs that are an input at the same time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from tsm_edge.errors import TsmEdgeError


def printable(name: str | Path) -> str:
    """A name as text that can be printed and stored anywhere: bytes of it that are no UTF-8 as ``\\xff``."""
    return re.sub("[\ud800-\udfff]", _escaped, str(name))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def native_path(path: str | Path) -> str:
    """A path for code that is not Python, which takes names as UTF-8 (decoders, ONNX Runtime, TVM, the linker).

    Raises
    ------
    TsmEdgeError
        The name, or that of a folder above, is not UTF-8: such code would crash, or look for another file.
    """
    text = str(path)
    try:
        same = os.fsencode(text) == text.encode("utf-8")
    except UnicodeEncodeError:
        same = False
    if not same:
        raise not_utf8(text)
    return text


def not_utf8(name: str) -> TsmEdgeError:
    """The error of a name that is not UTF-8."""
    return TsmEdgeError(f"'{printable(name)}': expected a name in UTF-8", "rename the file or folder that has it")


def refuse_replacing(output: Path, inputs: Iterable[Path | None], option: str) -> None:
    """Refuse a file to write that is one of the files that are read; links are followed.

    Parameters
    ----------
    output : Path
    inputs : iterable of Path or None
        None stands for an input that was not given; one that does not exist is passed over.
    option : str
        How to name another output: ``-o FILE.onnx``.

    Raises
    ------
    TsmEdgeError
        It is; nothing has been written.
    """
    for path in inputs:
        if path is not None and _same(output, path):
            raise TsmEdgeError(f"{output}: is also read, expected another file to write", f"name another: {option}")


def refuse_replacing_folder(output: Path, inputs: Iterable[Path | None], option: str) -> None:
    """Refuse a folder to write in which one of the files is that are read; as :func:`refuse_replacing`.

    Raises
    ------
    TsmEdgeError
        There is one in it; nothing has been written.
    """
    for path in inputs:
        if path is not None and any(_same(output, folder) for folder in Path(os.path.realpath(path)).parents):
            raise TsmEdgeError(
                f"{output}: {path} is in it and is read, expected another folder to write", f"name another: {option}"
            )


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False
