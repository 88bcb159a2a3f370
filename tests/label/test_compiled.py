"""A compiled network of clips labels a file as ONNX Runtime does on the frames that upstream's rule chooses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from artifacts import compile_onnx
from encoded_clips import clip
from onnx_graphs import GraphBuilder

from tsm_edge.artifact.folder import Artifact
from tsm_edge.artifact.reference import Reference
from tsm_edge.cards import TargetCard
from tsm_edge.label.labelling import VideoLabel, label_videos
from tsm_edge.label.members import ensemble
from tsm_edge.session.open import open_session
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.sampling import Sampling
from tsm_edge.video.source import open_source

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]
CLIP = clip("carphone_pristine.mp4")


def rgb_logits(artifact: Artifact) -> np.ndarray:
    """Of the clip of two halves' middles: frames 30 and 90 of 120."""
    preprocess = Preprocessor(artifact.manifest.preprocess)
    with open_source(CLIP) as source:
        shown = np.concatenate([preprocess(frame.image).copy() for frame in source if frame.index in (30, 90)])
    return Reference(artifact.reference, artifact.manifest).step(shown)[0].astype(np.float64)


def flow_logits(artifact: Artifact) -> np.ndarray:
    """Of five fields of flow from frame 28 on, and as many from 86 on: middles of halves of what can begin five."""
    import cv2

    size = artifact.manifest.preprocess.resized(144, 176)
    with open_source(CLIP) as source:
        grey = [
            cv2.resize(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), size[::-1], interpolation=cv2.INTER_LINEAR)
            for frame in source
        ]
    rows, columns = artifact.manifest.frame_shape[2:]
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    fields = []
    for first in (*range(28, 33), *range(86, 91)):
        field = cv2.calcOpticalFlowFarneback(grey[first], grey[first + 1], None, 0.5, 3, 15, 3, 5, 1.2, 0)
        levels = np.clip(np.round((field + 20) * 255 / 40), 0, 255)
        fields.append(levels[top : top + rows, left : left + columns].transpose(2, 0, 1))
    shown = (np.stack(fields).reshape(2, 10, rows, columns) / 255 - 0.5) / 0.226  # upstream's, of flow
    return Reference(artifact.reference, artifact.manifest).step(shown.astype(np.float32))[0].astype(np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials: np.ndarray = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def expected(artifact: Artifact) -> np.ndarray:
    """The probabilities of :func:`rgb_logits`."""
    return softmax(rgb_logits(artifact))


@pytest.fixture(scope="module")
def flow_artifact(native: TargetCard, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A network of optical flow that knows as many classes as ``clip_artifact``."""
    graph = GraphBuilder(22, 34, seed=3, frames=2, channels=10)
    x = graph.relu(graph.conv(graph.frame, 16, 3, 2))
    x = graph.relu(graph.conv(graph.frame_shift(x, 2), 24))
    folder = tmp_path_factory.mktemp("flow") / "flow"
    return compile_onnx(graph.model(graph.head(x, 11)), folder, native, clips=True)


def test_a_file_by_a_compiled_network(clip_artifact: Artifact) -> None:
    with open_session(clip_artifact) as session:
        (found,) = label_videos(ensemble([session], [1.0]), [CLIP], Sampling())
    assert isinstance(found, VideoLabel)
    probabilities = expected(clip_artifact)
    assert found.top[0].class_index == int(np.argmax(probabilities))
    for guess in found.top:
        assert guess.probability == pytest.approx(probabilities[guess.class_index], abs=1e-4)


def test_the_program_labels_it_alike_alone_and_together(clip_artifact: Artifact, run_program: RunProgram) -> None:
    artifact = str(clip_artifact.path)
    best = int(np.argmax(expected(clip_artifact)))
    done = run_program("label", artifact, str(CLIP), "--with", artifact, "--weight", "2")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["class_index"], line["clips"], line["frames"]) == (best, 2, 120)
    online_only = run_program("run", artifact, "--video", str(CLIP), "--smooth")
    assert online_only.returncode == 2
    assert "--smooth is for online networks" in online_only.stderr


def test_two_streams(clip_artifact: Artifact, flow_artifact: Artifact, run_program: RunProgram) -> None:
    """Colours, and Farnebäck's flow with more weight: each by ONNX Runtime, shown what upstream's recipe makes."""
    logits = [rgb_logits(clip_artifact), flow_logits(flow_artifact)]
    probabilities = softmax((logits[0] + 1.5 * logits[1]) / 2.5)
    options = ("--with", str(flow_artifact.path), "--weight", "1.5", "--flow", "farneback")
    done = run_program("label", str(clip_artifact.path), str(CLIP), *options)
    assert done.returncode == 0, done.stderr
    assert "optical flow: Farnebäck's" in done.stderr
    line = json.loads(done.stdout)
    assert line["class_index"] == int(np.argmax(probabilities))
    for guess in line["top"]:
        assert guess["probability"] == pytest.approx(probabilities[guess["class_index"]], abs=1e-4)
