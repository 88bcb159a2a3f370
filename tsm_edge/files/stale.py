"""Things being written, under names of tsm-edge's own: held by a lock as long as their writer lives, removed after.

The lock is that of the system (``flock``), so it ends with its process, however that ends. Where a file system has no
locks, nothing is taken for left over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path

_NAME = re.compile(r"\.tsm-edge-[0-9a-f]{8}\.part(\.\w+)?|\..+\.tsm-edge\.lock")


def create_file(folder: Path, suffix: str = "") -> tuple[Path, int]:
    """Make an empty file of the user's usual permissions; return it and the descriptor that holds its lock.

    Raises
    ------
    OSError
        ``folder`` cannot be written.
    """
    while True:
        path = folder / f".tsm-edge-{secrets.token_hex(4)}.part{suffix}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if hold(path, descriptor):
            return path, descriptor
        os.close(descriptor)


def create_folder(folder: Path) -> tuple[Path, int]:
    """As :func:`create_file`, a folder."""
    while True:
        path = folder / f".tsm-edge-{secrets.token_hex(4)}.part"
        path.mkdir()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # a cleaner was faster
            continue
        if hold(path, descriptor):
            return path, descriptor
        os.close(descriptor)


def hold(path: Path, descriptor: int) -> bool:
    """Lock what ``descriptor`` has open; False: somebody else holds it, or it is no longer what ``path`` names."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here: nobody takes it for left over, either
        pass
    return _is(path, descriptor)


def remove_stale(folder: Path) -> None:
    """Remove what a process that is dead began to write in ``folder``; what a living one writes stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]:
            remove_if_stale(path)


def remove_if_stale(path: Path) -> None:
    """Remove a file or folder whose lock nobody holds, if this user may."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, descriptor):
                remove(path)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; one that is not there is no error."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False
