"""What a timed loop of frames gives, wherever it ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsm_edge.artifact.manifest import Manifest


@dataclass(frozen=True)
class Timings:
    """Times of consecutive frames; nanoseconds, uint64, on the clock of the machine they ran on.

    Attributes
    ----------
    due_ns : numpy.ndarray
        [count]: when each frame came from its camera; without one, as ``start_ns``.
    start_ns : numpy.ndarray
        [count]: when its step began.
    duration_ns : numpy.ndarray
        [count]
    logits : numpy.ndarray
        float32, of the last frame.
    kernels_ns : numpy.ndarray or None
        [count, kernels]: durations, where they were asked for.
    """

    due_ns: NDArray[np.uint64]
    start_ns: NDArray[np.uint64]
    duration_ns: NDArray[np.uint64]
    logits: NDArray[np.float32]
    kernels_ns: NDArray[np.uint64] | None


@dataclass(frozen=True)
class Speed:
    """How fast a machine is at a moment, whatever the model: what fixed work of one thread took there.

    Attributes
    ----------
    arithmetic_ns : int
        Multiply-adds over what a second-level cache holds.
    memory_ns : int
        A pass over more than that.
    """

    arithmetic_ns: int
    memory_ns: int


def checked_frames(frames: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """Return frames with their values contiguous.

    Raises
    ------
    ArtifactError
        They are not at least one of the model's shape and dtype, or no whole clips.
    """
    each, *one = manifest.frame.shape
    if len(frames) % each:
        steps = f"steps of {manifest.clips} clips, {each} frames" if manifest.clips > 1 else f"clips of {each}"
        raise ArtifactError(f"there are {len(frames)} frames, expected whole {steps}", "leave the last ones out")
    if frames.ndim != 4 or not len(frames) or [*frames.shape[1:]] != one or frames.dtype != np.float32:
        raise ArtifactError(
            f"frames are {frames.dtype} {list(frames.shape)}, expected float32 [n, {', '.join(map(str, one))}]",
            "see the shape of a frame in manifest.json",
        )
    return np.ascontiguousarray(frames)


def cannot_measure(artifact: str) -> ArtifactError:
    """What an artifact of an earlier version answers."""
    return ArtifactError(
        f"{artifact} was compiled by an earlier tsm-edge: its model.so has no loop to be timed in",
        "compile it again with: tsm-edge compile",
    )
