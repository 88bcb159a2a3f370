"""Live inference on a compiled artifact: a frame in, logits out, the shift caches kept inside."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tsm_edge.artifact.folder import Artifact
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards.architecture import check_threads
from tsm_edge.cards.threads import Threads
from tsm_edge.errors import ArtifactError
from tsm_edge.session.affinity import fitting
from tsm_edge.session.base import checked_caches, checked_frame, checked_picture, frame_logits_shape
from tsm_edge.session.library import BYTES, FLOATS, NANOSECONDS, Library, Run, no_copies
from tsm_edge.session.stream import Stream
from tsm_edge.session.timings import Speed, Timings, cannot_measure, checked_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_STEPS = 2**31 - 1


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
        self._stream = Stream(self.library, self.threads)
        # A step leaves little of the interpreter in the caches: what can be looked up and converted now costs ten times
        # as much there.
        self._tsm_step = self.library.tsm_step
        self._frame_values = ctypes.c_float * math.prod(self.manifest.frame.shape)
        self._logits: NDArray[np.float32] = np.empty(self.manifest.logits.shape, np.float32)
        self._logits_pointer = self._logits.ctypes.data_as(FLOATS)

    def __enter__(self) -> OnlineSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise no_copies("a session", "open another with OnlineSession(...)")

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
            chosen = Stream(self.library, self.threads, program)
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
        if not hasattr(self.library, "tsm_step_u8"):
            path = self.library.artifact.path
            raise ArtifactError(f"{path}: its model.so cannot take bytes", "compile it again with: tsm-edge compile")
        values = checked_picture(picture, self.manifest)
        with self._stream.lock:
            pointer = values.ctypes.data_as(BYTES)
            self._stream.call(self.library.tsm_step_u8, pointer, self._logits_pointer)
            return np.array(self._logits)

    def frame_logits(self) -> NDArray[np.float32]:
        """The logits of every frame of the latest step's clips, float32 [clips * frames, classes], the caller's own."""
        logits = np.empty(frame_logits_shape(self.manifest), np.float32)
        self._stream.call(self.library.tsm_output, 1, logits.ctypes.data_as(FLOATS))
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
            logits.ctypes.data_as(FLOATS),
            times.ctypes.data_as(NANOSECONDS),
            None if stages is None else stages.ctypes.data_as(NANOSECONDS),
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
        if not hasattr(self.library, "tsm_measure"):
            raise cannot_measure(str(self.library.artifact.path))
        values = checked_frames(frames, self.manifest)
        steps = max(0, min(count, _MOST_STEPS))
        samples = np.zeros((steps, 3), np.uint64)
        times = np.zeros((steps, self._stream.calls), np.uint64) if kernels else None
        logits = np.empty(self.manifest.logits.shape, np.float32)
        different = len(values) // self.manifest.frame_shape[0]
        run = Run(values.ctypes.data_as(FLOATS), different, first, count, period_ns)
        self._stream.call(
            self.library.tsm_measure,
            ctypes.byref(run),
            samples.ctypes.data_as(NANOSECONDS),
            logits.ctypes.data_as(FLOATS),
            None if times is None else times.ctypes.data_as(NANOSECONDS),
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
        if not hasattr(self.library, "tsm_yardstick"):
            return None
        times = np.zeros(2, np.uint64)
        if self.library.tsm_yardstick(times.ctypes.data_as(NANOSECONDS)):
            raise self.library.failure("free some memory")
        return Speed(int(times[0]), int(times[1]))

    def step_explicit(
        self, frame: NDArray[np.float32], caches: list[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Run one frame with the caches in the caller's hands (NCHW, as in the ONNX model)."""
        kept = checked_caches(caches, self.manifest)
        following = [np.empty(info.shape, np.float32) for info in self.manifest.caches]
        logits = np.empty(self.manifest.logits.shape, np.float32)
        array = FLOATS * max(1, len(kept))
        self._stream.call(
            self.library.tsm_step_explicit,
            self._pointer(frame),
            array(*(cache.ctypes.data_as(FLOATS) for cache in kept)),
            logits.ctypes.data_as(FLOATS),
            array(*(cache.ctypes.data_as(FLOATS) for cache in following)),
        )
        return logits, following

    def _pointer(self, frame: NDArray[np.float32]) -> Any:
        values = checked_frame(frame, self.manifest)
        # The buffer protocol is the shorter way, but not open to what is read-only.
        return self._frame_values.from_buffer(values.data) if values.flags.writeable else values.ctypes.data_as(FLOATS)
