"""Teach a shipped model new classes from a few clips: a new head, the last blocks, then compiled and checked."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.artifact.manifest import Manifest
from tsm_edge.cards import ModelCard, load_model, load_target
from tsm_edge.cards.checks import check_name
from tsm_edge.compile.pipeline import CompileRequest, check_artifact_place, compile_model
from tsm_edge.errors import CardError, CheckFailed, TsmEdgeError, VideoError
from tsm_edge.files.atomic import make_folders
from tsm_edge.networks import build_network
from tsm_edge.progress import Progress, silent
from tsm_edge.session.open import open_session
from tsm_edge.training.evaluate import run_clips
from tsm_edge.training.loop import Diverged
from tsm_edge.training.measures import Measures, measure
from tsm_edge.training.output import TrainResult, check_output
from tsm_edge.training.recipe import TEACH
from tsm_edge.training.train import TrainRequest, freeze, train
from tsm_edge.training.videos import FPS, Held, VideoData
from tsm_edge.verify.compare import VerifyResult, verify_artifact
from tsm_edge.video.base import VideoSource
from tsm_edge.video.source import open_source
from tsm_edge.video.writer import VideoFile

# Frames of a piece: longer than the network remembers, so that its mean label is of a whole motion.
_FRAMES = 20
_STEPS = 300
_TRAINED, _COMPILED = 0.8, 0.95
_NATIVE = "native"  # in the new model's folder: compiled


@dataclass(frozen=True)
class TeachRequest:
    """What to teach.

    Attributes
    ----------
    name : str
        Of the new model.
    clips : Path
        A folder with a folder of videos a class, or a CSV file (:func:`~tsm_edge.training.videos.find_clips`).
    output : Path
        Folder for the new model, and the compiled one inside.
    model : str
        Card with weights to begin from.
    freeze : int
        First parts of the network that stay; -1: all but the classifier.
    fps : float
        Frames of a second that are used.
    seed : int
    """

    name: str
    clips: Path
    output: Path
    model: str = "motion"
    freeze: int = 7
    fps: float = FPS
    seed: int = 0


@dataclass(frozen=True)
class TeachResult:
    """What came of it.

    Attributes
    ----------
    training : TrainResult
    artifact : Path
    manifest : Manifest
    verify : VerifyResult
    measures : Measures
        Of the compiled model, on the clips that were held out.
    """

    training: TrainResult
    artifact: Path
    manifest: Manifest
    verify: VerifyResult
    measures: Measures


def teach(
    request: TeachRequest, progress: Progress = silent, note: Callable[[str], None] = lambda text: None
) -> TeachResult:
    """Train, compile for this machine, verify, and measure what was compiled on held-out clips.

    Raises
    ------
    CheckFailed
        The compiled model does not agree with ONNX Runtime.
    TsmEdgeError
        The clips cannot be used, or as from the stages.
    """
    card = check(request)
    data = VideoData.of(request.clips, card, request.seed, request.fps, progress=progress)
    learned, watched, held_out = data.splits
    # Nothing is chosen by watching, so that those clips are learned from, too.
    data = dataclasses.replace(data, splits=(learned + watched, held_out, held_out))
    data = dataclasses.replace(data, repeats=max(1, 8 * TEACH.batch // len(data.splits[0])))
    epochs = max(1, round(_STEPS / (len(data.splits[0]) * data.repeats // TEACH.batch)))
    recipe = dataclasses.replace(TEACH, epochs=epochs, seed=request.seed)
    training = TrainRequest(
        card, data, request.output, recipe, card.weights_file, request.freeze, request.name, again=True
    )
    try:
        trained = train(training, lambda text, done: progress(text, _TRAINED * done), note)
    except Diverged as error:
        raise TsmEdgeError(error.problem, slower(request, card)) from None
    folder = request.output / _NATIVE
    artifact = compile_model(
        CompileRequest(load_target("native"), folder, load_model(trained.card), runner=False),
        lambda text, done: progress(text, _TRAINED + (_COMPILED - _TRAINED) * done),
        warn=note,
    )
    verified = verify_artifact(artifact)
    if not verified.passed:
        raise CheckFailed(f"{folder}: does not agree with ONNX Runtime", f"see: tsm-edge verify {folder}")
    progress("measuring the compiled model on held-out clips", _COMPILED)
    with open_session(artifact) as session:
        logits, truth = run_clips(session, Held(data, data.splits[2]))
    return TeachResult(trained, folder, artifact.manifest, verified, measure(logits, truth, data.labels))


def slower(request: TeachRequest, card: ModelCard) -> str:
    """What to try where training diverged: the same start at a low rate, by the command that has one."""
    start = (
        ["--init", "motion"] if request.model == "motion" else ["--model", request.model, "--init", card.weights_file]
    )
    words = ["tsm-edge", "train", "--data", str(request.clips), *start, "--rate", "0.0003", "-o", "DIR"]
    return f"train more slowly: {shlex.join(words)}"


def check(request: TeachRequest) -> ModelCard:
    """The card that is taught: what can be refused before there are clips.

    Raises
    ------
    TsmEdgeError
        The name is impossible, the model has no online weights or not so many parts to keep, or the folder is no place
        for a new model.
    """
    try:
        check_name(request.name)
    except CardError as error:
        raise TsmEdgeError(error.problem, "name the new model: tsm-edge teach NAME") from None
    card = load_model(request.model)
    if not card.weights_file or card.network.temporal_mode != "online":
        raise TsmEdgeError(f"model {card.name} has no online weights to begin from", "teach the shipped one: motion")
    network = dataclasses.replace(card.network, frames=_FRAMES)
    freeze(build_network(network), request.freeze)
    check_output(request.output, request.name, [Path(card.weights_file)], request.clips, again=True)
    check_artifact_place(request.output / _NATIVE)
    return dataclasses.replace(card, name=request.name, network=network)


def record(
    camera: str | int,
    folder: Path,
    labels: Sequence[str],
    clips: int,
    seconds: float,
    ask: Callable[[str, int], None],
) -> None:
    """Record clips of each class with a camera.

    Parameters
    ----------
    camera : str or int
        Its number, or its address.
    folder : Path
        Gets a folder a class; clips that are there stay.
    labels : sequence of str
    clips : int
        Of each class.
    seconds : float
        Of a clip.
    ask : callable
        Called with a label and the clip's number before each; returns when the person is ready.

    Raises
    ------
    VideoError
        The camera cannot be opened, is a file, or is lost: the clip that is being recorded is not kept.
    """
    with open_source(camera) as source:
        if not source.info.live:
            raise VideoError(f"{source.info.name}: is no camera", "teach from files with: --clips DIR")
        for label in labels:
            make_folders(folder / label)
            paths = (folder / label / f"{number:03d}.mp4" for number in itertools.count())
            for number, path in enumerate(itertools.islice((path for path in paths if not path.exists()), clips), 1):
                ask(label, number)
                _record_clip(source, path, seconds)


def _record_clip(source: VideoSource, path: Path, seconds: float) -> None:
    first_s: float | None = None
    try:
        with closing(VideoFile(path, source.info)) as file:
            for frame in source:
                first_s = frame.time_s if first_s is None else first_s
                if frame.time_s - first_s >= seconds:
                    return
                file.write(frame.image[..., ::-1], frame.time_s - first_s)
        raise VideoError(f"{source.info.name}: {source.ended}", "check the sender, then record the rest again")
    except BaseException:  # a part of a motion is no clip of it
        path.unlink(missing_ok=True)
        raise
