"""Does a compiled model compute what its ONNX file says? Frame by frame, caches fed back on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tsm_edge.artifact.folder import GOLDEN, LIBRARY, Artifact, load_artifact
from tsm_edge.artifact.golden import network_input, read_golden, steps_of
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.artifact.reference import Reference
from tsm_edge.files.replacement import again_if_replaced
from tsm_edge.session.base import Session
from tsm_edge.session.open import open_session
from tsm_edge.verify.quality import LEAST_DB, Step, quality_of

if TYPE_CHECKING:
    from tsm_edge.rpc.place import Place

_FRAMES = 16


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
    tolerance : float
        Largest error that passes: of the artifact's precision.
    """

    name: str
    shape: tuple[int, ...]
    magnitude: float
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (a NaN is not)."""
        return bool(self.error <= self.tolerance)


@dataclass(frozen=True)
class VerifyResult:
    """The comparison of all outputs.

    Attributes
    ----------
    path : Path
    frames : int
        Frames compared, with cache feedback; the caches are reset once, half way. Of a model of clips, steps.
    threads : int
    checks : tuple of TensorCheck
        The logits of the session's own stream, the logits with explicit caches, then every cache.
    tolerance : float
        Of the logits, relative to the largest value.
    ran : str
        What was run, and where.
    against : str
        What it was compared with.
    quality_db : float or None
        Of a model in integers: signal-to-noise ratio of its logits against the float model's.
    clips : int
        Of a step; 0: the model takes frames.
    """

    path: Path
    frames: int
    threads: int
    checks: tuple[TensorCheck, ...]
    tolerance: float
    ran: str = LIBRARY
    against: str = "ONNX Runtime"
    quality_db: float | None = None
    clips: int = 0

    @property
    def shown(self) -> str:
        """What the model was given, for people."""
        if not self.clips:
            return f"{self.frames} frames with cache feedback"
        return f"{self.frames} clips" if self.clips == 1 else f"{self.frames} times {self.clips} clips"

    @property
    def passed(self) -> bool:
        """Whether every output agrees, and the integers are near enough to the float model."""
        good = self.quality_db is None or self.quality_db >= LEAST_DB
        return good and all(check.passed for check in self.checks)


@again_if_replaced
def verify_artifact(
    path: Path | Artifact,
    onnx: Path | None = None,
    frames: int | None = None,
    threads: int = 1,
    seed: int = 0,
    place: Place | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> VerifyResult:
    """Run an artifact against ONNX Runtime on the ONNX file it was compiled from.

    Parameters
    ----------
    path : Path or Artifact
    onnx : Path, optional
        By default the artifact's own ``model.onnx``.
    frames : int, optional
        Steps. By default 16 frames, which let every cache go round many times, or 16 clips.
    threads : int
        Of the artifact.
    seed : int
        Of the normally distributed frames.
    place : Place, optional
        The device the model runs on, where caches travel too, to be compared; None: this machine.
    notify : callable
        As of :func:`tsm_edge.session.open.open_session`.

    Raises
    ------
    ArtifactError
        The artifact or its ONNX file is missing, or the ONNX file is another than the one compiled.
    RpcError
        The device cannot be reached, does not fit the model, or fails.
    """
    artifact = path if isinstance(path, Artifact) else load_artifact(path)
    frames = frames or max(2, steps_of(_FRAMES, artifact.manifest))
    with open_session(artifact, place, threads, notify=notify) as session:
        reference = Reference(onnx or artifact.reference, artifact.manifest)
        steps: list[Step] = []
        checks = _compare(session, reference, frames, seed, steps)
    ran = f"{LIBRARY} on {place}" if place else LIBRARY
    quality, manifest = quality_of(artifact, steps), artifact.manifest
    clips = manifest.whole_clips
    return VerifyResult(
        artifact.path, frames, threads, checks, manifest.tolerance, ran, quality_db=quality, clips=clips
    )


def _compare(
    session: Session, reference: Reference, frames: int, seed: int, steps: list[Step]
) -> tuple[TensorCheck, ...]:
    """Compare frame by frame; of a model in integers, note every step."""
    manifest = session.manifest
    gather = Gather(manifest)
    random = np.random.default_rng(seed)
    zeros = [np.zeros(cache.shape, np.float32) for cache in manifest.caches]
    caches = zeros
    for index in range(frames):
        begins = index in (0, frames // 2)
        if index == frames // 2:
            session.reset()
            reference.reset()
            caches = zeros
        frame = random.standard_normal(manifest.frame_shape, np.float32)
        explicit, caches = session.step_explicit(frame, caches)
        wanted = reference.step(frame)
        gather.add([session.step(frame), explicit, *_further(session, caches)], wanted)
        if manifest.exact:
            steps.append((frame, wanted[0], begins))
    return gather.checks()


def _further(session: Session, caches: list[np.ndarray]) -> list[np.ndarray]:
    """What the latest step made beside the logits."""
    return [session.frame_logits()] if session.manifest.clip else caches


@again_if_replaced
def verify_golden(path: Path | Artifact, threads: int = 1) -> VerifyResult:
    """Run an artifact against its own golden frames: where there is no ONNX Runtime.

    Raises
    ------
    ArtifactError
        The artifact or its ``golden.bin`` is missing or damaged.
    """
    artifact = path if isinstance(path, Artifact) else load_artifact(path)
    with open_session(artifact, threads=threads) as session:
        return check_golden(session, artifact, threads)


def check_golden(session: Session, artifact: Artifact, threads: int, ran: str = LIBRARY) -> VerifyResult:
    """Run the golden frames of an artifact in an open session of it, which then begins anew.

    The logits of every frame are compared, and the caches after the last one.

    Raises
    ------
    ArtifactError
        Its ``golden.bin`` is missing or damaged.
    RpcError
        The session is on a device, which fails.
    """
    manifest = artifact.manifest
    golden = read_golden(artifact.path / GOLDEN, manifest)
    gather = Gather(manifest)
    zeros = [np.zeros(cache.shape, np.float32) for cache in manifest.caches]
    caches = zeros
    session.reset()
    for index, (picture, (logits, *wanted)) in enumerate(zip(golden.frames, golden.outputs, strict=True)):
        if index == golden.reset:
            session.reset()
            caches = zeros
        frame = network_input(picture, manifest.preprocess)
        explicit, caches = session.step_explicit(frame, caches)
        found = [session.step(frame), explicit, *_further(session, caches)]
        gather.add(found, [logits, *(wanted or found[2:])])
    session.reset()
    frames, against = len(golden.frames), f"its {GOLDEN}"
    clips = manifest.whole_clips
    return VerifyResult(artifact.path, frames, threads, gather.checks(), manifest.tolerance, ran, against, clips=clips)


def output_names(manifest: Manifest) -> list[str]:
    """What is compared: the logits of the stream's own caches, those with explicit caches, every next cache.

    Of a clip, in the caches' place, the logits of every frame.
    """
    logits = manifest.logits.name
    return [logits, f"{logits} (explicit caches)", *(tensor.name for tensor in manifest.further)]


class Gather:
    """Largest difference and magnitude of each output over the frames."""

    def __init__(self, manifest: Manifest) -> None:
        self.names = output_names(manifest)
        caches = {cache.output for cache in manifest.caches}
        self.tolerances = [manifest.cache_tolerance if name in caches else manifest.tolerance for name in self.names]
        self.errors = np.zeros(len(self.names))
        self.magnitudes = np.zeros(len(self.names))
        self.shapes: list[tuple[int, ...]] = [()] * len(self.names)

    def add(self, found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
        """Compare one frame; ``wanted`` is the reference's outputs, whose logits stand for both of ours."""
        for index, (ours, theirs) in enumerate(zip(found, [wanted[0], *wanted], strict=True)):
            # fmax would hide a NaN; maximum keeps it.
            self.errors[index] = np.maximum(self.errors[index], np.max(np.abs(ours - theirs), initial=0.0))
            self.magnitudes[index] = np.maximum(self.magnitudes[index], np.max(np.abs(theirs), initial=0.0))
            self.shapes[index] = theirs.shape

    def checks(self) -> tuple[TensorCheck, ...]:
        """The comparison of each output over all frames."""
        rows = zip(self.names, self.shapes, self.magnitudes, self.errors, self.tolerances, strict=True)
        return tuple(
            TensorCheck(name, shape, float(magnitude), float(error / magnitude if magnitude else error), tolerance)
            for name, shape, magnitude, error, tolerance in rows
        )
