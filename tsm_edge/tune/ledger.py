"""The file of records while it grows: a line a trial, appended and synced at once; one tuner has it."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tsm_edge.compile.records import Record, RecordFile, read_records
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.errors import TuneError
from tsm_edge.files.atomic import make_folders, remove_folders
from tsm_edge.tune.record_sets import merged, write_records

_FIRST = b'{"about": {'
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
        Of kernels: what the file has, in its order.
    threads : list of ThreadRecord

    Raises
    ------
    TuneError
        It has records and nobody said to go on, another tuner has it, or it cannot be written.
    """

    def __init__(self, path: Path, go_on: bool) -> None:
        self.path = path
        self._made: list[Path] = []
        self._one_at_a_time = threading.Lock()
        self._file = self._locked()
        try:
            found = self._whole_records(go_on)
            self.records, self.threads = list(found.records), list(found.threads)
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

    def append(self, record: Record) -> None:
        """Add a record; when this returns, it is on the disk. Several threads may."""
        with self._one_at_a_time:
            try:
                self._file.write(f"{record.line()}\n".encode())
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise _not_written(self.path, error) from None
            self.records.append(record)

    def finish(self, accepted: Sequence[Record] = (), threads: Sequence[ThreadRecord] = ()) -> None:
        """Write the file anew: a line a candidate, then what is accepted, sorted, so that two files can be compared.

        Parameters
        ----------
        accepted : sequence of Record
            What is accepted from now on; it takes the place of earlier ones for the same kernels.
        threads : sequence of ThreadRecord
            The same for networks.
        """
        self.replace(merged([self.content, RecordFile(tuple(accepted), tuple(threads), ())]))

    @property
    def content(self) -> RecordFile:
        """All it has."""
        return RecordFile(tuple(self.records), tuple(self.threads), ())

    def replace(self, found: RecordFile) -> None:
        """Have these records, and no others."""
        self._replace(found)
        self.records, self.threads = list(found.records), list(found.threads)

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

    def _replace(self, found: RecordFile) -> None:
        try:
            write_records(self.path, found)
        except OSError as error:
            raise _not_written(self.path, error) from None
        self._file.close()
        self._file = self._locked()

    def _whole_records(self, go_on: bool) -> RecordFile:
        """What is there; the last line goes where a tuner that was killed has left half of it."""
        if not self.path.stat().st_size:
            return RecordFile((), (), ())
        if go_on and _is_begun(self.path):
            os.truncate(self.path, 0)
            return RecordFile((), (), ())
        found = read_records(self.path)
        count = len(found.records) + len(found.threads)
        if count and not go_on:
            raise TuneError(f"{self.path}: has {count} records already", "go on with --continue, or choose: -o FILE")
        if found.damaged:
            self._replace(found)
        return found


def _is_begun(path: Path) -> bool:
    """Whether there is nothing but the beginning of a first record."""
    with path.open("rb") as file:
        begun = file.read(1 << 16)
    return b"\n" not in begun and begun[: len(_FIRST)] == _FIRST[: len(begun)]


def _not_written(path: Path, error: OSError) -> TuneError:
    return TuneError(f"{path}: cannot be written ({error.strerror})", "make room, then go on with: --continue")
