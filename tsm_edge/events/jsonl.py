"""Events as lines of a file, one JSON object each (JSON Lines)."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from tsm_edge.errors import EventError
from tsm_edge.events.outbox import Letter
from tsm_edge.files.atomic import append_whole


class JsonLines:
    """A file that grows by a line an event. Each line is on the disk before the next is written.

    A line is whole or not there: what a full disk cut off is taken back, and what a power cut left of one is closed by
    a line end. A file that was moved away or deleted (log rotation) is begun anew.

    Parameters
    ----------
    path : Path

    Raises
    ------
    EventError
        It cannot be written, or is no regular file.
    """

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.parent.is_dir():
            raise EventError(
                f"events file {path}: the folder {path.parent} does not exist",
                f"try: mkdir -p {shlex.quote(str(path.parent))}",
            )
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise EventError(
                f"events file {path}: cannot be written ({error.strerror})",
                "name another one with: --events FILE.jsonl",
            ) from None
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise EventError(f"events file {path}: is no file", "name another one with: --events FILE.jsonl")

    def deliver(self, letter: Letter) -> None:
        """Append a line.

        Raises
        ------
        OSError
            It could not be written, all of it.
        """
        if self._was_moved():
            os.close(self._descriptor)
            self._descriptor = -1
        if self._descriptor < 0:
            self._descriptor = self._open()
        append_whole(self._descriptor, f"{letter.body}\n".encode())

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _was_moved(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(self._descriptor))

    def _open(self) -> int:
        # O_NONBLOCK: a named pipe without a reader is refused instead of waited for.
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
        return descriptor
