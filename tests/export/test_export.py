"""Exported files: structure, metadata, and what ONNX Runtime computes with them against PyTorch."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import tsm_edge
from tsm_edge.artifact.onnx_runtime import open_session, session_options
from tsm_edge.cards import ModelCard, NetworkSpec, Preprocess, Smoothing, load_model, load_target
from tsm_edge.cards.precision import FP32
from tsm_edge.compile.backends.cpu.lower import lower
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.passes.fuse import fuse
from tsm_edge.errors import CardError, CheckpointError, ModelFileError
from tsm_edge.export.metadata import read_metadata
from tsm_edge.export.onnx import ExportRequest, ExportResult, export_onnx
from tsm_edge.networks import TemporalNetwork, build_network

SIZE = 64
ONLINE = ModelCard(
    "tiny",
    "a small network",
    "this test",
    NetworkSpec("mobilenet-v2", 3, width=0.5, frame_size=SIZE),
    Preprocess(72, SIZE, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)),
    Smoothing(4, 2, (1,), ((0, 2),)),
    "labels/tiny.txt",
    ("Zoom", "Wink", "Größe"),
)


def resnet_card(**network: object) -> ModelCard:
    spec = NetworkSpec("resnet-18", 3, frame_size=SIZE, **network)  # type: ignore[arg-type]
    return ModelCard("tiny-resnet", "a small network", "this test", spec, Preprocess(SIZE, SIZE))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / os.fsdecode(b"trained\xff.pth")  # a name that is not UTF-8
    torch.save(build_network(ONLINE.network, seed=9).backbone.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def online(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """MobileNet-V2 with the weights of seed 9, through a checkpoint."""
    path = tmp_path_factory.mktemp("online") / "model.onnx"
    return export_onnx(ExportRequest(ONLINE, path, checkpoint))


def session(path: Path) -> Any:
    options = session_options()
    options.intra_op_num_threads = 1
    return open_session(str(path), options)


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (count, 3, SIZE, SIZE)).astype(np.float32)


@torch.inference_mode()
def assert_streams_agree(path: Path, network: TemporalNetwork, count: int = 12) -> None:
    """Run both for ``count`` frames, each feeding its own caches back, and compare every output of every frame."""
    engine = session(path)
    names = [value.name for value in engine.get_inputs()]
    ours = [torch.zeros(shape) for shape in network.cache_shapes]
    theirs = [np.zeros(shape, np.float32) for shape in network.cache_shapes]
    for frame in frames(count):
        expected = network(torch.from_numpy(frame[None]), *ours)
        found = engine.run(None, dict(zip(names, [frame[None], *theirs], strict=True)))
        for one, other in zip(found, expected, strict=True):
            scale = other.abs().max().item()
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-5 * scale)
        ours, theirs = list(expected[1:]), found[1:]


def test_names_and_shapes(online: ExportResult) -> None:
    network = build_network(ONLINE.network)
    caches = {f"shift_{index}": shape for index, shape in enumerate(network.cache_shapes)}
    assert len(caches) == 10
    assert list(online.inputs.items()) == [("frame", (1, 3, SIZE, SIZE)), *caches.items()]
    next_caches = [(f"{name}_next", shape) for name, shape in caches.items()]
    assert list(online.outputs.items()) == [("logits", (1, 3)), *next_caches]
    engine = session(online.path)
    assert [(value.name, tuple(value.shape)) for value in engine.get_inputs()] == list(online.inputs.items())
    assert [(value.name, tuple(value.shape)) for value in engine.get_outputs()] == list(online.outputs.items())


def test_one_valid_file(online: ExportResult) -> None:
    onnx.checker.check_model(str(online.path), full_check=True)
    assert [path.name for path in online.path.parent.iterdir()] == ["model.onnx"]
    assert online.bytes == online.path.stat().st_size
    assert onnx.load(online.path).opset_import[0].version == 20


def test_graph_is_clean(online: ExportResult) -> None:
    operators = collections.Counter(node.op_type for node in onnx.load(online.path).graph.node)
    assert operators == {
        "Conv": 52, "Clip": 35, "Slice": 20, "Concat": 10, "Add": 10, "ReduceMean": 1, "Gemm": 1
    }  # fmt: skip


def test_operators_with_weights_have_the_names_of_the_network(online: ExportResult) -> None:
    model = onnx.load(online.path)
    names = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert names[:5] == [
        "features.0",
        "features.1 depthwise",
        "features.1 project",
        "features.2 expand",
        "features.2 depthwise",
    ]
    assert names[-2:] == ["features.18", "classifier"]
    assert len(set(names)) == len(names)


def test_kernels_have_the_names_of_the_network(online: ExportResult) -> None:
    graph = load_onnx(online.path)
    board = load_target("jetson-nano-cpu")
    layers = [call.layer for call in lower(graph, fuse(graph), board, FP32).calls]
    assert layers[0].split(" + ")[0] == "features.0"
    assert "classifier" in layers
    assert {"features.17", "features.17 expand"} & set(layers)
    assert not [layer for layer in layers if "getitem" in layer or "hardtanh" in layer]


def test_nothing_of_this_machine_is_in_the_file(online: ExportResult) -> None:
    content = online.path.read_bytes()
    for folder in (Path(tsm_edge.__file__).parent, Path(torch.__file__).parent, online.path.parent):
        assert str(folder).encode() not in content


def test_metadata(online: ExportResult, checkpoint: Path) -> None:
    metadata = read_metadata(online.path)
    assert metadata is not None
    assert metadata.card == ONLINE == online.card
    assert metadata.version == tsm_edge.__version__
    assert metadata.weights == online.weights
    assert not metadata.weights.random
    assert metadata.weights.checkpoint == r"trained\xff.pth"
    assert metadata.weights.sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert metadata.weights.trained_mode == "online"


def test_parity_with_pytorch(online: ExportResult) -> None:
    assert_streams_agree(online.path, build_network(ONLINE.network, seed=9))


@pytest.mark.parametrize(
    "card",
    [
        resnet_card(shift_proportion=Fraction(1, 4), shift_place="in-place"),
        resnet_card(shift_proportion=Fraction(1)),
    ],
    ids=lambda card: f"{card.network.shift_proportion} {card.network.shift_place}",
)
def test_parity_with_pytorch_of_other_shifts(card: ModelCard, tmp_path: Path) -> None:
    result = export_onnx(ExportRequest(card, tmp_path / "model.onnx", seed=4))
    assert result.weights.random
    assert result.weights.seed == 4
    assert len(result.inputs) == 9
    assert_streams_agree(result.path, build_network(card.network, seed=4), count=4)


def test_the_cards_own_weights_are_of_its_own_mode(tmp_path: Path) -> None:
    request = ExportRequest(load_model("motion"), tmp_path / "model.onnx", temporal_mode="offline")
    with pytest.raises(
        CheckpointError, match="motion: its own weights are of an online network, expected offline"
    ) as e:
        export_onnx(request)
    assert "--seed 0" in e.value.hint
    assert not request.output.exists()


def test_offline(tmp_path: Path) -> None:
    card = resnet_card(frames=3)
    result = export_onnx(ExportRequest(card, tmp_path / "model.onnx", temporal_mode="offline"))
    assert result.inputs == {"clip": (3, 3, SIZE, SIZE)}
    assert result.outputs == {"logits": (3, 3)}
    spec = dataclasses.replace(card.network, temporal_mode="offline")
    assert result.card.network == spec
    clip = frames(3)
    expected = build_network(spec)(torch.from_numpy(clip)).numpy()
    found = session(result.path).run(None, {"clip": clip})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_frame_by_frame_baseline(tmp_path: Path) -> None:
    card = resnet_card()
    result = export_onnx(ExportRequest(card, tmp_path / "model.onnx", temporal_mode="none"))
    assert (result.inputs, result.outputs) == ({"frame": (1, 3, SIZE, SIZE)}, {"logits": (1, 3)})
    metadata = read_metadata(result.path)
    assert metadata is not None
    assert metadata.card.network.temporal_mode == "none"
    frame = frames(1)
    expected = build_network(dataclasses.replace(card.network, temporal_mode="none"))(torch.from_numpy(frame)).numpy()
    found = session(result.path).run(None, {"frame": frame})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_checkpoint_that_does_not_fit_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"weights of mobilenet-v2, expected resnet-18"):
        export_onnx(ExportRequest(resnet_card(), tmp_path / "model.onnx", checkpoint))
    assert list(tmp_path.iterdir()) == []


def test_a_mode_the_network_cannot_have(tmp_path: Path) -> None:
    spec = NetworkSpec("resnet-50-nl", 3, "offline", frame_size=SIZE)
    card = ModelCard("nl", "", "", spec, Preprocess(SIZE, SIZE))
    with pytest.raises(CardError, match="offline only"):
        export_onnx(ExportRequest(card, tmp_path / "model.onnx", temporal_mode="online"))


def test_output_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder, expected a file to write"):
        export_onnx(ExportRequest(ONLINE, tmp_path))
