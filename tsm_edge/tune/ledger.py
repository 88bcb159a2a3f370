"""The file of records while it grows: a line a trial, appended and synced at once; one tuner has it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tsm_edge.compile.records import Record, read_records
from tsm_edge.errors import TuneError
from tsm_edge.files.atomic import make_folders, remove_folders, write_atomic

_ANOTHER = "choose another file: -o FILE"


class Ledger:
    """An open file of records. It is a context manager, and leaving it closes it.

    Parameters
    ----------
    path : Path
    go_on : bool
        Whether records that are there are wanted; without, there must be none.

    Attributes
    ----------
    records : list of Record
        What the file has, in its order.

    Raises
    ------
    TuneError
        It has records and nobody said to go on, another tuner has it, or it cannot be written.
    """

    def __init__(self, path: Path, go_on: bool) -> None:
        self.path = path
        self._made: list[Path] = []
        self._file = self._locked()
        try:
            self.records = self._whole_records(go_on)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others have it; a file in which nothing came to stand goes."""
        if not os.fstat(self._file.fileno()).st_size:
            self.path.unlink(missing_ok=True)
            remove_folders(self._made)
        self._file.close()

    def append(self, records: Iterable[Record]) -> None:
        """Add records; when this returns, they are on the disk."""
        added = list(records)
        text = "".join(f"{record.line()}\n" for record in added).encode("utf-8")
        try:
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TuneError(
                f"{self.path}: cannot be written ({error.strerror})", "make room, then go on with: --continue"
            ) from None
        self.records += added

    def finish(self) -> None:
        """Sort the file, so that two of them can be compared: by kernel, the accepted record last."""
        self._replace(sorted(self.records, key=lambda found: (found.layers, found.key, found.accepted, found.line())))

    def _locked(self) -> BinaryIO:
        """Open for appending, and locked: the file that has this name, not one that was replaced meanwhile."""
        while True:
            try:
                self._made += make_folders(self.path.parent)
                file = self.path.open("ab")
            except OSError as error:
                raise TuneError(f"{self.path}: cannot be written ({error.strerror})", _ANOTHER) from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    return file
            except OSError:
                file.close()
                raise TuneError(f"{self.path}: another tsm-edge tune has it", f"wait for it, or {_ANOTHER}") from None
            file.close()

    def _replace(self, records: list[Record]) -> None:
        write_atomic(self.path, "".join(f"{record.line()}\n" for record in records).encode("utf-8"))
        self._file.close()
        self._file = self._locked()

    def _whole_records(self, go_on: bool) -> list[Record]:
        """What is there; the last line goes where a tuner that was killed has left half of it."""
        if not self.path.stat().st_size:
            return []
        found = read_records(self.path)
        if found.records and not go_on:
            raise TuneError(
                f"{self.path}: has {len(found.records)} records already", "go on with --continue, or choose: -o FILE"
            )
        if found.damaged:
            self._replace(list(found.records))
        return list(found.records)
