"""What a session is, wherever its model runs: the protocol, and the checks that every session makes alike."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tsm_edge.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tsm_edge.artifact.manifest import Manifest, TensorInfo


class Session(Protocol):
    """One video stream over a compiled model; :func:`tsm_edge.session.open.open_session` opens one.

    It is a context manager, and leaving it closes it.

    Arrays
        Every array a session returns is a fresh one: it belongs to the caller, who may write into it, and no later
        step changes it. An array the caller gives is only read, and only during the call.
    Threads
        Any thread may call; one at a time is in a session, and a second one waits. Two sessions know nothing of each
        other.
    After ``close``
        Closing twice is allowed. Every other method then raises :class:`ArtifactError`: the session is closed.
    """

    @property
    def manifest(self) -> Manifest:
        """Of the artifact that runs; readable after ``close``, too."""

    @property
    def reconnections(self) -> int:
        """How often a lost device was connected again: the caches then began from zero. Here always 0."""

    def reset(self) -> None:
        """Zero the shift caches: the next frame is the first of a video.

        Raises
        ------
        ArtifactError
            The session is closed.
        """

    def step(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one frame.

        Parameters
        ----------
        frame : numpy.ndarray
            float32 [1, 3, height, width], normalised RGB; in any memory order. Of a model of clips all frames of one,
            [frames, 3, height, width], or of as many as it takes a step, one after the other.

        Returns
        -------
        numpy.ndarray
            Logits, float32, of the ONNX model's shape ([1, classes]); of a clip their mean over the frames, [classes],
            of several [clips, classes]. The caller's own.

        Raises
        ------
        ArtifactError
            The frame has another shape or dtype, or the session is closed.
        RpcError
            The device fails, does not answer in time, or was lost and could not be reached again.
        """

    def frame_logits(self) -> NDArray[np.float32]:
        """The logits of every frame of the latest step's clips, float32 [clips * frames, classes]. The caller's own.

        Raises
        ------
        ArtifactError
            There was no step yet, the model is none of clips, or the session is closed.
        RpcError
            As of :meth:`step`.
        """

    def step_explicit(
        self, frame: NDArray[np.float32], caches: list[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Run one frame with the caches in the caller's hands: for checking.

        The session's own caches are neither read nor written.

        Parameters
        ----------
        frame : numpy.ndarray
            As for :meth:`step`.
        caches : list of numpy.ndarray
            float32 NCHW, in the order and shapes of ``manifest.caches``; zeros before the first frame.

        Returns
        -------
        logits : numpy.ndarray
            As of :meth:`step`.
        caches : list of numpy.ndarray
            Those of the next frame, in the same order and shapes. The caller's own.

        Raises
        ------
        ArtifactError, RpcError
            As of :meth:`step`, and where the caches are not those of this model.
        """

    def close(self) -> None:
        """Free what the session holds, after the frame that another thread is in; closing twice is allowed."""

    def __enter__(self) -> Session:
        """Return the session itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""


def session_is_closed() -> ArtifactError:
    """What a closed session answers."""
    return ArtifactError("the session is closed", "open another with: open_session(DIR)")


def frame_logits_shape(manifest: Manifest) -> tuple[int, ...]:
    """Shape of the logits of every frame of a step's clips.

    Raises
    ------
    ArtifactError
        The model is none of clips.
    """
    if not manifest.clip:
        raise ArtifactError(
            f"{manifest.model} takes one frame a step: it has no frame_logits",
            "read what step returns, or compile for clips with: tsm-edge compile --mode offline",
        )
    return manifest.outputs[1].shape


def checked_frame(frame: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """Return a frame with its values contiguous.

    Raises
    ------
    ArtifactError
        It is not of the model's shape and dtype.
    """
    info: TensorInfo = manifest.frame
    return _checked_tensor(frame, info.name, info.shape)


def checked_picture(picture: NDArray[np.uint8], manifest: Manifest) -> NDArray[np.uint8]:
    """Return a picture, or of a clip all of them, with the bytes contiguous.

    Raises
    ------
    ArtifactError
        It is not of the model's size, or not of bytes.
    """
    if manifest.frame.shape[1] != 3:
        raise ArtifactError(
            f"{manifest.model} takes {manifest.frame.shape[1]} channels: no pictures", "give what it takes to step"
        )
    shape = manifest.picture_shape
    if not isinstance(picture, np.ndarray) or picture.shape != shape or picture.dtype != np.uint8:
        found = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ArtifactError(
            f"picture is {found}, expected uint8 {list(shape)}", "resize and crop it as manifest.preprocess says"
        )
    return picture if picture.flags.c_contiguous else np.ascontiguousarray(picture)


def checked_caches(caches: Sequence[NDArray[np.float32]], manifest: Manifest) -> list[NDArray[np.float32]]:
    """Return explicit caches with their values contiguous.

    Raises
    ------
    ArtifactError
        There are more or fewer than the model has, or one is not of its shape and dtype.
    """
    infos = manifest.caches
    if len(caches) != len(infos):
        raise ArtifactError(
            f"step_explicit got {len(caches)} caches, expected {len(infos)}", "manifest.caches lists them"
        )
    return [_checked_tensor(cache, info.input, info.shape) for cache, info in zip(caches, infos, strict=True)]


def _checked_tensor(array: NDArray[np.float32], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float32:
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        same_shape = isinstance(array, np.ndarray) and array.shape == shape
        hint = "convert it: numpy.asarray(x, 'float32')" if same_shape else "make it of that shape, see manifest.json"
        raise ArtifactError(f"{name} is {found}, expected float32 {list(shape)}", hint)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)
