"""The main job in one call: export, compile for this machine, verify, run on a clip."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.artifact.folder import OUTPUT_FOLDER
from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import DEFAULT_MODEL, load_model, load_target, model_files
from tsm_edge.cards.architecture import check_threads
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import CheckFailed, VideoError
from tsm_edge.files.atomic import check_writable
from tsm_edge.files.paths import refuse_replacing
from tsm_edge.live.result import RunSummary
from tsm_edge.live.run import RunRequest, run
from tsm_edge.live.timeline import Timeline
from tsm_edge.progress import Progress, silent
from tsm_edge.session.open import open_session
from tsm_edge.training.motions import LABELS
from tsm_edge.training.stream import FPS, Stream, draw_stream
from tsm_edge.verify.compare import VerifyResult, verify_artifact
from tsm_edge.video.base import SourceInfo
from tsm_edge.video.source import open_source
from tsm_edge.video.writer import VideoFile

# The share of the demo's time at which the model is usually compiled, and verified.
_COMPILED, _VERIFIED = 0.93, 0.96
_SEGMENTS = 24
_CLIP_PX, _SHOWN_PX = 224, 448
# A motion's label counts from this frame on.
_SEEN_AFTER = 8


@dataclass(frozen=True)
class DemoRequest:
    """What the demo runs on.

    Attributes
    ----------
    model : str
        Model card.
    checkpoint : Path or None
        Trained weights; None: the card's, or random ones, and predictions mean nothing.
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
class SegmentResult:
    """What was shown of one motion of the generated clip.

    Attributes
    ----------
    true, found : str
        The motion, and the label that was shown for most of its frames after the first 8.
    first_s : float
        When it begins, seconds.
    """

    true: str
    found: str
    first_s: float


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
    segments : tuple of SegmentResult
        Of the generated clip; empty with a clip of one's own, or a model of other classes.
    """

    artifact: Path
    manifest: Manifest
    verify: VerifyResult
    run: RunSummary
    labels: tuple[tuple[str, int], ...]
    video: Path
    seconds: float
    segments: tuple[SegmentResult, ...] = ()

    @property
    def right(self) -> int:
        """Segments whose label is right."""
        return sum(segment.true == segment.found for segment in self.segments)


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
    clip, stream = request.video, None
    if clip is None:
        progress("drawing a clip", _VERIFIED)
        stream = draw_stream(_SEGMENTS)
        clip = write_clip(drawn, stream)
    judged = stream if artifact.manifest.labels == LABELS else None
    progress(f"running on {clip}", _VERIFIED)
    labels: list[int] = []
    shown: Counter[str] = Counter()
    with (
        open_session(artifact, threads=request.threads) as session,
        open_source(clip) as source,
        run(session, source, RunRequest(smooth=True, out=None if judged else annotated)) as results,
    ):
        for result in results:
            shown[result.label] += 1
            labels.append(result.class_index)
    if judged is not None:
        _write_timeline(annotated, judged, labels)
    return DemoResult(
        artifact.path,
        artifact.manifest,
        verified,
        results.summary(),
        tuple(shown.most_common()),
        annotated,
        time.monotonic() - started,
        () if judged is None else judge(judged, labels),
    )


def judge(stream: Stream, labels: Sequence[int]) -> tuple[SegmentResult, ...]:
    """What was shown of each motion, by the labels of all frames."""
    made = []
    for segment in stream.segments:
        seen = labels[segment.first + _SEEN_AFTER : segment.first + segment.frames]
        if seen:
            found = Counter(seen).most_common(1)[0][0]
            made.append(SegmentResult(LABELS[segment.label], LABELS[found], segment.first / FPS))
    return tuple(made)


def _write_timeline(path: Path, stream: Stream, labels: Sequence[int]) -> None:
    """Write the annotated video: the true label beside the one that was shown, and both along the time."""
    truth = [stream.truth(index) for index in range(len(labels))]
    timeline = Timeline(LABELS, truth, labels, _SHOWN_PX, _SHOWN_PX)
    index = 0
    with closing(VideoFile(path, SourceInfo("", False, timeline.width, timeline.height, FPS, len(labels)))) as file:
        for images in stream.frames(_CLIP_PX, _CLIP_PX):
            for image in images[: len(labels) - index]:
                file.write(timeline.draw(image, index), index / FPS)
                index += 1


def _check_output(path: Path, inputs: Iterable[Path | None]) -> None:
    """Refuse a place for a video before the work."""
    refuse_replacing(path, inputs, "-o DIR")
    try:
        check_writable(path)
    except OSError as error:
        raise VideoError(f"{path}: cannot be written ({error.strerror})", "choose another folder: -o DIR") from None


def write_clip(path: Path, stream: Stream) -> Path:
    """Write a generated clip as MP4, 224 × 224 pixels.

    Raises
    ------
    VideoError
        The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    info = SourceInfo("a clip", False, _CLIP_PX, _CLIP_PX, FPS, len(stream.path))
    index = 0
    with closing(VideoFile(path, info)) as file:
        for images in stream.frames(_CLIP_PX, _CLIP_PX):
            for image in images:
                file.write(image[..., ::-1], index / FPS)
                index += 1
    return path
