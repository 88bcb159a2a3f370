"""Which disk is full, when writing fails: programs that write for tsm-edge say so badly, or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.errors import TsmEdgeError

# What a full file system may still report as free, in bytes: programs remove the file they could not finish.
_FULL = 1 << 20


@dataclass(frozen=True)
class Place:
    """A folder something is written to.

    Attributes
    ----------
    folder : Path
    purpose : str
        What is written there, for messages.
    hint : str
        How another folder is chosen.
    """

    folder: Path
    purpose: str
    hint: str


def temporary_place() -> Place:
    """Where temporary files go.

    Raises
    ------
    TsmEdgeError
        There is no folder for them that can be written.
    """
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise TsmEdgeError(
            f"no folder for temporary files can be written ({error.strerror})", "name one that can: TMPDIR=FOLDER"
        ) from None
    return Place(folder, "temporary files", "make room there, or name another folder: TMPDIR=FOLDER")


@contextmanager
def naming_full_disk(places: Sequence[Place], needed: int = _FULL) -> Iterator[None]:
    """Say which of some places is full where the system only says that one is; ``needed`` as for :func:`no_room`.

    Raises
    ------
    TsmEdgeError
        One was full.
    """
    try:
        yield
    except OSError as error:
        full = no_room(places, needed) if error.errno == errno.ENOSPC else None
        if full is None:
            raise
        raise full from None


def is_full(folder: Path) -> bool:
    """Whether nothing more can be written to a folder."""
    return _free_bytes(folder) < _FULL


def no_room(places: Sequence[Place], needed: int = _FULL) -> TsmEdgeError | None:
    """What to say when writing to one of some places failed: names the one without room; None: each has some.

    Parameters
    ----------
    places : sequence of Place
    needed : int
        Bytes that were to be written.
    """
    for place in places:
        free = _free_bytes(place.folder)
        if free < needed:
            return TsmEdgeError(
                f"{place.folder}: no room is left for {place.purpose} ({free / 1e6:.1f} MB free)", place.hint
            )
    return None


def _free_bytes(folder: Path) -> int:
    """Bytes that may still be written to a folder, or to the nearest one above it that is there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
