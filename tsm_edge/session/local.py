"""Live inference on a compiled artifact: a frame in, logits out, the shift caches kept inside."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tsm_edge.artifact.folder import Artifact, load_artifact, open_library
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards.architecture import check_threads
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import ArtifactError
from tsm_edge.files.replacement import again_if_replaced
from tsm_edge.session.affinity import Cores, fitting
from tsm_edge.session.base import (
    checked_caches,
    checked_frame,
    checked_picture,
    frame_logits_shape,
    session_is_closed,
)
from tsm_edge.session.timings import Speed, Timings, cannot_measure, checked_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOATS = ctypes.POINTER(ctypes.c_float)
_PROGRAM = "tsm_open_program"
_MEASURE = "tsm_measure"
_STEP_BYTES = "tsm_step_u8"
_OUTPUT = "tsm_output"
_YARDSTICK = "tsm_yardstick"
_MOST_STEPS = 2**31 - 1
_BYTES = ctypes.POINTER(ctypes.c_uint8)
_NANOSECONDS = ctypes.POINTER(ctypes.c_uint64)


class _Run(ctypes.Structure):
    """``tsm_run``."""

    _fields_ = (
        ("frames", _FLOATS),
        ("n_frames", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("period", ctypes.c_uint64),
    )


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
        return self._c.tsm_calls(stream) if hasattr(self._c, _PROGRAM) else len(self.manifest.kernels)

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
        raise _no_copies("a library", "load it again with Library(artifact), in every process for itself")


@again_if_replaced
def _loaded(artifact: str | Path | Artifact) -> tuple[Artifact, ctypes.CDLL]:
    checked = artifact if isinstance(artifact, Artifact) else load_artifact(artifact)
    return checked, open_library(checked)


def _declare(c: ctypes.CDLL) -> None:
    stream = ctypes.c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "tsm_manifest": (ctypes.c_char_p, []),
        "tsm_open": (stream, [ctypes.c_int32]),
        "tsm_reset": (ctypes.c_int32, [stream]),
        "tsm_step": (ctypes.c_int32, [stream, _FLOATS, _FLOATS]),
        "tsm_step_profiled": (ctypes.c_int32, [stream, _FLOATS, _FLOATS, _NANOSECONDS, _NANOSECONDS]),
        "tsm_step_explicit": (
            ctypes.c_int32,
            [stream, _FLOATS, ctypes.POINTER(_FLOATS), _FLOATS, ctypes.POINTER(_FLOATS)],
        ),
        "tsm_close": (None, [stream]),
        "tsm_last_error": (ctypes.c_char_p, []),
    }
    if hasattr(c, _MEASURE):  # artifacts of earlier versions lack it
        signatures[_MEASURE] = (
            ctypes.c_int32,
            [stream, ctypes.POINTER(_Run), _NANOSECONDS, _FLOATS, _NANOSECONDS],
        )
    if hasattr(c, _PROGRAM):  # the same
        signatures[_PROGRAM] = (stream, [ctypes.c_int32, ctypes.c_int32])
        signatures["tsm_calls"] = (ctypes.c_int32, [stream])
    if hasattr(c, _STEP_BYTES):  # the same
        signatures[_STEP_BYTES] = (ctypes.c_int32, [stream, _BYTES, _FLOATS])
    if hasattr(c, _OUTPUT):
        signatures[_OUTPUT] = (ctypes.c_int32, [stream, ctypes.c_int32, _FLOATS])
    if hasattr(c, _YARDSTICK):
        signatures[_YARDSTICK] = (ctypes.c_int32, [_NANOSECONDS])
    for name, (result, arguments) in signatures.items():
        function = getattr(c, name)
        function.restype, function.argtypes = result, arguments


class _Stream:
    """A ``tsm_stream``: one thread at a time is in a call on it, and it is not freed meanwhile.

    Attributes
    ----------
    lock : threading.RLock
        Held in every call; whoever has it may read what the call has written.
    calls : int
        Kernel calls of a frame.
    """

    def __init__(self, library: Library, threads: Threads, program: int = 0) -> None:
        self._library = library
        self._cores = Cores(threads.cores)
        self._address: int | None = None
        self._in_a_call = False
        self._closing = False
        self.lock = threading.RLock()
        with self._cores.workers_begin():
            self._address = library.open_stream(threads.count, program)
        self.calls = library.calls(self._address)
        _streams.add(self)

    def __del__(self) -> None:
        self.close()

    def call(self, function: Any, *arguments: Any) -> None:
        """``function(stream, *arguments)`` of the library.

        Raises
        ------
        ArtifactError
            It failed, or the stream is closed.
        """
        with self.lock:
            self._refuse_in_a_call()
            try:
                self._in_a_call = True  # from here on no signal handler can close it
                if self._address is None or self._closing:
                    raise session_is_closed()
                if self._cores:
                    self._cores.keep()
                code = function(self._address, *arguments)
            finally:
                self._in_a_call = False
            if code:
                raise self._library.failure(f"check it with: tsm-edge verify {self._library.artifact.path}")

    def close(self) -> None:
        """Free the stream, after the call that another thread is in; closing twice is allowed."""
        self._closing = True  # a thread that steps on and on would take the lock again before this one gets it
        with self.lock:
            try:
                self._refuse_in_a_call()
            except ArtifactError:
                self._closing = False
                raise
            address, self._address = self._address, None
            if address is not None:
                self._library.tsm_close(address)
                self._cores.release()

    def new_lock(self) -> None:
        """In the child of a fork: whoever had the lock may be in the parent."""
        self.lock, self._in_a_call, self._closing = threading.RLock(), False, False

    def _refuse_in_a_call(self) -> None:
        """A signal handler may come in the middle of its own thread's call: to wait for its end would be for ever."""
        if self._in_a_call:
            raise ArtifactError("the session is in the middle of a frame", "use it after that, not in a signal handler")


_streams: weakref.WeakSet[_Stream] = weakref.WeakSet()


def _after_fork() -> None:
    for stream in list(_streams):
        stream.new_lock()


os.register_at_fork(after_in_child=_after_fork)


def _no_copies(what: str, hint: str) -> ArtifactError:
    return ArtifactError(f"{what} is part of this process: it can be neither copied nor pickled", hint)


def _chosen(threads: int | Threads | None, manifest: Manifest) -> Threads:
    """What was asked for, or what tuning found.

    Raises
    ------
    ArtifactError
        There cannot be so many, or not on these cores.
    """
    if threads is None:
        return fitting(manifest.threads or Threads(1))
    if isinstance(threads, Threads):
        if fitting(threads).cores != threads.cores:
            raise ArtifactError(f"{threads}: this process may not use all of these", "choose others, or none")
        return threads
    check_threads(threads)
    return Threads(threads)


class OnlineSession:
    """One video stream over a compiled model, in this process: a :class:`tsm_edge.session.base.Session`.

    The shift caches start at zero, live inside the session and are never copied. Sessions over one
    :class:`Library` are independent of each other. After a fork the child may go on with its own copy of the caches,
    on one thread.

    Parameters
    ----------
    model : str, Path, Artifact or Library
        An artifact directory, or an already loaded library to share.
    threads : int, Threads or None
        CPU threads of a step, the caller's included, and the cores they keep to: the thread that steps stays on them
        until the session is closed. None: as tuning found (``manifest.threads``), as far as this machine has such
        cores; without, one.

    Examples
    --------
    >>> with OnlineSession("out/mobilenetv2-jester") as session:          # doctest: +SKIP
    ...     logits = session.step(frame)                                   # float32 [1, classes]
    """

    def __init__(self, model: str | Path | Artifact | Library, threads: int | Threads | None = None) -> None:
        self.library = model if isinstance(model, Library) else Library(model)
        self.manifest = self.library.manifest
        self.threads = _chosen(threads, self.manifest)
        self._stream = _Stream(self.library, self.threads)
        # A step leaves little of the interpreter in the caches: what can be looked up and converted now costs ten times
        # as much there.
        self._tsm_step = self.library.tsm_step
        self._frame_values = ctypes.c_float * math.prod(self.manifest.frame.shape)
        self._logits: NDArray[np.float32] = np.empty(self.manifest.logits.shape, np.float32)
        self._logits_pointer = self._logits.ctypes.data_as(_FLOATS)

    def __enter__(self) -> OnlineSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise _no_copies("a session", "open another with OnlineSession(...)")

    @property
    def reconnections(self) -> int:
        """0: there is no connection to lose."""
        return 0

    def close(self) -> None:
        """Free the stream, after the frame that another thread is in; closing twice is allowed."""
        self._stream.close()

    def reset(self) -> None:
        """Zero the shift caches: the next frame is the first of a video."""
        self._stream.call(self.library.tsm_reset)

    def select(self, program: int) -> int:
        """Go on with another of the library's programs, its caches at zero; for libraries that are made for tuning.

        Returns
        -------
        int
            Its kernel calls a frame.

        Raises
        ------
        ArtifactError
            The library has no such program.
        """
        with self._stream.lock:
            chosen = _Stream(self.library, self.threads, program)
            self._stream.close()
            self._stream = chosen
            return chosen.calls

    def step(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one frame, float32 [1, 3, height, width]; return the logits, float32 [1, classes], the caller's own."""
        with self._stream.lock:
            self._stream.call(self._tsm_step, self._pointer(frame), self._logits_pointer)
            return np.array(self._logits)

    def step_bytes(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As :meth:`step`, of a picture as cameras have it; it is normalised as the manifest says.

        On a GPU a quarter of the bytes goes there.

        Parameters
        ----------
        picture : numpy.ndarray
            uint8 [height, width, 3], RGB; of a clip [frames, height, width, 3], of several one after the other.

        Returns
        -------
        numpy.ndarray
            Logits, the caller's own.

        Raises
        ------
        ArtifactError
            The picture has another shape or dtype, or the library is of an earlier version, which cannot do this.
        """
        if not hasattr(self.library, _STEP_BYTES):
            path = self.library.artifact.path
            raise ArtifactError(f"{path}: its model.so cannot take bytes", "compile it again with: tsm-edge compile")
        values = checked_picture(picture, self.manifest)
        with self._stream.lock:
            pointer = values.ctypes.data_as(_BYTES)
            self._stream.call(self.library.tsm_step_u8, pointer, self._logits_pointer)
            return np.array(self._logits)

    def frame_logits(self) -> NDArray[np.float32]:
        """The logits of every frame of the latest step's clips, float32 [clips * frames, classes], the caller's own."""
        logits = np.empty(frame_logits_shape(self.manifest), np.float32)
        self._stream.call(self.library.tsm_output, 1, logits.ctypes.data_as(_FLOATS))
        return logits

    def step_profiled(self, frame: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """As :meth:`step`, with the nanoseconds each kernel of ``manifest.kernels`` took (uint64)."""
        return self._profiled(frame, None)

    def step_staged(self, frame: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """As :meth:`step`, with the nanoseconds of each stage of ``manifest.kernels``, one kernel's after another's.

        With several threads: what the calling thread spent in them.
        """
        stages = np.zeros(sum(len(kernel.stages) for kernel in self.manifest.kernels), np.uint64)
        return self._profiled(frame, stages)[0], stages

    def _profiled(
        self, frame: NDArray[np.float32], stages: NDArray[np.uint64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        logits = np.empty(self.manifest.logits.shape, np.float32)
        times = np.zeros(len(self.manifest.kernels), np.uint64)
        self._stream.call(
            self.library.tsm_step_profiled,
            self._pointer(frame),
            logits.ctypes.data_as(_FLOATS),
            times.ctypes.data_as(_NANOSECONDS),
            None if stages is None else stages.ctypes.data_as(_NANOSECONDS),
        )
        return logits, times

    def measure(
        self, frames: NDArray[np.float32], first: int, count: int, period_ns: int = 0, kernels: bool = False
    ) -> Timings:
        """Run and time ``count`` frames in the library's own loop, the caches fed back, without the interpreter.

        Parameters
        ----------
        frames : numpy.ndarray
            float32 [n, 3, height, width], given in turn; of clips, the frames of all of them.
        first : int
            Number of the first step: step ``i`` runs frame ``i % n``.
        count : int
        period_ns : int
            0: one step after the other; else nanoseconds between the frames of a camera.
        kernels : bool
            Time every kernel, too.

        Raises
        ------
        ArtifactError
            The frames have another shape or dtype, or the library is of an earlier version, which cannot do this.
        """
        if not hasattr(self.library, _MEASURE):
            raise cannot_measure(str(self.library.artifact.path))
        values = checked_frames(frames, self.manifest)
        steps = max(0, min(count, _MOST_STEPS))
        samples = np.zeros((steps, 3), np.uint64)
        times = np.zeros((steps, self._stream.calls), np.uint64) if kernels else None
        logits = np.empty(self.manifest.logits.shape, np.float32)
        different = len(values) // self.manifest.frame_shape[0]
        run = _Run(values.ctypes.data_as(_FLOATS), different, first, count, period_ns)
        self._stream.call(
            self.library.tsm_measure,
            ctypes.byref(run),
            samples.ctypes.data_as(_NANOSECONDS),
            logits.ctypes.data_as(_FLOATS),
            None if times is None else times.ctypes.data_as(_NANOSECONDS),
        )
        due, start, duration = samples.T.copy()
        return Timings(due, start, duration, logits, times)

    def machine_speed(self) -> Speed | None:
        """Measure how fast the machine is now, with the library's yardstick; None: it is of an earlier version.

        Raises
        ------
        ArtifactError
            There is no memory for it.
        """
        if not hasattr(self.library, _YARDSTICK):
            return None
        times = np.zeros(2, np.uint64)
        if self.library.tsm_yardstick(times.ctypes.data_as(_NANOSECONDS)):
            raise self.library.failure("free some memory")
        return Speed(int(times[0]), int(times[1]))

    def step_explicit(
        self, frame: NDArray[np.float32], caches: list[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Run one frame with the caches in the caller's hands (NCHW, as in the ONNX model)."""
        kept = checked_caches(caches, self.manifest)
        following = [np.empty(info.shape, np.float32) for info in self.manifest.caches]
        logits = np.empty(self.manifest.logits.shape, np.float32)
        array = _FLOATS * max(1, len(kept))
        self._stream.call(
            self.library.tsm_step_explicit,
            self._pointer(frame),
            array(*(cache.ctypes.data_as(_FLOATS) for cache in kept)),
            logits.ctypes.data_as(_FLOATS),
            array(*(cache.ctypes.data_as(_FLOATS) for cache in following)),
        )
        return logits, following

    def _pointer(self, frame: NDArray[np.float32]) -> Any:
        values = checked_frame(frame, self.manifest)
        # The buffer protocol is the shorter way, but not open to what is read-only.
        return self._frame_values.from_buffer(values.data) if values.flags.writeable else values.ctypes.data_as(_FLOATS)
