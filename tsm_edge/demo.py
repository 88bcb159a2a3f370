"""The main job in one call: export, compile for this machine, verify, run on a clip."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tsm_edge.artifact.folder import OUTPUT_FOLDER
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import DEFAULT_MODEL, load_model, load_target, model_files
from tsm_edge.cards.architecture import check_threads
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import CheckFailed, VideoError
from tsm_edge.files.atomic import check_writable
from tsm_edge.files.paths import refuse_replacing
from tsm_edge.live.run import RunRequest, RunSummary, run
from tsm_edge.progress import Progress, silent
from tsm_edge.session.open import open_session
from tsm_edge.verify.compare import VerifyResult, verify_artifact
from tsm_edge.video.source import SourceInfo, open_source
from tsm_edge.video.writer import VideoFile

# The share of the demo's time at which the model is usually compiled, and verified.
_COMPILED, _VERIFIED = 0.93, 0.96


@dataclass(frozen=True)
class DemoRequest:
    """What the demo runs on.

    Attributes
    ----------
    model : str
        Model card.
    checkpoint : Path or None
        Trained weights; None: random ones, and predictions mean nothing.
    video : str, Path or None
        A clip, or a stream's address; None: one is generated.
    output : Path
        Folder for the artifact, the clip and the annotated video.
    threads : int
        CPU threads of the network.
    """

    model: str = DEFAULT_MODEL
    checkpoint: Path | None = None
    video: str | Path | None = None
    output: Path = OUTPUT_FOLDER
    threads: int = 1


@dataclass(frozen=True)
class DemoResult:
    """What the demo did.

    Attributes
    ----------
    artifact : Path
    manifest : Manifest
    verify : VerifyResult
    run : RunSummary
    labels : tuple of (str, int)
        Labels shown and for how many frames, most frequent first.
    video : Path
        The annotated video.
    seconds : float
        For everything.
    """

    artifact: Path
    manifest: Manifest
    verify: VerifyResult
    run: RunSummary
    labels: tuple[tuple[str, int], ...]
    video: Path
    seconds: float


def run_demo(
    request: DemoRequest, progress: Progress = silent, warn: Callable[[str], None] = lambda text: None
) -> DemoResult:
    """Export, compile, verify and run.

    Parameters
    ----------
    request : DemoRequest
    progress, warn : callable, optional
        Called with what is being done, and with what is not as it should be, but does not hinder.

    Raises
    ------
    CheckFailed
        The compiled model does not agree with ONNX Runtime.
    TsmEdgeError
        As from the stages.
    """
    started = time.monotonic()
    card = load_model(request.model)
    target = load_target("native")
    check_threads(request.threads)
    folder, drawn, annotated = (
        request.output / name for name in (f"{card.name}-native", "demo-clip.mp4", "demo-annotated.mp4")
    )
    inputs = [request.checkpoint, *model_files(request.model, card)]
    if request.video is not None:
        open_source(request.video).close()  # it can be read: said before the long stages
        inputs.append(Path(request.video))
    for path in (annotated,) if request.video else (annotated, drawn):
        _check_output(path, inputs)
    # tsm-runner is for devices.
    artifact = compile_model(
        CompileRequest(target, folder, card, request.checkpoint, runner=False),
        lambda text, done: progress(text, done * _COMPILED),
        warn=warn,
    )
    progress("verifying against ONNX Runtime", _COMPILED)
    verified = verify_artifact(artifact)
    if not verified.passed:
        raise CheckFailed(f"{folder}: does not agree with ONNX Runtime", f"see: tsm-edge verify {folder}")
    clip = request.video
    if clip is None:
        progress("drawing a clip", _VERIFIED)
        clip = write_clip(drawn)
    shown: Counter[str] = Counter()
    progress(f"running on {clip}", _VERIFIED)
    with (
        open_session(artifact, threads=request.threads) as session,
        open_source(clip) as source,
        run(session, source, RunRequest(smooth=True, out=annotated)) as results,
    ):
        for result in results:
            shown[result.label] += 1
    return DemoResult(
        artifact.path,
        artifact.manifest,
        verified,
        results.summary(),
        tuple(shown.most_common()),
        annotated,
        time.monotonic() - started,
    )


def _check_output(path: Path, inputs: Iterable[Path | None]) -> None:
    """Refuse a place for a video before the work."""
    refuse_replacing(path, inputs, "-o DIR")
    try:
        check_writable(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be written ({error.strerror})", "choose another folder: -o DIR") from None


def write_clip(path: Path, frames: int = 90, fps: float = 30.0) -> Path:
    """Draw a clip of a hand-sized disc that swipes left and right, 320 × 240 pixels, and write it as MP4.

    Raises
    ------
    VideoError
        The file cannot be written.
    """
    import cv2

    height, width = 240, 320
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(40, 120, width, dtype=np.float32)[None, :, None]
    background = np.broadcast_to(ramp, (height, width, 3)).astype(np.uint8)
    with closing(VideoFile(path, SourceInfo("a clip", False, width, height, fps, frames))) as file:
        for index in range(frames):
            image = background.copy()
            x = int(width * (0.5 + 0.35 * np.sin(2 * np.pi * index / 45)))
            cv2.ellipse(image, (x, height // 2), (34, 46), 0.0, 0.0, 360.0, (120, 160, 220), -1)
            file.write(image, index / fps)
    return path
