"""A compiled network of clips labels a file as ONNX Runtime does on the frames that upstream's rule chooses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from encoded_clips import clip

from tsm_edge.artifact.folder import Artifact
from tsm_edge.artifact.reference import Reference
from tsm_edge.label.labelling import VideoLabel, label_videos
from tsm_edge.label.members import ensemble
from tsm_edge.session.open import open_session
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.sampling import Sampling
from tsm_edge.video.source import open_source

RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]
CLIP = clip("carphone_pristine.mp4")


def expected(artifact: Artifact) -> np.ndarray:
    """Probabilities of the clip of two halves' middles: frames 30 and 90 of 120."""
    preprocess = Preprocessor(artifact.manifest.preprocess)
    with open_source(CLIP) as source:
        shown = np.concatenate([preprocess(frame.image).copy() for frame in source if frame.index in (30, 90)])
    logits = Reference(artifact.reference, artifact.manifest).step(shown)[0].astype(np.float64)
    exponentials: np.ndarray = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


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
