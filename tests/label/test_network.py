"""A network of clips, exported and run by ONNX Runtime, labels a file as PyTorch does on the same frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_session import ClipManifest, OnnxClipSession
from encoded_clips import clip

from tsm_edge.cards import ModelCard, NetworkSpec, Preprocess
from tsm_edge.export.onnx import ExportRequest, export_onnx
from tsm_edge.label.labelling import VideoLabel, label_videos
from tsm_edge.label.members import Seeing, ensemble
from tsm_edge.networks import OfflineNetwork, build_network
from tsm_edge.video.preprocess import Preprocessor
from tsm_edge.video.sampling import Sampling
from tsm_edge.video.source import open_source

CLASSES = 6


def card(channels: int, preprocess: Preprocess) -> ModelCard:
    network = NetworkSpec("resnet-18", CLASSES, "offline", frame_size=64, frames=4, channels=channels)
    return ModelCard("small", "a small network", "this test", network, preprocess)


def exported(folder: Path, model: ModelCard) -> OnnxClipSession:
    path = folder / "model.onnx"
    result = export_onnx(ExportRequest(model, path, seed=9))
    assert result.inputs == {"clip": (4, model.network.channels, 64, 64)}
    manifest = ClipManifest(
        channels=model.network.channels, height=64, classes=CLASSES, labels=(), preprocess=model.preprocess
    )
    return OnnxClipSession(path, manifest)


@torch.inference_mode()
def test_two_clips_of_a_file(tmp_path: Path) -> None:
    model = card(3, Preprocess(short_side=72, crop=64))
    session = exported(tmp_path, model)
    path = clip("carphone_pristine.mp4")
    (found,) = label_videos(ensemble([session], [1.0]), [path], Sampling("uniform", 2))
    assert isinstance(found, VideoLabel)
    preprocess = Preprocessor(model.preprocess)
    with open_source(path) as source:
        frames = torch.from_numpy(np.concatenate([preprocess(frame.image).copy() for frame in source]))
    assert len(frames) == 120
    network = build_network(model.network, 9)
    assert isinstance(network, OfflineNetwork)
    # Upstream's segments of 30 frames: their middles, then their beginnings.
    logits = network.clip_logits(frames[[15, 45, 75, 105, 0, 30, 60, 90]]).mean(0)
    probabilities = logits.double().softmax(0)
    best = int(probabilities.argmax())
    assert (found.top[0].class_index, found.top[0].label) == (best, f"class {best}")
    for guess in found.top:
        assert guess.probability == pytest.approx(float(probabilities[guess.class_index]), abs=1e-4)
    assert session.frame_logits().shape == (4, CLASSES)


def test_a_flow_network_is_shown_flow(tmp_path: Path) -> None:
    flat = Preprocess(short_side=72, crop=64, mean=(0.5, 0.5, 0.5), std=(0.226, 0.226, 0.226))
    session = exported(tmp_path, card(10, flat))
    members = ensemble([session], [1.0], seeing=Seeing(flow="dis"))
    (found,) = label_videos(members, [clip("carphone_pristine.mp4")], Sampling())
    assert isinstance(found, VideoLabel)
    assert found.spent.clips == 1
    assert sum(guess.probability for guess in found.top) <= 1
