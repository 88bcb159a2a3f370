"""Events on their way to one receiver: a queue with an end, kept on disk so that a restart loses none.

The run adds to it in memory, at once. The courier's thread, which takes from it, also writes it down; what cannot be
written, because the disk is full, is delivered all the same.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.errors import EventError

MOST_WAITING = 10_000
_APPLICATION_ID = 0x74736D65  # "tsme"


@dataclass(frozen=True)
class Letter:
    """An event as it is delivered.

    Attributes
    ----------
    id : str
    body : str
        JSON.
    """

    id: str
    body: str


class Outbox:
    """A bounded queue: when it is full the oldest letter is lost, and counted.

    Parameters
    ----------
    path : Path or None
        Where it is kept; None: in memory only.
    most : int
        Letters that may wait; as many again while one is being delivered.

    Attributes
    ----------
    lost : int
        Letters that found no room.

    Raises
    ------
    EventError
        The file cannot be used, or another run uses it.
    """

    def __init__(self, path: Path | None, most: int = MOST_WAITING) -> None:
        self.lost = 0
        self._most = most
        self._fresh: deque[Letter] = deque(maxlen=most)
        self._arrived = threading.Event()
        self._closed = False
        self._spool = _Spool(path) if path is not None else None
        self._waiting: deque[Letter] = deque(self._spool.letters() if self._spool is not None else ())

    def __len__(self) -> int:
        return len(self._waiting) + len(self._fresh)

    def put(self, letter: Letter) -> None:
        """Add a letter; returns at once."""
        if len(self._fresh) == self._most:  # the courier hangs: the oldest falls out
            self.lost += 1
        self._fresh.append(letter)
        self._arrived.set()

    def oldest(self, wait_s: float) -> Letter | None:
        """The letter to deliver next; None: there was none for so long, or none will come any more."""
        if not self._waiting and not self._fresh and not self._closed:
            self.keep(wait_s)
        self._store()
        return self._waiting[0] if self._waiting else None

    def keep(self, wait_s: float) -> None:
        """Let time pass, at most so much, and write down what arrives in it."""
        self._arrived.wait(wait_s)
        self._arrived.clear()
        self._store()

    def done(self, letter: Letter) -> None:
        """Forget a letter: it was delivered, or never will be."""
        if self._waiting and self._waiting[0].id == letter.id:
            self._waiting.popleft()
        if self._spool is not None:
            self._spool.remove(letter)

    def end(self) -> None:
        """No more letters will be added; who waits for one is woken."""
        self._closed = True
        self._arrived.set()

    def close(self) -> None:
        """Let go of the file; called by the thread that takes."""
        self._store()
        if self._spool is not None:
            self._spool.close()

    def _store(self) -> None:
        while self._fresh:
            letter = self._fresh.popleft()
            self._waiting.append(letter)
            if self._spool is not None:
                self._spool.add(letter)
        while len(self._waiting) > self._most:
            oldest = self._waiting.popleft()
            self.lost += 1
            if self._spool is not None:
                self._spool.remove(oldest)


class _Spool:
    """Letters in an SQLite file, which survives a power cut between any two bytes."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=0.5, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.execute("BEGIN EXCLUSIVE")
            self._file.execute("CREATE TABLE IF NOT EXISTS letters (id TEXT PRIMARY KEY, body TEXT NOT NULL)")
            self._file.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._file.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            locked = "locked" in str(error)
            raise EventError(
                f"spool {path}: {'is used by another run' if locked else f'cannot be used ({error})'}",
                "name another folder with: --spool DIR",
            ) from None

    def letters(self) -> list[Letter]:
        """All, the oldest first."""
        with contextlib.suppress(sqlite3.Error):
            return [Letter(*row) for row in self._file.execute("SELECT id, body FROM letters ORDER BY rowid")]
        return []

    def add(self, letter: Letter) -> None:
        """Keep a letter, where that is possible."""
        with contextlib.suppress(sqlite3.Error):
            self._file.execute("INSERT OR IGNORE INTO letters VALUES (?, ?)", (letter.id, letter.body))

    def remove(self, letter: Letter) -> None:
        """Forget a letter; on a disk that fails it comes again after a restart."""
        with contextlib.suppress(sqlite3.Error):
            self._file.execute("DELETE FROM letters WHERE id = ?", (letter.id,))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
