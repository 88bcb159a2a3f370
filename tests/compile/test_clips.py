"""Networks over clips, compiled: every rule with a batch of frames, against ONNX Runtime and the reference cases."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden
import numpy as np
import onnx
import pytest
from artifacts import CLIPS_A_STEP, compile_onnx, sse_target
from onnx_graphs import Floats, GraphBuilder, Reference, assert_close, bottlenecks, elementwise, small_network

from tsm_edge.artifact.folder import GOLDEN, MODEL_ONNX, RUNNER, Artifact
from tsm_edge.artifact.golden import network_input, read_golden
from tsm_edge.artifact.manifest import parse_manifest
from tsm_edge.cards import ModelCard, NetworkSpec, Preprocess, TargetCard, load_model, load_target
from tsm_edge.cards.precision import precision_named
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import ArtifactError, CompileError, ModelFileError
from tsm_edge.export.metadata import OnnxMetadata, WeightSource, write_metadata
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession
from tsm_edge.verify.compare import verify_artifact, verify_golden
from tsm_edge.verify.emulated import verify_emulated

CLASSES = 11


def inverted_residuals(g: GraphBuilder) -> str:
    """By rows and by panels; the stem is fused too."""
    x = g.clip(g.conv(g.frame, 10, 3, 2), 0, 6)
    x = g.conv(g.clip(g.depthwise(x), 0, 6), 12)
    for stride in (1, 2, 1):
        channels = g.shapes[x][1]
        y = g.clip(g.conv(g.frame_shift(x, channels // 4) if stride == 1 else x, 6 * channels), 0, 6)
        y = g.conv(g.clip(g.depthwise(y, stride=stride), 0, 6), channels if stride == 1 else 20)
        x = g.add(y, x) if stride == 1 else y
    return x


def shifted_tensors(g: GraphBuilder) -> str:
    """Shifts that are tensors: before 3×3 convolutions, and on the identity path."""
    x = g.relu(g.conv(g.frame, 16, 3, 2))
    x = g.relu(g.add(g.conv(g.frame_shift(x, 3), 16, 3), x))
    y = g.frame_shift(x, 4)
    return g.add(g.conv(y, 16), y)


def non_local(g: GraphBuilder) -> str:
    x = g.relu(g.conv(g.frame, 20, 3, 2))
    return g.relu(g.conv(g.non_local(x, 12), 16, 3))


NETWORKS: dict[str, Callable[[GraphBuilder], str]] = {
    function.__name__: function
    for function in (inverted_residuals, bottlenecks, shifted_tensors, non_local, elementwise)
}
# What the rules must have been: a network that is compiled in another way tests less than it seems to.
RULES = {
    "inverted_residuals": {"inverted_residual", "expand_depthwise"},
    "bottlenecks": {"pointwise", "conv3x3", "grouped", "max_pool", "average_pool"},
    "shifted_tensors": {"frame_shift"},
    "non_local": {"attention", "attention_panels"},
    "elementwise": {"elementwise"},
}


def small_caches() -> TargetCard:
    """So small that nothing stays in L2: the k loop goes by blocks, and pixels by groups."""
    native = load_target("native")
    return dataclasses.replace(native, cpu=dataclasses.replace(native.cpu, l1d_kib=1, l2_kib=4, cores=1))


TARGETS: dict[str, Callable[[], TargetCard]] = {
    "native": lambda: load_target("native"),
    "sse": sse_target,
    "small caches": small_caches,
}


def build(name: str, frames: int, channels: int = 3) -> onnx.ModelProto:
    graph = GraphBuilder(22, 34, frames=frames, channels=channels)
    return graph.model(graph.head(NETWORKS[name](graph), CLASSES))


def compiled(name: str, frames: int, folder: Path, target: TargetCard) -> tuple[Artifact, Reference]:
    model = build(name, frames)
    return compile_onnx(model, folder / "out", target, clips=True), Reference(model)


def assert_computes(artifact: Artifact, reference: Reference, threads: int) -> None:
    with OnlineSession(artifact, threads=threads) as session:
        for clip in reference.frames(2):
            (expected,) = reference.step(clip, [])[:1]
            assert_close(session.step(clip), expected.mean(0))
            assert_close(session.frame_logits(), expected)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, "native") for name in NETWORKS),
        ("non_local", "sse"),
        ("inverted_residuals", "small caches"),
        ("bottlenecks", "small caches"),
    ],
)
def test_computes_what_onnx_runtime_does(name: str, target: str, tmp_path: Path) -> None:
    artifact, reference = compiled(name, 3, tmp_path, TARGETS[target]())
    rules = {kernel.rule for kernel in artifact.manifest.kernels}
    if target == "native":
        assert rules >= RULES[name] - {"inverted_residual", "expand_depthwise", "conv3x3"}, rules
    assert "generic" not in rules
    for threads in (1, 2):
        assert_computes(artifact, reference, threads)


@pytest.fixture
def clip_model(clip_artifact: Artifact) -> tuple[Artifact, Reference]:
    return clip_artifact, Reference(clip_artifact.path / MODEL_ONNX)


def test_manifest(clip_model: tuple[Artifact, Reference]) -> None:
    manifest = clip_model[0].manifest
    assert (manifest.mode, manifest.frames, manifest.clip, manifest.caches) == ("offline", 2, True, ())
    assert manifest.frame_shape == (2, 3, 22, 34)
    assert [(output.name, output.shape) for output in manifest.outputs] == [
        ("logits", (CLASSES,)),
        ("frame_logits", (2, CLASSES)),
    ]
    assert parse_manifest(manifest.to_json(), "here") == manifest


def test_manifest_with_another_number_of_frames_is_refused(clip_model: tuple[Artifact, Reference]) -> None:
    text = clip_model[0].manifest.to_json().replace('"frames": 2', '"frames": 3')
    with pytest.raises(ArtifactError, match="frames is 3, expected those of its input"):
        parse_manifest(text, "here")


def test_shift_is_never_a_tensor(clip_model: tuple[Artifact, Reference]) -> None:
    assert not {"frame_shift", "copy"} & {kernel.rule for kernel in clip_model[0].manifest.kernels[2:-1]}


def test_verify(clip_model: tuple[Artifact, Reference]) -> None:
    result = verify_artifact(clip_model[0], frames=2)
    assert (result.passed, result.shown) == (True, "2 clips")
    assert [check.name for check in result.checks] == ["logits", "logits (explicit caches)", "frame_logits"]


def test_runner_verifies_clips(clip_model: tuple[Artifact, Reference]) -> None:
    """Means and the logits of every frame, through the static or opening program, and its golden clips from Python."""
    result = verify_emulated(clip_model[0], frames=2)
    assert result.passed
    assert [check.shape for check in result.checks] == [(CLASSES,), (CLASSES,), (2, CLASSES)]
    assert verify_golden(clip_model[0]).passed


def test_pictures_are_normalised(clip_model: tuple[Artifact, Reference]) -> None:
    artifact, reference = clip_model
    pictures = np.random.default_rng(0).integers(0, 256, (2, 22, 34, 3), np.uint8)
    card = artifact.manifest.preprocess
    clip = ((pictures / 255 - card.mean) / card.std).astype(np.float32).transpose(0, 3, 1, 2)
    with OnlineSession(artifact) as session:
        assert_close(session.step_bytes(pictures), reference.step(clip, [])[0].mean(0))
        with pytest.raises(ArtifactError, match=r"picture is uint8 \[22, 34, 3\], expected uint8 \[2, 22, 34, 3\]"):
            session.step_bytes(pictures[0])


def test_measure_takes_whole_clips(clip_model: tuple[Artifact, Reference]) -> None:
    artifact, reference = clip_model
    clips = reference.frames(2)
    with OnlineSession(artifact) as session:
        timings = session.measure(np.concatenate(clips), 0, 3)
        assert_close(timings.logits, reference.step(clips[0], [])[0].mean(0))
        with pytest.raises(ArtifactError, match="3 frames, expected whole clips of 2"):
            session.measure(np.concatenate(clips)[:3], 0, 1)


def test_output_before_a_step(clip_model: tuple[Artifact, Reference]) -> None:
    with OnlineSession(Library(clip_model[0])) as session, pytest.raises(ArtifactError, match="no step yet"):
        session.frame_logits()


def test_frame_logits_of_an_online_model(small_artifact: Artifact) -> None:
    with OnlineSession(small_artifact) as session, pytest.raises(ArtifactError, match="one frame a step"):
        session.frame_logits()


@pytest.fixture
def batch_model(clips_artifact: Artifact) -> tuple[Artifact, Reference]:
    return clips_artifact, Reference(clips_artifact.path / MODEL_ONNX)


@pytest.mark.parametrize("threads", [1, 2])
def test_several_clips_a_step(batch_model: tuple[Artifact, Reference], threads: int) -> None:
    artifact, reference = batch_model
    clips = reference.frames(2 * CLIPS_A_STEP)
    expected = [reference.step(clip, [])[0] for clip in clips]
    with OnlineSession(artifact, threads=threads) as session:
        for first in (0, CLIPS_A_STEP):
            step = slice(first, first + CLIPS_A_STEP)
            assert_close(session.step(np.concatenate(clips[step])), [logits.mean(0) for logits in expected[step]])
            assert_close(session.frame_logits(), np.concatenate(expected[step]))
        timings = session.measure(np.concatenate(clips), 1, 2)
        assert_close(timings.logits, [logits.mean(0) for logits in expected[:CLIPS_A_STEP]])
        with pytest.raises(ArtifactError, match="8 frames, expected whole steps of 3 clips, 6 frames"):
            session.measure(np.concatenate(clips)[:8], 0, 1)


def test_several_clips_are_timed_and_counted_together(batch_model: tuple[Artifact, Reference]) -> None:
    artifact, reference = batch_model
    manifest = artifact.manifest
    assert (manifest.clips, manifest.frames, manifest.frame_shape) == (CLIPS_A_STEP, 2, (2 * CLIPS_A_STEP, 3, 22, 34))
    assert [output.shape for output in manifest.outputs] == [(CLIPS_A_STEP, CLASSES), (2 * CLIPS_A_STEP, CLASSES)]
    assert parse_manifest(manifest.to_json(), "here") == manifest
    stem = 2 * (3 * 9 * 18) * (11 * 17) * 2  # of a clip
    assert manifest.kernels[0].flops == CLIPS_A_STEP * stem
    clips = np.concatenate(reference.frames(CLIPS_A_STEP))
    with OnlineSession(artifact) as session:
        logits, times = session.step_profiled(clips)
        assert_close(logits, session.step(clips))
        assert times.all()


def test_several_clips_as_bytes_and_by_the_runner(batch_model: tuple[Artifact, Reference]) -> None:
    artifact, reference = batch_model
    pictures = np.random.default_rng(0).integers(0, 256, (2 * CLIPS_A_STEP, 22, 34, 3), np.uint8)
    clips = np.split(network_input(pictures, artifact.manifest.preprocess), CLIPS_A_STEP)
    expected = [reference.step(clip, [])[0].mean(0) for clip in clips]
    with OnlineSession(artifact) as session:
        assert_close(session.step_bytes(pictures), expected)
    command = [str(artifact.path / RUNNER), "stream"]
    done = subprocess.run(command, input=pictures.tobytes(), capture_output=True, timeout=60, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["frame"], line["index"]) for line in lines] == [
        (number, int(np.argmax(logits))) for number, logits in enumerate(expected)
    ]
    # The clips that do not fill a step are told, too; half a clip is not.
    step, half = pictures.tobytes(), pictures[:1].tobytes()
    done = subprocess.run(
        command, input=step + pictures[:2].tobytes() + half, capture_output=True, timeout=60, check=True
    )
    more = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["frame"], line["index"]) for line in more] == [
        (number, int(np.argmax(logits))) for number, logits in enumerate([*expected, expected[0]])
    ]
    assert f"the last {len(half)} bytes are not a whole clip of {2 * len(half)}" in done.stderr.decode()
    assert verify_golden(artifact).passed
    for result in (verify_artifact(artifact, frames=2), verify_emulated(artifact, frames=2)):
        assert (result.passed, result.shown) == (True, "2 times 3 clips")
        assert [check.shape for check in result.checks] == [
            (CLIPS_A_STEP, CLASSES),
            (CLIPS_A_STEP, CLASSES),
            (2 * CLIPS_A_STEP, CLASSES),
        ]


def test_optical_flow(tmp_path: Path, native: TargetCard) -> None:
    """Ten channels: no pictures, so bytes are refused, and there is no runner."""
    model = build("elementwise", 2, channels=10)
    artifact = compile_onnx(model, tmp_path / "out", native, clips=True, runner=True)
    assert artifact.runner is None
    assert artifact.manifest.preprocess.std == (0.226,) * 3
    with pytest.raises(ArtifactError, match="takes 10 channels, which are no pictures: it has no tsm-runner"):
        verify_emulated(artifact)
    rgb = load_model("resnet50-kinetics-8f")
    request = CompileRequest(native, tmp_path / "x", rgb, onnx=tmp_path / "out.onnx", temporal_mode="offline")
    with pytest.raises(CompileError, match="takes 10 channels, model card resnet50-kinetics-8f 3; name the card"):
        compile_model(request)
    assert_computes(artifact, Reference(model), 2)
    with OnlineSession(artifact) as session, pytest.raises(ArtifactError, match="takes 10 channels: no pictures"):
        session.step_bytes(np.zeros((2, 22, 34, 3), np.uint8))


def test_batch_is_a_clip_only_where_asked_for(tmp_path: Path, native: TargetCard) -> None:
    model = build("elementwise", 2)
    with pytest.raises(ModelFileError, match=r"expected one frame input \[1, 3") as refused:
        compile_onnx(model, tmp_path / "out", native)
    assert "--mode offline" in refused.value.hint


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"precision": precision_named("int8")}, "precision int8 is for single frames yet: clips are computed in fp32"),
        ({"temporal_mode": "online"}, "takes clips of 2 frames: it cannot be compiled with --mode online"),
    ],
)
def test_a_file_that_says_that_it_takes_clips_is_taken_at_its_word(
    changes: dict[str, Any], problem: str, tmp_path: Path, native: TargetCard
) -> None:
    model, path = build("elementwise", 2), tmp_path / "clips.onnx"
    write_metadata(model, OnnxMetadata(load_model("resnet50-kinetics-8f"), WeightSource(), "0"))
    onnx.save(model, str(path))
    request = CompileRequest(**{"target": native, "output": tmp_path / "out", "onnx": path, **changes})
    with pytest.raises(CompileError, match=problem):
        compile_model(request)
    assert not (tmp_path / "out").exists()


def test_a_file_of_single_frames_is_no_clip(tmp_path: Path, native: TargetCard) -> None:
    onnx.save(small_network(), str(tmp_path / "online.onnx"))
    request = CompileRequest(native, tmp_path / "out", onnx=tmp_path / "online.onnx", temporal_mode="offline")
    with pytest.raises(CompileError, match=r"takes one frame a step and \d shift caches: it cannot be compiled with"):
        compile_model(request)
    with pytest.raises(CompileError, match="cannot be compiled with --mode none"):
        compile_model(dataclasses.replace(request, temporal_mode="none"))


def test_a_step_of_many_clips_has_few_golden_ones(tmp_path: Path, native: TargetCard) -> None:
    """They are computed by ONNX Runtime, and go to the device: four steps of 128 clips would be 616 MB."""
    artifact = compile_onnx(
        build("elementwise", 2), tmp_path / "out", native, clips=True, runner=True, clips_per_batch=8
    )
    golden_clips = read_golden(artifact.path / GOLDEN, artifact.manifest)
    assert golden_clips.frames.shape == (1, 16, 22, 34, 3)
    assert verify_golden(artifact).passed
    assert verify_emulated(artifact).shown == verify_artifact(artifact).shown == "2 times 8 clips"


def test_an_inner_tensor_may_be_called_as_the_logits_of_every_frame(tmp_path: Path, native: TargetCard) -> None:
    model = build("elementwise", 2)
    taken = model.graph.node[1].output[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["frame_logits" if name == taken else name for name in names]
    artifact = compile_onnx(model, tmp_path / "out", native, clips=True)
    assert [output.name for output in artifact.manifest.outputs] == ["logits", "frame_logits'"]
    assert_computes(artifact, Reference(model), 1)


def test_what_clips_cannot_be_compiled_for(tmp_path: Path, native: TargetCard) -> None:
    request = CompileRequest(native, tmp_path / "out", onnx=tmp_path / "x.onnx", temporal_mode="offline")
    with pytest.raises(CompileError, match="precision fp16 is for single frames"):
        dataclasses.replace(request, precision=precision_named("fp16"))
    with pytest.raises(CompileError, match="jetson-nano is a GPU: clips are for CPUs"):
        dataclasses.replace(request, target=load_target("jetson-nano"))
    with pytest.raises(CompileError, match="tuning records are of single frames, clips have none yet"):
        dataclasses.replace(request, records=(tmp_path / "mine.jsonl",))
    with pytest.raises(CompileError, match="--frames cannot be given"):
        dataclasses.replace(request, frames=8)
    with pytest.raises(CompileError, match="--clips-per-batch is for models of clips, this one takes single frames"):
        CompileRequest(native, tmp_path / "out", load_model("motion"), clips_per_batch=2)


@pytest.mark.parametrize(
    ("target", "precision", "problem"),
    [
        ("jetson-nano", "fp32", "target jetson-nano is a GPU: clips are for CPUs yet"),
        ("raspberry-pi-5", "fp16", "precision fp16 is for single frames yet"),
    ],
)
def test_what_a_file_of_clips_cannot_be_compiled_for(target: str, precision: str, problem: str, tmp_path: Path) -> None:
    """It says itself that it takes clips."""
    if target == "jetson-nano":
        pytest.importorskip("nvidia.cuda_nvrtc", reason="NVRTC is not installed: pip install tsm-edge[cuda]")
    model, made = build("elementwise", 2), tmp_path / "out"
    write_metadata(model, OnnxMetadata(load_model("resnet50-kinetics-8f"), WeightSource(), "0"))
    onnx.save(model, str(tmp_path / "clips.onnx"))
    where, how = load_target(target), precision_named(precision)
    request = CompileRequest(where, made, onnx=tmp_path / "clips.onnx", precision=how)
    with pytest.raises(CompileError, match=problem):
        compile_model(request)
    assert not made.exists()


CASES = {
    "offline_tsm_mobilenetv2_kinetics400_8f": "mobilenet-v2",
    "offline_tsm_resnet50_kinetics400_8f": "resnet-50",
    "offline_tsm_resnet101_something174_8f": "resnet-101",
    "offline_tsm_resnet50_nl_kinetics400_8f": "resnet-50-nl",
    "tsn_resnet50_kinetics400_8f": "resnet-50",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_reference_case(name: str, tmp_path: Path, native: TargetCard) -> None:
    """What the public implementation computes, from a checkpoint through ``compile`` and the C interface."""
    import torch

    case = golden.load(name)
    mode = "none" if name.startswith("tsn") else "offline"
    weights = {key: torch.from_numpy(value) for key, value in case.state_dict().items()}
    torch.save({"epoch": 50, "arch": "x", "state_dict": weights}, tmp_path / "case.pth")
    network = NetworkSpec(CASES[name], case.classes, mode, frames=8)
    card = ModelCard("case", "a reference case", "the public implementation", network, Preprocess())
    request = CompileRequest(native, tmp_path / "out", card, tmp_path / "case.pth", frames=8)
    expected: dict[str, Floats] = case.expected()
    with OnlineSession(compile_model(request), threads=2) as session:
        assert_close(session.step(case.frames()), expected["video_logits"], 1e-4)
        assert_close(session.frame_logits(), expected["per_frame_logits"], 1e-4)


@pytest.mark.slow
def test_resnext_at_full_size(tmp_path: Path, native: TargetCard) -> None:
    """88 million weights, in grouped convolutions; the other cards' networks are reference cases."""
    from tsm_edge.compile.pipeline import compile_model

    request = CompileRequest(native, tmp_path / "out", load_model("resnext101-kinetics-8f"), runner=False)
    artifact = compile_model(request)
    assert "grouped" in {kernel.rule for kernel in artifact.manifest.kernels}
    assert verify_artifact(artifact, frames=1, threads=2).passed
