"""The accuracy of a compiled model on clips, frame by frame as it runs, here or on a device.

Nothing here needs PyTorch or the compiler.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsm_edge.artifact.folder import Artifact, load_artifact
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import height_width
from tsm_edge.errors import ArtifactError
from tsm_edge.progress import Progress, silent
from tsm_edge.rpc.place import Place
from tsm_edge.session.base import Session
from tsm_edge.session.open import open_session
from tsm_edge.training.data import Frames, HeldOutClips
from tsm_edge.training.generated import held_out
from tsm_edge.training.measures import Logits, Measures, measure
from tsm_edge.training.motions import LABELS
from tsm_edge.training.videos import FPS, Held, VideoData, check_clips, find_clips
from tsm_edge.video.preprocess import Preprocessor

_FRAMES = 12


@dataclass(frozen=True)
class EvaluateRequest:
    """What to measure.

    Attributes
    ----------
    artifact : Path
    data : str
        ``motion`` (the generated test clips), or a folder or CSV file of videos.
    clips : int
        How many generated clips.
    frames : int
        Of a clip.
    fps : float
        Frames of a second of videos that are used.
    place : Place or None
        The device it runs on; None: this machine.
    threads : int
    """

    artifact: Path
    data: str = "motion"
    clips: int = 1200
    frames: int = _FRAMES
    fps: float = FPS
    place: Place | None = None
    threads: int = 1


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured.

    Attributes
    ----------
    artifact : Path
    model, target, precision : str
    data : str
    measures : Measures
    """

    artifact: Path
    model: str
    target: str
    precision: str
    data: str
    measures: Measures


def evaluate(request: EvaluateRequest, progress: Progress = silent) -> EvaluateResult:
    """Measure a compiled model.

    Raises
    ------
    ArtifactError
        The artifact is unfit, takes whole clips, or has other classes than the clips.
    TsmEdgeError
        The clips cannot be read, or the device cannot be reached.
    """
    artifact = load_artifact(request.artifact)
    if artifact.manifest.clip:
        raise ArtifactError(
            f"{artifact.path}: takes clips of {artifact.manifest.frames} frames, and is measured on one after another",
            "label whole videos with: tsm-edge label",
        )
    clips = _clips(request, artifact, progress)
    with open_session(artifact, request.place, request.threads) as session:
        logits, truth = run_clips(session, clips, progress)
    manifest = artifact.manifest
    return EvaluateResult(
        artifact.path,
        manifest.model,
        manifest.target.name,
        manifest.precision,
        request.data,
        measure(logits, truth, manifest.labels),
    )


def run_clips(
    session: Session, clips: HeldOutClips, progress: Progress = silent
) -> tuple[Logits, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Logits of every frame ``[clips, T, classes]``, each clip from empty caches, and the classes ``[clips]``."""
    card = session.manifest.preprocess
    # The frames are cropped already.
    preprocess = Preprocessor(dataclasses.replace(card, short_side=min(height_width(card.crop))))
    logits, truth = [], []
    for index in range(len(clips)):
        frames, labels = clips.batch([index])
        logits.append(_run_clip(session, preprocess, frames[0]))
        truth.append(labels[0, -1])
        progress(f"clip {index + 1} of {len(clips)}", (index + 1) / len(clips))
    return np.stack(logits), np.array(truth)


def _run_clip(session: Session, preprocess: Preprocessor, frames: Frames) -> Logits:
    session.reset()
    return np.stack([session.step(preprocess(frame)).reshape(-1) for frame in frames])


def _clips(request: EvaluateRequest, artifact: Artifact, progress: Progress) -> HeldOutClips:
    manifest = artifact.manifest
    if request.data == "motion":
        if manifest.labels != LABELS:
            raise _other_classes(manifest, LABELS, request.data)
        height, width = height_width(manifest.preprocess.crop)
        if height != width:
            raise ArtifactError(
                f"{artifact.path}: takes frames of {height}x{width} px, generated clips are square",
                "give clips with: --data DIR",
            )
        return held_out(request.frames, height, request.clips)
    found = find_clips(Path(request.data), fewest=1, classes=1)
    if unknown := sorted({clip.label for clip in found} - set(manifest.labels)):
        raise _other_classes(manifest, unknown, request.data)
    check_clips(found, manifest.preprocess, request.fps, progress)
    data = VideoData(
        manifest.labels,
        ((), (), found),
        manifest.preprocess,
        request.frames,
        request.fps,
        0,
        request.data,
    )
    return Held(data, found)


def _other_classes(manifest: Manifest, wanted: object, data: str) -> ArtifactError:
    return ArtifactError(
        f"{manifest.model}: its classes are {', '.join(manifest.labels) or 'numbers'}; {data} has others: "
        f"{', '.join(map(str, wanted))}",  # type: ignore[call-overload]
        "name the folders of the clips as its classes, or choose another --data",
    )
