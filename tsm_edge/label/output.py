"""The file of labels while it grows: a line a video, on the disk before the next; a run that was killed goes on in it.

Its first line says what labels: networks, weights, sampling. A run with other settings does not go on in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from tsm_edge.errors import VideoError, shortened
from tsm_edge.files.atomic import append_whole, make_folders, remove_folders, sync_folder

_ANOTHER = "choose another file: -o FILE.jsonl"
_FIRST = b'{"type": "settings"'
_LARGEST = 1 << 30


@dataclass(frozen=True)
class Done:
    """What a file of labels says of a video.

    Attributes
    ----------
    labelled : bool
        False: it could not be.
    bytes : int or None
        Its size then: another file may have its name by now. None: of a folder, or not known.
    """

    labelled: bool
    bytes: int | None


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
    done : dict of str to Done
        Videos that the file has; of several lines the last counts.

    Raises
    ------
    VideoError
        It cannot be written, is another run's, or something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._made: list[Path] = []
        self._file, new = self._opened()
        mine = False
        try:
            self._lock()
            mine = new
            self.done = self._read(dict(settings))
        except BaseException:
            if mine:  # no other run has begun to write it
                self._remove_empty()
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

    def _opened(self) -> tuple[BinaryIO, bool]:
        """The file, and whether it was not there before."""
        # O_NONBLOCK: a pipe without a reader is refused instead of waited for.
        flags, new = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, True
        try:
            self._made = make_folders(self._path.parent)
            try:
                descriptor = os.open(self._path, flags | os.O_EXCL, 0o644)
            except FileExistsError:
                descriptor, new = os.open(self._path, flags, 0o644), False
        except OSError as error:
            remove_folders(self._made)
            raise VideoError(f"{self._path}: cannot be written ({error.strerror})", _ANOTHER) from None
        return os.fdopen(descriptor, "r+b", buffering=0), new

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise VideoError(f"{self._path}: is no file", _ANOTHER)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VideoError(f"{self._path}: another run writes it", f"wait for it, or {_ANOTHER}") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):  # a file system without locks
                raise

    def _remove_empty(self) -> None:
        """Nothing of a file is left that could not be begun."""
        with contextlib.suppress(OSError):
            if not os.fstat(self._file.fileno()).st_size:
                self._path.unlink()
                remove_folders(self._made)

    def _read(self, settings: dict[str, Any]) -> dict[str, Done]:
        """What is there; half a line at the end, which a killed run has left, goes."""
        size = os.fstat(self._file.fileno()).st_size
        if size > _LARGEST:
            raise VideoError(f"{self._path}: has more than {_LARGEST >> 20} MiB, expected labels", _ANOTHER)
        data = os.pread(self._file.fileno(), size, 0)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and data[: len(_FIRST)] == _FIRST[: len(data)]:  # new, or killed in its first line
            os.ftruncate(self._file.fileno(), 0)
            self.append({"type": "settings", **settings})
            sync_folder(self._path.parent)
            return {}
        lines = [_parsed(line) for line in whole.splitlines()]
        if not lines or lines[0].get("type") != "settings":
            raise VideoError(f"{self._path}: is no file of labels", _ANOTHER)
        found = {name: value for name, value in lines[0].items() if name != "type"}
        if other := _difference(found, settings):
            name, before, now = other
            raise VideoError(
                f"{self._path}: was begun with {name} {shortened(str(before))}, not {shortened(str(now))}",
                f"give the same settings to go on with it, or {_ANOTHER}",
            )
        if len(whole) < len(data):
            os.ftruncate(self._file.fileno(), len(whole))
        return {str(line["video"]): _done(line) for line in lines if "video" in line}


def _done(line: Mapping[str, Any]) -> Done:
    size = line.get("bytes")
    return Done("error" not in line, size if isinstance(size, int) else None)


def _difference(before: Any, now: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The first setting that differs: its name and both values; None: all are the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(key, before.get(key), now.get(key)) for key in sorted({*before, *now})]
    elif isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"number of {name}", len(before), len(now)
        pairs = [(number, *pair) for number, pair in enumerate(zip(before, now, strict=True), 1)]
    else:
        return None if before == now else (name, before, now)
    found = (_difference(one, other, f"{name} {key}".strip()) for key, one, other in pairs)
    return next((difference for difference in found if difference), None)


def _parsed(line: bytes) -> dict[str, Any]:
    """A line as a table; empty where it is none."""
    try:
        table = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
