"""Does a compiled model compute what its ONNX file says? Frame by frame, caches fed back on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsm_edge.artifact import MODEL_ONNX, Artifact, file_sha256, load_artifact
from tsm_edge.errors import ArtifactError
from tsm_edge.session import OnlineSession

# float32 sums in another order: a few units of rounding over a few hundred layers.
TOLERANCE = 1e-4


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
    """

    path: Path
    frames: int
    threads: int
    checks: tuple[TensorCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every output agrees."""
        return all(check.passed for check in self.checks)


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
        At least 16, so that every cache has gone round many times.
    threads : int
        Of the artifact.
    seed : int
        Of the normally distributed frames.

    Raises
    ------
    ArtifactError
        The artifact or its ONNX file is missing, or the ONNX file is another than the one compiled.
    """
    import onnxruntime

    artifact = path if isinstance(path, Artifact) else load_artifact(path)
    manifest = artifact.manifest
    reference_file = onnx or artifact.path / MODEL_ONNX
    if not reference_file.is_file():
        raise ArtifactError(f"{reference_file}: no such file", "name the ONNX file with: tsm-edge verify --onnx FILE")
    if file_sha256(reference_file) != manifest.hashes.get("onnx"):
        raise ArtifactError(
            f"{reference_file}: not the file {artifact.path} was compiled from", "compile again with: tsm-edge compile"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    reference = onnxruntime.InferenceSession(str(reference_file), options, providers=["CPUExecutionProvider"])
    inputs = [cache.input for cache in manifest.caches]
    outputs = [manifest.logits.name, *(cache.output for cache in manifest.caches)]
    names = [manifest.logits.name, f"{manifest.logits.name} (explicit caches)", *outputs[1:]]
    gather = _Gather(names)
    random = np.random.default_rng(seed)
    zeros = [np.zeros(cache.shape, np.float32) for cache in manifest.caches]
    with OnlineSession(artifact, threads=threads) as session:
        wanted_caches, found_caches = zeros, zeros
        for index in range(frames):
            if index == frames // 2:
                session.reset()
                wanted_caches, found_caches = zeros, zeros
            frame = random.standard_normal(manifest.frame_shape, np.float32)
            feed = {manifest.frame.name: frame, **dict(zip(inputs, wanted_caches, strict=True))}
            logits, *wanted_caches = reference.run(outputs, feed)
            explicit, found_caches = session.step_explicit(frame, found_caches)
            found = [session.step(frame), explicit, *found_caches]
            gather.add(found, [logits, logits, *wanted_caches])
    return VerifyResult(artifact.path, frames, threads, gather.checks())


class _Gather:
    """Largest difference and magnitude of each output over the frames."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.errors = np.zeros(len(names))
        self.magnitudes = np.zeros(len(names))
        self.shapes: list[tuple[int, ...]] = [()] * len(names)

    def add(self, found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
        for index, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            # fmax would hide a NaN; maximum keeps it.
            self.errors[index] = np.maximum(self.errors[index], np.max(np.abs(ours - theirs), initial=0.0))
            self.magnitudes[index] = np.maximum(self.magnitudes[index], np.max(np.abs(theirs), initial=0.0))
            self.shapes[index] = theirs.shape

    def checks(self) -> tuple[TensorCheck, ...]:
        rows = zip(self.names, self.shapes, self.magnitudes, self.errors, strict=True)
        return tuple(
            TensorCheck(name, shape, float(magnitude), float(error / magnitude if magnitude else error))
            for name, shape, magnitude, error in rows
        )
