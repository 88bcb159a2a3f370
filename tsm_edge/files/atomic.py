"""Files: texts that a person edits, and writing so that nobody ever sees half of a file, whatever interrupts it."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tsm_edge.errors import TextFileError, TsmEdgeError
from tsm_edge.files.disk import temporary_place
from tsm_edge.files.paths import native_path
from tsm_edge.files.stale import create_file, hold, remove, remove_if_stale, remove_stale

_SCRATCH = "tsm-edge-scratch-"
_LARGEST_TEXT = 16 << 20


def read_text(path: Path) -> str:
    """Read a text that a person edits: UTF-8, with or without the byte order mark that some editors put before it.

    The mark is left out and every line end is a newline.

    Raises
    ------
    TextFileError
        It cannot be opened, has more than 16 MiB, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_TEXT + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TextFileError(f"{path}: cannot be read ({reason})", "check the name and its permissions") from None
    if len(data) > _LARGEST_TEXT:
        raise TextFileError(f"{path}: has more than 16 MiB, expected a text", "check the name")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TextFileError(
            f"{path}: is UTF-16, expected UTF-8", f"convert it: iconv -f UTF-16 -t UTF-8 {shlex.quote(str(path))}"
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextFileError(
            f"{path}: is not UTF-8 (byte 0x{data[error.start]:02x} in line {line})", "save it as UTF-8 in your editor"
        ) from None


class NewFile:
    """A file being written beside its place, under a temporary name; a context manager that publishes it at its end.

    What is there already keeps its permissions, and a link stays one: the file it leads to is replaced. Missing folders
    are made. What earlier runs that were killed left in the folder is removed.

    Parameters
    ----------
    path : Path
    suffix : str
        End of the temporary name, for writers that look at it (``.mp4``).

    Attributes
    ----------
    temporary : Path
        Where to write.

    Raises
    ------
    OSError
        The place cannot be written, or is no regular file.
    """

    def __init__(self, path: Path, suffix: str = "") -> None:
        self._path = Path(os.path.realpath(path))
        mode = _mode_of_file(self._path)
        self._made = make_folders(self._path.parent)
        try:
            remove_stale(self._path.parent)
            self.temporary, self._descriptor = create_file(self._path.parent, suffix)
            if mode is not None:
                os.fchmod(self._descriptor, mode)
        except BaseException:
            remove_folders(self._made)
            raise

    def publish(self) -> None:
        """Give the file its name, once it is on the disk.

        Raises
        ------
        OSError
            It cannot be stored; it is removed, and what was there before stays.
        """
        try:
            sync(self._descriptor)
            os.replace(self.temporary, self._path)
        except BaseException:
            self.discard()
            raise
        self._close()
        sync_folder(self._path.parent)

    def discard(self) -> None:
        """Remove it, and the folders that were made for it. After :meth:`publish` this does nothing."""
        if self._descriptor >= 0:
            remove(self.temporary)
            self._close()
            remove_folders(self._made)

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.publish()
        else:
            self.discard()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises
    ------
    OSError
        It cannot be read, or is no file: a pipe would be waited for.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to a file as :class:`NewFile` does.

    Raises
    ------
    OSError
        As there; what was there before stays.
    """
    with NewFile(path) as file:
        file.temporary.write_bytes(data)


def append_whole(descriptor: int, data: bytes) -> None:
    """Append to an open file, all of ``data`` or nothing; when this returns, it is on the disk.

    Raises
    ------
    OSError
        It cannot be written; the file is as it was.
    """
    end = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, data)
        if written < len(data):
            raise OSError(f"only {written} of {len(data)} bytes could be written")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def check_writable(path: Path) -> None:
    """Refuse a place where :class:`NewFile` could not write, before the work for it begins; nothing is left there.

    Raises
    ------
    OSError
        As there.
    """
    NewFile(path).discard()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A private folder for files nobody else looks at, removed at the end; those of dead processes are removed, too.

    Raises
    ------
    TsmEdgeError
        The system's folder for temporary files cannot be written, or its name is not UTF-8, which the compiler and the
        linker need.
    """
    place = temporary_place()
    for path in place.folder.glob(f"{_SCRATCH}*"):
        remove_if_stale(path)
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=_SCRATCH))
        except OSError as error:
            raise TsmEdgeError(f"{place.folder}: no folder can be made there ({error.strerror})", place.hint) from None
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another process took it for one that a dead process left
            continue
        if hold(folder, descriptor):
            break
        os.close(descriptor)
    try:
        native_path(folder)
        yield folder
    finally:
        remove(folder)
        os.close(descriptor)


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those it lies in, where they are missing; return those that were made, the outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def remove_folders(folders: list[Path]) -> None:
    """Undo :func:`make_folders`, as far as they are still empty."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()


def sync(descriptor: int) -> None:
    """Wait until a file is on the disk: boards lose power, and a rename may come before what it renames."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk, where the file system can; they are in place in any case."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _mode_of_file(path: Path) -> int | None:
    """The permissions of the file to be replaced; None: there is none.

    Raises
    ------
    OSError
        It is a folder or a device, or may not be written.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return stat.S_IMODE(found.st_mode)
