"""A folder of what can be made again, which is emptied when it has grown too large and nobody works in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tsm_edge.files.stale import remove

_LOCK = ".in-use"


@contextlib.contextmanager
def bounded_folder(folder: Path, most_bytes: int) -> Iterator[Path]:
    """Give a folder to work in; it is made if it is not there.

    Every process that works in it holds a shared lock of the system, so that nothing is taken away from under it. Where
    a file system has no locks the folder is never emptied.

    Parameters
    ----------
    folder : Path
    most_bytes : int
        Of the files in it before it is emptied.

    Raises
    ------
    OSError
        It cannot be made, or nothing can be written in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("ab") as lock:
        with contextlib.suppress(OSError):
            if _bytes_in(folder) > most_bytes:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _empty(folder)
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder


def _bytes_in(folder: Path | str) -> int:
    """Of all files below; what vanishes meanwhile does not count."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _bytes_in(entry.path)
            else:
                with contextlib.suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != _LOCK:
            remove(path)
