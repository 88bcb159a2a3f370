"""The process that runs inputs: with little memory, in a folder of its own, and watched for what it leaves behind."""

from __future__ import annotations

import faulthandler
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.fuzz.target import Target, load_target

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {1: ("mkdir", "remove", "rmdir", "truncate"), 2: ("rename", "link", "symlink")}
# Events of the interpreter that change the file system, and how many of their first arguments are paths.
CHANGES = {
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
}


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes
    ----------
    seed : int
    kind : str
        ``accepted``, ``refused`` (by a ``TsmEdgeError``) or ``failed``.
    text : str
        The refusal, or what is wrong.
    """

    seed: int
    kind: str
    text: str = ""


def work(connection: Connection, module: str, folder: Path, output: Path, memory_mib: int) -> None:
    """Answer every seed that is received with its :class:`Outcome` and the largest memory so far, MiB.

    Parameters
    ----------
    connection : Connection
    module : str
        The target's.
    folder : Path
        Home, temporary and working folders are made in it.
    output : Path
        File for stdout and stderr.
    memory_mib : int
        Address space the inputs may use beyond what the imports took.
    """
    stream = os.open(output, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(stream, descriptor)
    faulthandler.enable(stream)
    place = Place(folder)
    target = load_target(module)
    _limit_memory(memory_mib)
    os.ftruncate(stream, 0)
    connection.send(None)  # ready
    while (seed := connection.recv()) is not None:
        outcome = _outcome(target, seed, place, stream)
        connection.send((outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))


class Place:
    """A process's own home, temporary and working folder, and what was written elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        # Deep inside, so that "../../../evil" stays in sight.
        self.work = self.folder / "a" / "b" / "c" / "work"
        self.elsewhere: list[str] = []
        self._make()
        os.environ |= {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp")}
        for name in [name for name in os.environ if name.startswith("XDG_")]:
            del os.environ[name]
        tempfile.tempdir = None
        sys.dont_write_bytecode = True

    def _make(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in (self.folder / "home", self.folder / "tmp", self.work):
            path.mkdir(parents=True)
        os.chdir(self.work)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While it lasts, changes of the file system outside the folder are noted."""
        self.elsewhere.clear()
        _watcher.append(self)
        try:
            yield
        finally:
            _watcher.remove(self)

    def note(self, path: Any) -> None:
        """A path is about to be changed."""
        if isinstance(path, (str, bytes, os.PathLike)):
            full = os.path.realpath(os.fsdecode(path))
            if not full.startswith(f"{self.folder}/") and not full.startswith(("/dev/", "/proc/")):
                self.elsewhere.append(full)

    def left(self) -> list[str]:
        """Files outside ``out`` that exist now; the folder is empty afterwards."""
        kept = self.work / "out"
        found = [path for path in self.folder.rglob("*") if not path.is_dir() or path.is_symlink()]
        self._make()
        return [str(path.relative_to(self.folder)) for path in found if kept not in path.parents]


_watcher: list[Place] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watcher:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        _watcher[-1].note(arguments[0])
    for path in arguments[: CHANGES.get(event, 0)]:
        _watcher[-1].note(path)


sys.addaudithook(_audit)


def _outcome(target: Target, seed: int, place: Place, stream: int) -> Outcome:
    from tsm_edge.errors import TsmEdgeError

    given = target.make(seed)
    kind, text = "accepted", ""
    started = time.monotonic()
    with place.watched():
        try:
            target.run(given)
        except TsmEdgeError as error:
            kind, text = "refused", str(error)
        except MemoryError:
            kind, text = "failed", f"more memory than allowed, after {time.monotonic() - started:.1f} s"
        except BaseException as error:  # noqa: BLE001 - whatever else there is, is what is looked for
            kind, text = "failed", f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    sys.stderr.flush()
    printed, left = _printed(stream), place.left()
    if kind != "failed" and place.elsewhere:
        return Outcome(seed, "failed", f"changed {', '.join(place.elsewhere)}")
    if kind != "failed" and left:
        return Outcome(seed, "failed", f"left {', '.join(left)}")
    if kind != "failed" and printed:
        return Outcome(seed, "failed", f"printed: {printed}")
    return Outcome(seed, kind, text)


def _printed(stream: int) -> str:
    """What went to stdout and stderr since the last call."""
    text = os.pread(stream, 4096, 0).decode("utf-8", "replace").strip()
    os.ftruncate(stream, 0)
    return text


def _limit_memory(mebibytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
