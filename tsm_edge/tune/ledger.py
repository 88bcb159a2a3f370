"""The file of records while it grows: a line a trial, appended and synced at once; one tuner has it."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tsm_edge.compile.records import Record, RecordFile, parse_line, read_records
from tsm_edge.compile.thread_record import ThreadRecord
from tsm_edge.errors import TuneError
from tsm_edge.files.atomic import append_whole, make_folders, remove_folders
from tsm_edge.tune.record_sets import merged, write_records

_FIRST, _LONGEST = b'{"about": {', 1 << 16
_ANOTHER = "choose another file: -o FILE"


class Ledger:
    """An open file of records. It is a context manager, and leaving it closes it.

    Parameters
    ----------
    path : Path
    go_on : bool
        Whether records that are there are wanted; without, there must be none.
    warn : callable
        Is told of damaged lines, which go.

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

    def __init__(self, path: Path, go_on: bool, warn: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        self._warn = warn
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
        """Add a record, whole or not at all; when this returns, it is on the disk. Several threads may."""
        with self._one_at_a_time:
            try:
                append_whole(self._file.fileno(), f"{record.line()}\n".encode())
            except OSError as error:
                raise _not_written(self.path, error) from None
            self.records.append(record)

    def finish(
        self,
        accepted: Sequence[Record] = (),
        threads: Sequence[ThreadRecord] = (),
        given_up: Collection[str] = (),
    ) -> None:
        """Write the file anew: a line a candidate, then what is accepted, sorted, so that two files can be compared.

        Parameters
        ----------
        accepted : sequence of Record
            What is accepted from now on; it takes the place of earlier ones for the same kernels.
        threads : sequence of ThreadRecord
            The same for networks.
        given_up : collection of str
            Keys of kernels for which nothing is accepted any more: compile would use it before what is accepted for
            their layers, each alone.
        """
        kept = tuple(one for one in self.records if not (one.accepted and one.key in given_up))
        self.replace(
            merged([RecordFile(kept, tuple(self.threads), ()), RecordFile(tuple(accepted), tuple(threads), ())])
        )

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
            file = self._opened()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    return file
            except BlockingIOError:
                file.close()
                raise TuneError(f"{self.path}: another tsm-edge tune has it", f"wait for it, or {_ANOTHER}") from None
            except OSError as error:
                file.close()
                raise TuneError(f"{self.path}: cannot be locked ({error.strerror})", _ANOTHER) from None
            file.close()

    def _opened(self) -> BinaryIO:
        # O_NONBLOCK: a pipe without a reader is refused instead of waited for.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._made += make_folders(self.path.parent)
            file = os.fdopen(os.open(self.path, flags, 0o644), "r+b", buffering=0)
        except OSError as error:
            remove_folders(self._made)
            raise TuneError(f"{self.path}: cannot be written ({error.strerror})", _ANOTHER) from None
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise TuneError(f"{self.path}: is no file, expected one for records", _ANOTHER)
        return file

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
        is_cut_off = not self.path.read_bytes().endswith(b"\n")
        # Half a line at the end is what a tuner that was killed leaves; anything else a person should know of.
        if found.damaged and not (is_cut_off and len(found.damaged) == 1):
            self._warn(f"{self.path}: {found.damage}")
        if found.damaged or is_cut_off:
            self._replace(found)
        return found


def _is_begun(path: Path) -> bool:
    """Whether there is nothing but the beginning of a first record."""
    with path.open("rb") as file:
        begun = file.read(_LONGEST)
    if b"\n" in begun or len(begun) == _LONGEST or begun[: len(_FIRST)] != _FIRST[: len(begun)]:
        return False
    try:
        parse_line(begun.decode("utf-8", "replace"))
    except ValueError:
        return True
    return False  # whole but for the end of its line


def _not_written(path: Path, error: OSError) -> TuneError:
    return TuneError(f"{path}: cannot be written ({error.strerror or error})", "make room, then go on with: --continue")
