"""The file of labels while it grows: a line a video, on the disk before the next; a run that was killed goes on in it.

Its first line says what labels: networks, weights, sampling. A run with other settings does not go on in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from tsm_edge.errors import VideoError
from tsm_edge.files.atomic import append_whole, make_folders, remove_folders

_ANOTHER = "choose another file: -o FILE.jsonl"
_FIRST = b'{"type": "settings"'
_LARGEST = 1 << 30


class LabelFile:
    """An open file of labels. It is a context manager, and leaving it closes it.

    Parameters
    ----------
    path : Path
        New, or of a run with the same settings.
    settings : mapping
        What labels, as JSON knows it.

    Attributes
    ----------
    done : dict of str to bool
        Videos that the file has, and whether each was labelled; of several lines the last counts.

    Raises
    ------
    VideoError
        It cannot be written, is another run's, or something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._made: list[Path] = []
        self._file = self._locked()
        try:
            self.done = self._read(dict(settings))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> LabelFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, whole or not at all; when this returns, it is on the disk.

        Raises
        ------
        VideoError
            It cannot be written.
        """
        text = f"{json.dumps(line, ensure_ascii=False, allow_nan=False)}\n".encode("utf-8", "backslashreplace")
        try:
            append_whole(self._file.fileno(), text)
        except OSError as error:
            raise VideoError(
                f"{self._path}: cannot be written ({error.strerror or error})",
                "make room, then give the same command again",
            ) from None

    def _locked(self) -> BinaryIO:
        try:
            self._made = make_folders(self._path.parent)
            # O_NONBLOCK: a pipe without a reader is refused instead of waited for.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            file = os.fdopen(os.open(self._path, flags, 0o644), "r+b", buffering=0)
        except OSError as error:
            remove_folders(self._made)
            raise VideoError(f"{self._path}: cannot be written ({error.strerror})", _ANOTHER) from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise VideoError(f"{self._path}: is no file", _ANOTHER)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise VideoError(f"{self._path}: another run writes it", f"wait for it, or {_ANOTHER}") from None
        return file

    def _read(self, settings: dict[str, Any]) -> dict[str, bool]:
        """What is there; half a line at the end, which a killed run has left, goes."""
        size = os.fstat(self._file.fileno()).st_size
        if size > _LARGEST:
            raise VideoError(f"{self._path}: has more than {_LARGEST >> 20} MiB, expected labels", _ANOTHER)
        data = os.pread(self._file.fileno(), size, 0)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and (not data or data.startswith(_FIRST)):  # new, or killed in its first line
            os.ftruncate(self._file.fileno(), 0)
            self.append({"type": "settings", **settings})
            return {}
        lines = [_parsed(line) for line in whole.splitlines()]
        if not lines or lines[0].get("type") != "settings":
            raise VideoError(f"{self._path}: is no file of labels", _ANOTHER)
        found = {name: value for name, value in lines[0].items() if name != "type"}
        differing = sorted(name for name in {*found, *settings} if found.get(name) != settings.get(name))
        if differing:
            name = differing[0]
            raise VideoError(
                f"{self._path}: was begun with {name} {found.get(name)}, not {settings.get(name)}",
                f"give the same settings to go on with it, or {_ANOTHER}",
            )
        if len(whole) < len(data):
            os.ftruncate(self._file.fileno(), len(whole))
        return {str(line["video"]): "error" not in line for line in lines if "video" in line}


def _parsed(line: bytes) -> dict[str, Any]:
    """A line as a table; empty where it is none."""
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
