"""Files that clients upload: a session's own, and libraries that are kept for later ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tsm_edge.files.atomic import file_sha256
from tsm_edge.files.disk import Place, naming_full_disk

_KEPT_UPLOADS = 8


class Uploads:
    """The files of a session, and those kept for the next.

    Parameters
    ----------
    folder : Path
        Of the session.
    kept : Path
        Shared by all sessions of the server.
    """

    def __init__(self, folder: Path, kept: Path) -> None:
        self._folder = folder
        self._kept = kept

    def path(self, name: str) -> str:
        """Where a file that was uploaded as ``name`` lies."""
        return str(self._folder / name)

    def upload(self, name: str, data: bytes) -> None:
        """Write a file of the session, whole or not at all.

        Raises
        ------
        OSError
            It cannot be written.
        TsmEdgeError
            The disk is full.
        """
        path = self._own_path(name)
        place = Place(self._folder, "uploads", "make room there, or serve with another folder: TMPDIR=FOLDER")
        with naming_full_disk([place], len(data)):
            try:
                path.write_bytes(data)
            except OSError:
                path.unlink(missing_ok=True)
                raise

    def download(self, name: str) -> bytes:
        """The content of a file, of this session's where ``name`` is no whole path."""
        return (self._folder / name).read_bytes()

    def remove(self, name: str) -> None:
        """Remove a file of the session."""
        self._own_path(name).unlink()

    def find(self, sha256: str) -> str:
        """The path of a kept library with this hash; empty if there is none."""
        path = self._kept_path(sha256)
        if not path.is_file() or file_sha256(path) != sha256:
            return ""
        path.touch()
        return str(path)

    def keep(self, name: str, sha256: str) -> str:
        """Check an uploaded library's hash, keep it for later sessions, and return its path."""
        uploaded = self._own_path(name)
        found = file_sha256(uploaded)
        if found != sha256:
            raise ValueError(f"the uploaded {name} has SHA-256 {found}, expected {sha256}")
        path = self._kept_path(sha256)
        os.replace(uploaded, path)
        oldest_last = sorted(self._kept.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in oldest_last[_KEPT_UPLOADS:]:
            file.unlink()
        return str(path)

    def _own_path(self, name: str) -> Path:
        """Where a file of the session lies: a slip of a client's costs nobody a file."""
        path = Path(os.path.abspath(self._folder / name))
        if self._folder not in path.parents:
            raise ValueError(f"{name!r} is not the name of a file in the session's folder")
        return path

    def _kept_path(self, sha256: str) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(f"{sha256!r} is not a SHA-256")
        return self._kept / f"{sha256}.so"
