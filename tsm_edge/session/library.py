"""A loaded ``model.so``, called through its C interface (``runtime/tsm_edge.h``)."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, NoReturn

from tsm_edge.artifact.folder import Artifact, load_artifact, open_library
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.errors import ArtifactError
from tsm_edge.files.replacement import again_if_replaced

FLOATS = ctypes.POINTER(ctypes.c_float)
BYTES = ctypes.POINTER(ctypes.c_uint8)
NANOSECONDS = ctypes.POINTER(ctypes.c_uint64)


class Run(ctypes.Structure):
    """``tsm_run``."""

    _fields_ = (
        ("frames", FLOATS),
        ("n_frames", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("period", ctypes.c_uint64),
    )


_INT, _STREAM = ctypes.c_int32, ctypes.c_void_p
_MANY_FLOATS = ctypes.POINTER(FLOATS)
# Function: what it returns, and its arguments.
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "tsm_manifest": (ctypes.c_char_p, []),
    "tsm_open": (_STREAM, [_INT]),
    "tsm_reset": (_INT, [_STREAM]),
    "tsm_step": (_INT, [_STREAM, FLOATS, FLOATS]),
    "tsm_step_profiled": (_INT, [_STREAM, FLOATS, FLOATS, NANOSECONDS, NANOSECONDS]),
    "tsm_step_explicit": (_INT, [_STREAM, FLOATS, _MANY_FLOATS, FLOATS, _MANY_FLOATS]),
    "tsm_close": (None, [_STREAM]),
    "tsm_last_error": (ctypes.c_char_p, []),
}
# Artifacts of earlier versions lack these.
_LATER_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "tsm_measure": (_INT, [_STREAM, ctypes.POINTER(Run), NANOSECONDS, FLOATS, NANOSECONDS]),
    "tsm_open_program": (_STREAM, [_INT, _INT]),
    "tsm_calls": (_INT, [_STREAM]),
    "tsm_step_u8": (_INT, [_STREAM, BYTES, FLOATS]),
    "tsm_output": (_INT, [_STREAM, _INT, FLOATS]),
    "tsm_yardstick": (_INT, [NANOSECONDS]),
}


class Library:
    """A loaded ``model.so``: shared by any number of sessions.

    Parameters
    ----------
    artifact : str, Path or Artifact
        An artifact directory.

    Raises
    ------
    ArtifactError
        The artifact is missing, damaged or made for another machine.
    """

    def __init__(self, artifact: str | Path | Artifact) -> None:
        self.artifact, self._c = _loaded(artifact)
        _declare(self._c)

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self.artifact.manifest

    def open_stream(self, threads: int, program: int = 0) -> int:
        """``tsm_open``, or ``tsm_open_program``; returns the stream's address."""
        stream = self._c.tsm_open_program(threads, program) if program else self._c.tsm_open(threads)
        if not stream:
            raise self.failure("try fewer threads, or free some memory")
        return int(stream)

    def calls(self, stream: int) -> int:
        """Kernel calls of a frame of a stream."""
        return self._c.tsm_calls(stream) if hasattr(self._c, "tsm_calls") else len(self.manifest.kernels)

    def failure(self, hint: str) -> ArtifactError:
        """The latest failure; what the device layer of a GPU says has a hint of its own, after a semicolon."""
        problem, _, own = self.last_error().partition("; ")
        return ArtifactError(f"{self.artifact.path}: {problem}", own or hint)

    def last_error(self) -> str:
        """``tsm_last_error``."""
        return bytes(self._c.tsm_last_error()).decode("utf-8", "replace")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("tsm_"):
            return getattr(self._c, name)
        raise AttributeError(name)

    def __reduce__(self) -> NoReturn:
        raise no_copies("a library", "load it again with Library(artifact), in every process for itself")


@again_if_replaced
def _loaded(artifact: str | Path | Artifact) -> tuple[Artifact, ctypes.CDLL]:
    checked = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
    return checked, open_library(checked)


def _declare(c: ctypes.CDLL) -> None:
    later = {name: types for name, types in _LATER_FUNCTIONS.items() if hasattr(c, name)}
    for name, (result, arguments) in (_FUNCTIONS | later).items():
        function = getattr(c, name)
        function.restype, function.argtypes = result, arguments


def no_copies(what: str, hint: str) -> ArtifactError:
    """The refusal to copy or pickle something."""
    return ArtifactError(f"{what} is part of this process: it can be neither copied nor pickled", hint)
