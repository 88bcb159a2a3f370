"""The program of the ``ziglang`` wheel: where it is, where it keeps things, how long it may take, why it failed."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.errors import CompileError
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.files.bounded import bounded_folder
from tsm_edge.files.disk import Place, is_full, no_room, temporary_place

_CACHE = "ZIG_GLOBAL_CACHE_DIR"
_LIMIT_S = 1200.0  # the first link for an architecture builds musl: a minute on a PC, many on a board
# Beside the C libraries, in a folder of its own: every model.so that was linked, and what it was linked from.
_WORK, _MOST_WORK_BYTES = "work", 2 << 30
_REINSTALL = "try: pip install --force-reinstall ziglang"


@dataclass(frozen=True)
class ZigCache:
    """Where zig keeps the C libraries it builds, once for each architecture.

    Attributes
    ----------
    folder : Path
    note : str
        Why it is a temporary one; empty: it lasts.
    """

    folder: Path
    note: str = ""


@functools.cache
def zig_command() -> tuple[str, ...]:
    """How to call zig.

    Raises
    ------
    CompileError
        The ``ziglang`` package is not installed.
    """
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise CompileError("the ziglang package is missing: it links model.so", "install it with: pip install ziglang")
    binary = Path(next(iter(spec.submodule_search_locations))) / ("zig.exe" if sys.platform == "win32" else "zig")
    return (str(binary),)


@functools.cache
def zig_version() -> str:
    """Version of the linker."""
    return run_zig(["version"], "asking zig for its version", None).strip()


def zig_cache(environment: Mapping[str, str] = os.environ) -> ZigCache:
    """The cache of the environment, or the user's; a temporary one where that cannot be written.

    Raises
    ------
    TsmEdgeError
        There is no folder for temporary files, either.
    """
    try:
        wanted = _lasting_cache(environment)
    except RuntimeError:
        return _temporary_cache("there is no home folder (HOME)")
    # zig waits for ever where it cannot write.
    reason = _not_writable(wanted)
    return _temporary_cache(f"{wanted} cannot be written ({reason})") if reason else ZigCache(wanted)


def run_zig(arguments: Sequence[str], doing: str, output: Path | None, hint: str = _REINSTALL) -> str:
    """Run zig and return what it printed.

    Parameters
    ----------
    arguments : sequence of str
    doing : str
        For messages: ``linking for native``.
    output : Path or None
        The file it writes.
    hint : str
        What to do where zig fails.

    Raises
    ------
    CompileError
        It cannot be run, failed (its first message is in the error), or did not end in time.
    TsmEdgeError
        The disk of the cache or of temporary files is full.
    OSError
        That of the output is.
    """
    cache = zig_cache()
    try:
        with _work_folder(cache) as work:
            environment = {"ZIG_LOCAL_CACHE_DIR": str(work), **os.environ, _CACHE: str(cache.folder)}
            code, errors, printed = _run([*zig_command(), *arguments], environment)
    except subprocess.TimeoutExpired:
        raise CompileError(
            f"{doing}: zig did not end within {_LIMIT_S:.0f} s",
            f"compile again; if that does not help, remove its cache: {cache.folder}",
        ) from None
    except OSError as error:
        raise CompileError(f"{doing}: {zig_command()[0]} cannot be run ({error.strerror})", hint) from None
    if code == 0:
        return printed
    kept = Place(cache.folder, "zig's cache", "make room there, or choose another folder: XDG_CACHE_HOME=FOLDER")
    if full := no_room([kept, temporary_place()]):
        raise full
    if output is not None and is_full(output.parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))
    raise CompileError(f"{doing} failed: {_reason(code, errors)}", hint)


@contextlib.contextmanager
def _work_folder(cache: ZigCache) -> Iterator[Path]:
    """Where zig keeps what it compiles and links; a temporary one where that of the cache is somebody else's."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(bounded_folder(cache.folder / _WORK, _MOST_WORK_BYTES))
        except OSError:
            folder = stack.enter_context(scratch_folder())
        yield folder


def _run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, stderr and stdout; whatever ends the wait ends zig and what it started, too."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            printed, errors = process.communicate(timeout=_LIMIT_S)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, errors, printed


def _reason(code: int, errors: str) -> str:
    """Zig's own words: the first line that is an error, else the last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if "error" in line and "warning" not in line.split("error")[0]]
    if named:
        return named[0]
    return lines[-1] if lines else f"stopped by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _lasting_cache(environment: Mapping[str, str]) -> Path:
    """Where the cache should be.

    Raises
    ------
    RuntimeError
        The user has no home folder.
    """
    if environment.get(_CACHE):
        return Path(environment[_CACHE])
    base = Path(environment.get("XDG_CACHE_HOME") or "")
    # A relative one is to be ignored (XDG Base Directory Specification).
    return (base if base.is_absolute() else Path.home() / ".cache") / "tsm-edge" / "zig"


@functools.cache
def _not_writable(folder: Path) -> str:
    """Why no file can be made in a folder; empty: one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or type(error).__name__


@functools.cache
def _temporary_cache(reason: str) -> ZigCache:
    stack = contextlib.ExitStack()
    folder = stack.enter_context(scratch_folder())
    atexit.register(stack.close)
    return ZigCache(
        folder, f"{reason}: zig builds its C libraries anew, a minute each; keep them with XDG_CACHE_HOME=FOLDER"
    )
