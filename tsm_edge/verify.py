"""Does a compiled model compute what its ONNX file says? Frame by frame, caches fed back on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tsm_edge.artifact import GOLDEN, LIBRARY, MODEL_ONNX, Artifact, load_artifact
from tsm_edge.golden import network_input, read_golden
from tsm_edge.manifest import Manifest
from tsm_edge.precision import FP32
from tsm_edge.reference import Reference
from tsm_edge.replacement import again_if_replaced
from tsm_edge.session import OnlineSession

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = FP32.tolerance


@dataclass(frozen=True)
class TensorCheck:
    """The comparison of one output over all frames.

    Attributes
    ----------
    name : str
        ONNX output.
    shape : tuple of int
    magnitude : float
        Largest absolute reference value.
    error : float
        Largest absolute difference, divided by ``magnitude``.
    """

    name: str
    shape: tuple[int, ...]
    magnitude: float
    error: float

    @property
    def passed(self) -> bool:
        """Whether the error is within :data:`TOLERANCE` (a NaN is not)."""
        return bool(self.error <= TOLERANCE)


@dataclass(frozen=True)
class VerifyResult:
    """The comparison of all outputs.

    Attributes
    ----------
    path : Path
    frames : int
        Frames compared, with cache feedback; the caches are reset once, half way.
    threads : int
    checks : tuple of TensorCheck
        The logits of the session's own stream, the logits with explicit caches, then every cache.
    ran : str
        What was run, and where.
    against : str
        What it was compared with.
    """

    path: Path
    frames: int
    threads: int
    checks: tuple[TensorCheck, ...]
    ran: str = LIBRARY
    against: str = "ONNX Runtime"

    @property
    def passed(self) -> bool:
        """Whether every output agrees."""
        return all(check.passed for check in self.checks)


class ExplicitSession(Protocol):
    """What is needed of a session: :class:`tsm_edge.session.OnlineSession`, or one like it."""

    def reset(self) -> None:
        """Forget the frames so far."""

    def step(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a frame with the session's own caches."""

    def step_explicit(
        self, frame: NDArray[np.float32], caches: list[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Run a frame with these caches; also return the next ones."""


@again_if_replaced
def verify_artifact(
    path: Path | Artifact, onnx: Path | None = None, frames: int = 16, threads: int = 1, seed: int = 0
) -> VerifyResult:
    """Run an artifact against ONNX Runtime on the ONNX file it was compiled from.

    Parameters
    ----------
    path : Path or Artifact
    onnx : Path, optional
        By default the artifact's own ``model.onnx``.
    frames : int
        16 or more let every cache go round many times.
    threads : int
        Of the artifact.
    seed : int
        Of the normally distributed frames.

    Raises
    ------
    ArtifactError
        The artifact or its ONNX file is missing, or the ONNX file is another than the one compiled.
    """
    artifact = path if isinstance(path, Artifact) else load_artifact(path)
    with OnlineSession(artifact, threads=threads) as session:
        return verify_session(session, artifact, onnx, frames, threads, seed)


def verify_session(
    session: ExplicitSession,
    artifact: Artifact,
    onnx: Path | None = None,
    frames: int = 16,
    threads: int = 1,
    seed: int = 0,
    ran: str = LIBRARY,
) -> VerifyResult:
    """As :func:`verify_artifact`, for a session that is open, here or on another machine; ``ran`` describes it.

    Raises
    ------
    ArtifactError
        The ONNX file is missing, or is another than the one compiled.
    TsmEdgeError
        Of the session.
    """
    manifest = artifact.manifest
    reference = Reference(onnx or artifact.path / MODEL_ONNX, manifest)
    gather = Gather(output_names(manifest))
    random = np.random.default_rng(seed)
    zeros = [np.zeros(cache.shape, np.float32) for cache in manifest.caches]
    caches = zeros
    session.reset()
    for index in range(frames):
        if index == frames // 2:
            session.reset()
            reference.reset()
            caches = zeros
        frame = random.standard_normal(manifest.frame_shape, np.float32)
        explicit, caches = session.step_explicit(frame, caches)
        gather.add([session.step(frame), explicit, *caches], reference.step(frame))
    return VerifyResult(artifact.path, frames, threads, gather.checks(), ran)


def verify_golden(path: Path | Artifact, threads: int = 1) -> VerifyResult:
    """Run an artifact against its own golden frames: where there is no ONNX Runtime.

    The logits of every frame are compared, and the caches after the last one.

    Raises
    ------
    ArtifactError
        The artifact or its ``golden.bin`` is missing or damaged.
    """
    artifact = path if isinstance(path, Artifact) else load_artifact(path)
    manifest = artifact.manifest
    golden = read_golden(artifact.path / GOLDEN, manifest)
    gather = Gather(output_names(manifest))
    zeros = [np.zeros(cache.shape, np.float32) for cache in manifest.caches]
    caches = zeros
    with OnlineSession(artifact, threads) as session:
        for index, (picture, (logits, *wanted)) in enumerate(zip(golden.frames, golden.outputs, strict=True)):
            if index == golden.reset:
                session.reset()
                caches = zeros
            frame = network_input(picture, manifest.preprocess)
            explicit, caches = session.step_explicit(frame, caches)
            gather.add([session.step(frame), explicit, *caches], [logits, *(wanted or caches)])
    return VerifyResult(artifact.path, len(golden.frames), threads, gather.checks(), against=f"its {GOLDEN}")


def output_names(manifest: Manifest) -> list[str]:
    """What is compared: the logits of the stream's own caches, those with explicit caches, every next cache."""
    logits = manifest.logits.name
    return [logits, f"{logits} (explicit caches)", *(cache.output for cache in manifest.caches)]


class Gather:
    """Largest difference and magnitude of each output over the frames."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.errors = np.zeros(len(names))
        self.magnitudes = np.zeros(len(names))
        self.shapes: list[tuple[int, ...]] = [()] * len(names)

    def add(self, found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
        """Compare one frame; ``wanted`` is the reference's outputs, whose logits stand for both of ours."""
        for index, (ours, theirs) in enumerate(zip(found, [wanted[0], *wanted], strict=True)):
            # fmax would hide a NaN; maximum keeps it.
            self.errors[index] = np.maximum(self.errors[index], np.max(np.abs(ours - theirs), initial=0.0))
            self.magnitudes[index] = np.maximum(self.magnitudes[index], np.max(np.abs(theirs), initial=0.0))
            self.shapes[index] = theirs.shape

    def checks(self) -> tuple[TensorCheck, ...]:
        """The comparison of each output over all frames."""
        rows = zip(self.names, self.shapes, self.magnitudes, self.errors, strict=True)
        return tuple(
            TensorCheck(name, shape, float(magnitude), float(error / magnitude if magnitude else error))
            for name, shape, magnitude, error in rows
        )
