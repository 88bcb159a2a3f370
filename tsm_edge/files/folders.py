"""Writing folders so that one takes the other's place at once, and only where everything in that one is tsm-edge's.

Where the system can, the two exchange their names in one step (``renameat2``: Linux, on nearly every file system), so
that there is always the old folder or the new one under the name, whole. Elsewhere the old one is called
``.NAME.tsm-edge.old`` for a moment; if the process is killed in it, the next one that writes there puts it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import file_sha256, make_folders, remove_folders, sync, sync_folder
from tsm_edge.files.paths import native_path
from tsm_edge.files.stale import create_folder, hold, remove, remove_stale

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_MOST_NAMES = 3
# Who cleans up holds a lock for a moment, who writes for longer.
_LOCK_S = 0.1


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that tsm-edge writes.

    Attributes
    ----------
    name : str
        With its article: ``a compiled artifact``.
    listing : callable
        Takes a folder and returns the names of its files with their SHA-256 (empty: any content). Raises ValueError or
        OSError where the folder is not of this kind.
    elsewhere : str
        How to choose another place: ``choose another folder with: -o DIR``.
    """

    name: str
    listing: Callable[[Path], Mapping[str, str]]
    elsewhere: str


def check_folder(path: Path, kind: FolderKind) -> None:
    """Refuse early what :func:`writing_folder` would refuse behind other work.

    Raises
    ------
    ArtifactError
        ``path`` is not tsm-edge's to replace.
    TsmEdgeError
        Its name is not UTF-8.
    """
    place = _Place(path, Path(os.path.realpath(path)), kind)
    place.check_possible()
    place.check_ours()


@contextmanager
def writing_folder(path: Path, kind: FolderKind) -> Iterator[Path]:
    """Fill a temporary folder that takes the place of ``path`` when the block ends without an error.

    A folder that is there is replaced only if tsm-edge wrote all that is in it: this is looked at before the block and
    again at its end. A link stays one; the folder it leads to is replaced. While one process writes a folder, others
    are refused.

    Raises
    ------
    ArtifactError
        ``path`` is not tsm-edge's to replace, is being written, or cannot be written.
    TsmEdgeError
        Its name is not UTF-8.
    """
    place = _Place(path, Path(os.path.realpath(path)), kind)
    place.check_possible()
    with place.alone():
        place.check_ours()
        try:
            temporary, descriptor = create_folder(place.real.parent)
        except OSError as error:
            raise place.not_writable(error) from None
        try:
            temporary.chmod(0o755)
            yield temporary
            _sync_tree(temporary)
            place.publish(temporary)
        finally:
            remove(temporary)
            os.close(descriptor)


@dataclass(frozen=True)
class _Place:
    """Where a folder goes: as the user named it, and what that leads to."""

    path: Path
    real: Path
    kind: FolderKind

    def check_possible(self) -> None:
        """Refuse what no folder can take the place of."""
        native_path(self.real)  # the linker writes there
        here: Path | None = None
        with contextlib.suppress(OSError):
            here = Path.cwd()
        if here is not None and (here == self.real or self.real in here.parents):
            raise self._refused("is the folder this runs in, expected another one")
        if os.path.ismount(self.real):
            raise self._refused("is a whole file system, expected a folder in it")
        if self.real.exists() and not self.real.is_dir():
            raise self._refused(f"exists and is not {self.kind.name}")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one that writes here: a locked file beside the folder, which is removed at the end."""
        lock = self.real.with_name(f".{self.real.name}.tsm-edge.lock")
        made: list[Path] = []
        try:
            made += make_folders(self.real.parent)
            descriptor = self._lock(lock)
        except OSError as error:
            remove_folders(made)
            raise self.not_writable(error) from None
        try:
            self._put_back()
            remove_stale(self.real.parent)
            yield
        finally:
            remove(lock)
            os.close(descriptor)
            remove_folders(made)

    def _lock(self, lock: Path) -> int:
        until_s = time.monotonic() + _LOCK_S
        while True:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            if hold(lock, descriptor):
                try:
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()}\n".encode())
                except OSError:  # a full disk
                    remove(lock)
                    os.close(descriptor)
                    raise
                return descriptor
            owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
            os.close(descriptor)
            if time.monotonic() > until_s:
                raise ArtifactError(
                    f"{self.path}: is being written by another tsm-edge (process {owner or 'unknown'})",
                    f"wait until it is done, or {self.kind.elsewhere}",
                )
            time.sleep(_LOCK_S / 20)

    def check_ours(self) -> None:
        """Refuse to replace a folder with anything in it that tsm-edge did not write."""
        if not self.real.exists():
            return
        if not os.access(self.real, os.W_OK | os.X_OK):
            raise self.not_writable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        remove_stale(self.real)
        problem = _not_ours(self.real, self.kind)
        if problem:
            raise self._refused(problem)

    def publish(self, folder: Path) -> None:
        """Let ``folder`` take the place, and remove what was there."""
        try:
            if not self._move_in(folder):
                self._exchange(folder)
        except OSError as error:
            if error.errno == errno.EXDEV:  # overlayfs, in containers: what the image brings cannot be renamed
                raise ArtifactError(
                    f"{self.path}: comes with the container's image and cannot be replaced",
                    f"remove it there, or {self.kind.elsewhere}",
                ) from None
            raise self.not_writable(error) from None
        sync_folder(self.real.parent)

    def _move_in(self, folder: Path) -> bool:
        """Where nothing is, or an empty folder, a rename is enough."""
        try:
            os.rename(folder, self.real)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True

    def _exchange(self, folder: Path) -> None:
        self.check_ours()
        descriptor = os.open(self.real, os.O_RDONLY | os.O_DIRECTORY)
        try:
            hold(self.real, descriptor)  # nobody shall take it for left over under the temporary name
            exchange(folder, self.real)
            problem = _not_ours(folder, self.kind)
            if problem:  # put into it since it was looked at
                exchange(folder, self.real)
                raise self._refused(problem)
            remove(folder)
        finally:
            os.close(descriptor)

    def _put_back(self) -> None:
        """Finish what :func:`exchange` was killed in, where the system cannot do it in one step."""
        old = _aside(self.real)
        if old.is_dir() and not self.real.exists():
            os.rename(old, self.real)
        elif old.is_dir() and not _not_ours(old, self.kind):
            remove(old)

    def not_writable(self, error: OSError) -> ArtifactError:
        """The error of a place that the system refuses."""
        return self._refused(f"cannot be written ({error.strerror})")

    def _refused(self, problem: str) -> ArtifactError:
        return ArtifactError(f"{self.path}: {problem}", self.kind.elsewhere)


def exchange(one: Path, other: Path) -> None:
    """Let two folders exchange their names, in one step where the system can.

    Raises
    ------
    OSError
        They cannot be renamed.
    """
    code = _renameat2()(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if code == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(other))
    aside = _aside(other)
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)


@functools.cache
def _renameat2() -> Callable[..., int]:
    try:
        function: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an older C library, or not Linux

        def missing(*arguments: object) -> int:
            ctypes.set_errno(errno.ENOSYS)
            return -1

        return missing
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function  # type: ignore[no-any-return]


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.tsm-edge.old")


def _not_ours(folder: Path, kind: FolderKind) -> str:
    """What in a folder tsm-edge did not write; empty: it wrote everything, or there is nothing."""
    names = sorted(os.listdir(folder))
    if not names:
        return ""
    try:
        listing = kind.listing(folder)
    except (OSError, ValueError):
        return f"exists and is not {kind.name}"
    others = [name for name in names if name not in listing]
    if others:
        more = f" and {len(others) - _MOST_NAMES} more" if len(others) > _MOST_NAMES else ""
        return f"has in it what tsm-edge did not write ({', '.join(others[:_MOST_NAMES])}{more})"
    changed = [name for name in names if not _has_content(folder / name, listing[name])]
    return f"{changed[0]} in it was changed since tsm-edge wrote it" if changed else ""


def _has_content(path: Path, sha256: str) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    return not sha256 or file_sha256(path) == sha256


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)
