"""How files and programs of the measured machine are reached: here, or wherever a shell is."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tsm_edge.errors import PowerError

_LARGEST_FILE = 1 << 16
_RUN_S = 10.0
_PROGRAM_FOLDERS = ("usr/local/bin", "usr/bin", "bin", "opt/vc/bin", "system/bin", "usr/local/nvidia/bin")


class System(Protocol):
    """The machine whose power is measured.

    Attributes
    ----------
    here : bool
        Whether it is the machine this process runs on, so that its drivers can be loaded.
    """

    @property
    def here(self) -> bool: ...

    def read(self, paths: Sequence[str]) -> list[str]:
        """Read small files, all as close together in time as the way allows; without the space around their text.

        Raises
        ------
        OSError
            One of them cannot be read; it is named.
        PowerError
            The way to the machine failed.
        """

    def find(self, pattern: str) -> list[str]:
        """The paths that match a pattern of the shell, sorted.

        Raises
        ------
        PowerError
            The way to the machine failed.
        """

    def gather(self, patterns: Sequence[str]) -> dict[str, str]:
        """Read all small files that match any of the patterns of the shell, in one go.

        Returns
        -------
        dict of str to str
            Text by path, without the space around it. What cannot be read, or is empty, is left out.

        Raises
        ------
        PowerError
            The way to the machine failed.
        """

    def run(self, program: str, *arguments: str) -> str:
        """Run a program; return what it printed to stdout.

        Raises
        ------
        OSError
            It is not there, or ended with an error, which is its message.
        PowerError
            The way to the machine failed.
        """


class LocalSystem:
    """This machine.

    Parameters
    ----------
    root : Path
        The folder that stands for ``/``.
    """

    here = True

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self, paths: Sequence[str]) -> list[str]:
        """See :meth:`System.read`."""
        return [self._read(path) for path in paths]

    def find(self, pattern: str) -> list[str]:
        """See :meth:`System.find`."""
        found = self._root.glob(pattern.lstrip("/"))
        return sorted(f"/{path.relative_to(self._root).as_posix()}" for path in found)

    def gather(self, patterns: Sequence[str]) -> dict[str, str]:
        """See :meth:`System.gather`."""
        texts = {}
        for path in dict.fromkeys(path for pattern in patterns for path in self.find(pattern)):
            # It may end meanwhile, be another user's, or belong to a part that is switched off.
            with contextlib.suppress(OSError):
                texts[path] = self._read(path)
        return {path: text for path, text in texts.items() if text}

    def run(self, program: str, *arguments: str) -> str:
        """See :meth:`System.run`."""
        folders = os.pathsep.join(str(self._root / folder) for folder in _PROGRAM_FOLDERS)
        path = shutil.which(program, path=folders)
        if path is None:
            raise FileNotFoundError(errno.ENOENT, "not installed", program)
        try:
            done = subprocess.run(
                [path, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=_RUN_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(errno.ETIMEDOUT, f"did not end within {_RUN_S:.0f} s", program) from None
        if done.returncode:
            raise OSError(errno.EIO, _last_line((done.stderr or done.stdout).decode("utf-8", "replace")), program)
        return done.stdout.decode("utf-8", "replace")

    def _read(self, path: str) -> str:
        try:
            with (self._root / path.lstrip("/")).open("rb") as file:
                return file.read(_LARGEST_FILE).decode("utf-8", "replace").strip()
        except OSError as error:
            error.filename = path
            raise


class ShellSystem:
    """A machine where nothing but a POSIX shell is needed.

    Parameters
    ----------
    shell : callable
        Runs a script there and returns what it printed to stdout; raises ``PowerError`` when the way fails.
    """

    here = False

    def __init__(self, shell: Callable[[str], str]) -> None:
        self._shell = shell

    def read(self, paths: Sequence[str]) -> list[str]:
        """See :meth:`System.read`: one call of the shell for all of them."""
        texts = []
        for path, (text, failed) in zip(paths, self._each([f"cat {shlex.quote(path)}" for path in paths]), strict=True):
            if failed:
                raise _os_error(path, text)
            texts.append(text)
        return texts

    def find(self, pattern: str) -> list[str]:
        """See :meth:`System.find`; the pattern must hold no spaces."""
        # A pattern that matches nothing stays itself.
        script = f'for path in {pattern}; do if [ -e "$path" ]; then echo "$path"; fi; done'
        return sorted(line.strip() for line in self._shell(script).splitlines() if line.strip())

    def gather(self, patterns: Sequence[str]) -> dict[str, str]:
        """See :meth:`System.gather`; the patterns must hold no spaces."""
        # What is read could hold a mark that is known beforehand.
        mark = f"tsm-{secrets.token_hex(8)}"
        read = f'head -c {_LARGEST_FILE} "$path" 2>/dev/null'
        script = (
            f'for path in {" ".join(patterns)}; do if [ -f "$path" ]; then echo "{mark} $path"; {read}; echo; fi; done'
        )
        parts = re.split(rf"^{mark} (.*?)\r?\n", self._shell(f"{script}; echo {mark}"), flags=re.MULTILINE)
        if not parts[-1].rstrip().endswith(mark):
            raise PowerError("the device's shell broke off while files were read", "check the connection")
        parts[-1] = parts[-1].rstrip().removesuffix(mark)
        texts = dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))
        return {path: text for path, text in texts.items() if text}

    def run(self, program: str, *arguments: str) -> str:
        """See :meth:`System.run`."""
        [(text, failed)] = self._each([shlex.join([program, *arguments])])
        if failed:
            raise _os_error(program, text)
        return text

    def _each(self, commands: Sequence[str]) -> list[tuple[str, bool]]:
        """What each command printed, and whether it failed. The shell prints a mark with the exit code after each."""
        script = "; ".join(f"{command} 2>&1; echo tsm-end=$?" for command in commands)
        parts = re.split(r"tsm-end=(\d+)\r?\n?", self._shell(f"LC_ALL=C; export LC_ALL; {script}"))
        texts, codes = parts[:-1:2], parts[1::2]
        if len(codes) != len(commands):
            raise PowerError("the device's shell broke off while power was read", "check the connection")
        return [(text.strip(), code != "0") for text, code in zip(texts, codes, strict=True)]


class OneAtATime:
    """A :class:`System` behind one connection, for threads: each call waits for the one before.

    Parameters
    ----------
    system : System
    """

    def __init__(self, system: System) -> None:
        self.here = system.here
        self._system = system
        self._lock = threading.Lock()

    def read(self, paths: Sequence[str]) -> list[str]:
        """See :meth:`System.read`."""
        with self._lock:
            return self._system.read(paths)

    def find(self, pattern: str) -> list[str]:
        """See :meth:`System.find`."""
        with self._lock:
            return self._system.find(pattern)

    def gather(self, patterns: Sequence[str]) -> dict[str, str]:
        """See :meth:`System.gather`."""
        with self._lock:
            return self._system.gather(patterns)

    def run(self, program: str, *arguments: str) -> str:
        """See :meth:`System.run`."""
        with self._lock:
            return self._system.run(program, *arguments)


def _os_error(name: str, text: str) -> OSError:
    """The error behind the message of a program."""
    if "ermission denied" in text:
        return PermissionError(errno.EACCES, "Permission denied", name)
    if re.search(r"No such file|not found|inaccessible", text):
        return FileNotFoundError(errno.ENOENT, "No such file or directory", name)
    return OSError(errno.EIO, _last_line(text), name)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "failed without a message"
