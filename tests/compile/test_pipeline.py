"""A whole compilation: what lies in the artifact, what its manifest says, and what is left when it fails."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import golden
import numpy as np
import onnx
import pytest
from artifacts import GOLDEN_ONLINE, compile_onnx
from onnx import helper
from onnx_graphs import GraphBuilder, Reference, assert_close, small_network

import tsm_edge
from tsm_edge.artifact.folder import HEADER_FILE, LABELS, LIBRARY, MANIFEST, MODEL_ONNX, Artifact, load_artifact
from tsm_edge.artifact.onnx_runtime import open_session
from tsm_edge.cards import (
    ModelCard,
    NetworkSpec,
    Preprocess,
    TargetCard,
    load_model,
    load_target,
    target_names,
)
from tsm_edge.cards.precision import FP16_SUMMED_IN_FP32
from tsm_edge.compile.backends.cpu.llvm import check_cpu
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.errors import ArtifactError, CompileError, ModelFileError, TsmEdgeError
from tsm_edge.export.metadata import OnnxMetadata, WeightSource, read_metadata, write_metadata
from tsm_edge.files.atomic import file_sha256
from tsm_edge.networks import build_network
from tsm_edge.session.library import Library
from tsm_edge.session.local import OnlineSession
from tsm_edge.verify.compare import verify_artifact

Golden = tuple[Artifact, Path]


def tiny(seed: int = 0, names: dict[str, str] | None = None, size: int = 8) -> onnx.ModelProto:
    """The least that has a cache."""
    graph = GraphBuilder(size, size, seed)
    x = graph.relu(graph.conv(graph.frame, 8, 3, 2))
    return graph.model(graph.head(graph.conv(graph.shift(x, 2), 6), 3), names)


def assert_equals_onnx_runtime(artifact: Artifact, model: onnx.ModelProto, count: int = 3) -> None:
    reference = Reference(model)
    frames = reference.frames(count)
    with OnlineSession(artifact) as session:
        for frame, expected in zip(frames, reference.stream(frames), strict=True):
            assert_close(session.step(frame), expected)


# A model by its card -----------------------------------------------------------------------------------------------


def test_files(golden_artifact: Golden) -> None:
    artifact, _ = golden_artifact
    names = {path.name for path in artifact.path.iterdir()}
    assert {LIBRARY, MANIFEST, LABELS, MODEL_ONNX, HEADER_FILE} <= names
    for name, digest in artifact.manifest.files.items():
        assert file_sha256(artifact.path / name) == digest
    assert LABELS in artifact.manifest.files


def test_nothing_else_is_left(golden_artifact: Golden) -> None:
    artifact, intermediates = golden_artifact
    assert {path.name for path in artifact.path.parent.iterdir()} == {artifact.path.name, intermediates.name}


def test_labels(golden_artifact: Golden) -> None:
    artifact, _ = golden_artifact
    card = load_model("mobilenetv2-jester")
    assert (artifact.path / LABELS).read_text("utf-8").splitlines() == list(card.labels)
    assert artifact.manifest.labels == card.labels


def test_manifest_of_the_model(golden_artifact: Golden, golden_checkpoint: Path) -> None:
    manifest, card = golden_artifact[0].manifest, load_model("mobilenetv2-jester")
    assert (manifest.model, manifest.description) == (card.name, card.description)
    assert (manifest.preprocess, manifest.smoothing) == (card.preprocess, card.smoothing)
    assert (manifest.frame.name, manifest.frame_shape) == ("frame", (1, 3, 224, 224))
    assert (manifest.logits.name, manifest.logits.shape, manifest.classes) == ("logits", (1, 27), 27)
    assert [cache.shape for cache in manifest.caches] == list(build_network(card.network).cache_shapes)
    assert [(cache.input, cache.output) for cache in manifest.caches] == [
        (f"shift_{index}", f"shift_{index}_next") for index in range(10)
    ]
    assert not manifest.random_weights
    assert golden_checkpoint.name in manifest.weights
    assert manifest.hashes == {
        "onnx": file_sha256(golden_artifact[0].path / MODEL_ONNX),
        "checkpoint": file_sha256(golden_checkpoint),
    }


def test_manifest_of_the_target(golden_artifact: Golden, native: TargetCard) -> None:
    manifest = golden_artifact[0].manifest
    assert (manifest.target.name, manifest.target.device, manifest.target.libc) == ("native", "cpu", native.libc)
    assert manifest.target == native
    assert manifest.versions["tsm_edge"] == tsm_edge.__version__
    assert manifest.versions["tvm"].startswith("0.27")
    assert {"zig", "abi"} <= set(manifest.versions)
    made = datetime.fromisoformat(manifest.created)
    assert timedelta(0) <= datetime.now(timezone.utc) - made < timedelta(hours=1)
    assert 0 < manifest.compile_seconds < 3600


def test_manifest_of_the_kernels(golden_artifact: Golden) -> None:
    """The work is that of the network, however it is cut into kernels."""
    artifact, _ = golden_artifact
    manifest = artifact.manifest
    graph = onnx.load(str(artifact.path / MODEL_ONNX)).graph
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    parameters = sum(np.prod(weights[node.input[1]]) for node in graph.node if node.op_type in ("Conv", "Gemm"))
    macs = 0.2995e9 + 27 * 1280  # of MobileNet-V2 at 224 px, with the smaller classifier of 27 classes
    assert sum(kernel.flops for kernel in manifest.kernels) == pytest.approx(2 * macs, rel=0.05)
    assert sum(kernel.bytes for kernel in manifest.kernels) > 4 * parameters
    assert all(kernel.items >= 1 and kernel.rule and kernel.layer for kernel in manifest.kernels)
    memory = manifest.memory
    cache_floats = sum(int(np.prod(cache.shape)) for cache in manifest.caches)
    assert memory.cache_bytes >= 2 * 4 * cache_floats
    assert memory.weight_bytes >= 4 * parameters
    assert 1e6 < memory.workspace_bytes < 16e6


def test_the_manifest_is_inside_the_library(golden_artifact: Golden) -> None:
    artifact, _ = golden_artifact
    embedded = json.loads(Library(artifact).tsm_manifest())
    on_disk = json.loads((artifact.path / MANIFEST).read_text("utf-8"))
    assert on_disk.pop("files")
    assert embedded.pop("files") == {}
    # Inside is nothing that depends on when it was made.
    assert embedded == {**on_disk, "created": "", "compile_seconds": 0.0}


def test_the_reference_model_is_the_exported_one(golden_artifact: Golden) -> None:
    artifact, _ = golden_artifact
    metadata = read_metadata(artifact.path / MODEL_ONNX)
    assert metadata is not None
    assert metadata.card.network == load_model("mobilenetv2-jester").network
    expected = golden.load(GOLDEN_ONLINE).expected()["logits"].reshape(12, -1)
    frame = golden.load(GOLDEN_ONLINE).frames()[:1]
    assert_close(Reference(artifact.path / MODEL_ONNX).stream([frame])[0], expected[:1], tolerance=1e-4)


def test_intermediates(golden_artifact: Golden) -> None:
    """Every stage can be looked at, and is that of the artifact."""
    artifact, folder = golden_artifact
    kernels = {kernel.kernel for kernel in artifact.manifest.kernels}
    assert (folder / MODEL_ONNX).read_bytes() == (artifact.path / MODEL_ONNX).read_bytes()
    for name in ("kernels.tir.py", "kernels.ll", "kernels.s", "model.c"):
        content = (folder / name).read_text("utf-8")
        assert [kernel for kernel in sorted(kernels) if kernel not in content] == [], name
    assert "@T.prim_func" in (folder / "kernels.tir.py").read_text("utf-8")
    calls = (folder / "program.txt").read_text("utf-8")
    assert [kernel.layer for kernel in artifact.manifest.kernels if kernel.layer not in calls] == []
    assert (folder / "kernels.o").read_bytes().startswith(b"\x7fELF")
    assert (folder / "weights.bin").stat().st_size >= artifact.manifest.memory.weight_bytes


@pytest.mark.parametrize(("width", "size"), [(0.5, 160), (0.75, 192), (1.4, 256)])
def test_other_widths_and_frame_sizes(width: float, size: int, native: TargetCard, tmp_path: Path) -> None:
    """Channels that fill no vectors, and rows that fill no register tiles."""
    card = load_model("mobilenetv2-jester")
    network = dataclasses.replace(card.network, width=width, frame_size=size)
    card = dataclasses.replace(card, network=network, preprocess=Preprocess(short_side=size, crop=size))
    artifact = compile_model(CompileRequest(native, tmp_path / "out", card, runner=False))
    result = verify_artifact(artifact, frames=3, threads=2)
    assert result.passed, result.checks


# The frame-by-frame baseline ---------------------------------------------------------------------------------------


def test_without_a_shift(native: TargetCard, tmp_path: Path) -> None:
    """TSN: no caches, the past does not matter; and random weights are called that."""
    import torch

    card = ModelCard("tsn", "", "", NetworkSpec("resnet-18", 5, frame_size=32), Preprocess(36, 32))
    artifact = compile_model(
        CompileRequest(native, tmp_path / "tsn", card, temporal_mode="none", seed=3, runner=False),
    )
    manifest = artifact.manifest
    assert manifest.caches == ()
    assert manifest.random_weights
    assert manifest.weights == "random, seed 3"
    assert "checkpoint" not in manifest.hashes
    assert (manifest.labels, (artifact.path / LABELS).exists()) == ((), False)
    network = build_network(dataclasses.replace(card.network, temporal_mode="none"), seed=3)
    frames = Reference(artifact.path / MODEL_ONNX).frames(2)
    with torch.inference_mode(), OnlineSession(artifact, threads=2) as session:
        expected = [network(torch.from_numpy(frame)).numpy() for frame in frames]
        for frame, logits in zip(frames * 2, expected * 2, strict=True):
            assert_close(session.step(frame), logits)
        assert_close(session.step_explicit(frames[0], [])[0], expected[0])


# Foreign files -----------------------------------------------------------------------------------------------------


def test_a_foreign_file_gives_the_same_logits(small_artifact: Artifact, native: TargetCard, tmp_path: Path) -> None:
    names = {"frame": "x", "logits": "y"} | {f"shift_{i}": f"in.{i}" for i in range(3)}
    names |= {f"shift_{index}_next": f"out.{index}" for index in range(3)}
    artifact = compile_onnx(small_network(names=names), tmp_path / "foreign", native)
    assert (artifact.manifest.frame.name, artifact.manifest.logits.name) == ("x", "y")
    assert [(cache.input, cache.output) for cache in artifact.manifest.caches] == [
        ("in.0", "out.0"),
        ("in.1", "out.1"),
        ("in.2", "out.2"),
    ]
    assert artifact.manifest.model == "foreign"
    frames = Reference(small_artifact.path / MODEL_ONNX).frames(4)
    with OnlineSession(artifact) as foreign, OnlineSession(small_artifact) as ours:
        for frame in frames:
            np.testing.assert_array_equal(foreign.step(frame), ours.step(frame))


def test_named_caches(native: TargetCard, tmp_path: Path) -> None:
    """Two of one shape whose outputs are listed the other way round."""
    graph = GraphBuilder(6, 8)
    x = graph.relu(graph.conv(graph.shift(graph.relu(graph.conv(graph.frame, 8)), 2), 8))
    logits = graph.head(graph.conv(graph.shift(x, 2), 8), 3)
    ours = graph.model(logits)
    foreign = graph.model(logits, {"shift_0": "a", "shift_1": "b", "shift_0_next": "q", "shift_1_next": "p"})
    outputs = {value.name: value for value in foreign.graph.output}
    del foreign.graph.output[:]
    foreign.graph.output.extend(outputs[name] for name in ("p", "logits", "q"))
    artifact = compile_onnx(foreign, tmp_path / "named", native, {"b": "p", "a": "q"})
    assert_equals_onnx_runtime(artifact, ours)


class OldExporter(GraphBuilder):
    """Operator set 9, as PyTorch wrote it in upstream's days: attributes where there are inputs now."""

    def channels(self, source: str, start: int, stop: int) -> str:
        _, _, height, width = self.shapes[source]
        return self.node("Slice", [source], (1, stop - start, height, width), axes=[1], starts=[start], ends=[stop])


def test_a_file_of_an_old_exporter(native: TargetCard, tmp_path: Path) -> None:
    """Upstream's own demo: mean(3).mean(2), constants among the inputs."""
    graph = OldExporter(9, 12, opset=9)
    x = graph.relu(graph.conv(graph.frame, 8, 3))
    x = graph.conv(graph.shift(x, 2), 12)
    x = graph.node("Clip", [x], graph.shapes[x], min=0.0, max=6.0)
    x = graph.node("ReduceMean", [x], (1, 12, 9), axes=[3], keepdims=0)
    x = graph.node("ReduceMean", [x], (1, 12), axes=[2], keepdims=0)
    model = graph.model(graph.dense(x, 3))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    artifact = compile_onnx(model, tmp_path / "old", native)
    assert [cache.input for cache in artifact.manifest.caches] == ["shift_0"]
    modern = onnx.ModelProto()
    modern.CopyFrom(model)
    del modern.graph.input[2:]
    modern.ir_version = 4
    assert_equals_onnx_runtime(artifact, modern)


def test_a_shift_in_place_in_half_precision(native: TargetCard, tmp_path: Path) -> None:
    """``y[:, :2] = cache`` as PyTorch's exporter writes it, weights, inputs and outputs in float16."""
    graph = GraphBuilder(9, 12)
    x = graph.relu(graph.conv(graph.frame, 8, 3))
    cache = graph.cache((1, 2, 9, 12))
    turned = graph.node("Transpose", [cache], (2, 1, 9, 12), perm=[1, 0, 2, 3])
    y = graph.node("Transpose", [x], (8, 1, 9, 12), perm=[1, 0, 2, 3])
    y = graph.node("ScatterND", [y, graph.constant([[0], [1]], np.int64), turned], graph.shapes[y])
    y = graph.node("Transpose", [y], graph.shapes[x], perm=[1, 0, 2, 3])
    graph.feed_back(cache, graph.channels(x, 0, 2))
    model = graph.model(graph.head(graph.conv(y, 12), 3))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    artifact = compile_onnx(model, tmp_path / "half", native)
    assert {kernel.rule for kernel in artifact.manifest.kernels} <= {"conv3x3", "pointwise", "average_pool"}
    assert verify_artifact(artifact, frames=3, threads=1).passed
    assert_equals_onnx_runtime(artifact, onnx.load(str(artifact.path / MODEL_ONNX)))


NAMES = ['say "frame"', "back\\slash", "new\nline", "Bild 🖼 кадр", "*/ int x; /*", "what??/", "%s%n", "${HOME} $(id)"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(name: str, native: TargetCard, tmp_path: Path) -> None:
    """Whatever an exporter calls a tensor reaches the C sources as text."""
    names = {"frame": name, "shift_0": f"{name} a", "shift_0_next": f"{name} b", "logits": f"{name} c"}
    model = tiny(names=names)
    artifact = compile_onnx(model, tmp_path / "named", native)
    assert artifact.manifest.frame.name == name
    assert json.loads(Library(artifact).tsm_manifest())["caches"][0]["output"] == f"{name} b"
    assert_equals_onnx_runtime(artifact, model)


def test_weights_in_another_file(native: TargetCard, tmp_path: Path) -> None:
    """As torch.onnx.export writes them; the artifact's reference model has them inside."""
    source = tmp_path / "model.onnx"
    onnx.save(tiny(), str(source), save_as_external_data=True, location="weights.data", size_threshold=0)
    artifact = compile_model(CompileRequest(native, tmp_path / "out" / "model", onnx=source))
    (tmp_path / "weights.data").unlink()
    assert artifact.manifest.hashes["onnx"] == file_sha256(artifact.path / MODEL_ONNX)
    open_session(str(artifact.path / MODEL_ONNX))
    assert_equals_onnx_runtime(artifact, tiny())


def test_a_card_gives_a_foreign_file_its_preprocessing(native: TargetCard, tmp_path: Path) -> None:
    onnx.save(tiny(size=32), str(tmp_path / "tiny.onnx"))
    card = ModelCard(
        "mine",
        "three moves",
        "",
        NetworkSpec("mobilenet-v2", 3),
        Preprocess(mean=(0.1, 0.2, 0.3)),
        labels=("a", "b", "c"),
    )
    request = CompileRequest(native, tmp_path / "mine", card, onnx=tmp_path / "tiny.onnx", runner=False)
    manifest = compile_model(request).manifest
    assert (manifest.model, manifest.labels) == ("mine", ("a", "b", "c"))
    assert manifest.preprocess.mean == (0.1, 0.2, 0.3)
    assert manifest.preprocess.crop == 32


def refused_before_any_work(request: CompileRequest) -> str:
    """Compile what must not compile; check that no kernel was made and nothing written, and return the message."""
    stages: list[str] = []
    with pytest.raises(TsmEdgeError) as caught:
        compile_model(request, lambda text, done: stages.append(text))
    assert all(stage.startswith(("reading", "exporting")) for stage in stages)
    assert not request.output.exists()
    return str(caught.value)


def test_a_card_of_other_classes_is_refused_before_code_is_made(native: TargetCard, tmp_path: Path) -> None:
    onnx.save(tiny(size=32), str(tmp_path / "tiny.onnx"))
    request = CompileRequest(
        native, tmp_path / "mine", load_model("mobilenetv2-jester"), onnx=tmp_path / "tiny.onnx", runner=False
    )
    message = refused_before_any_work(request)
    assert "tiny.onnx: has 3 classes, model card mobilenetv2-jester 27; name the card of this model, or none" in message


def test_metadata_of_another_network_is_refused_before_code_is_made(native: TargetCard, tmp_path: Path) -> None:
    model = tiny(size=32)
    write_metadata(model, OnnxMetadata(load_model("mobilenetv2-jester"), WeightSource(), "1"))
    onnx.save(model, str(tmp_path / "tiny.onnx"))
    message = refused_before_any_work(CompileRequest(native, tmp_path / "mine", onnx=tmp_path / "tiny.onnx"))
    assert "metadata is of a network of 224 px and 27 classes, its tensors of 32 px and 3 classes" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cpu": "cortex-a722"}, "unknown cpu 'cortex-a722' (did you mean 'cortex-a72'?): known are a64fx, "),
        (
            {"features": ("+neom",)},
            "no CPU of aarch64-unknown-linux-gnu has the feature '+neom'; did you mean '+neon'?",
        ),
        # LLVM would end the process.
        ({"triple": "x86_64-unknown-linux-gnu", "cpu": "pentium4"}, "unknown cpu 'pentium4'"),
        ({"triple": "armv7l-unknown-linux-gnueabihf", "cpu": "cortex-m55"}, "unknown cpu 'cortex-m55'"),
    ],
    ids=["cpu", "feature", "32-bit x86", "microcontroller"],
)
def test_cpus_that_llvm_does_not_know_are_refused_before_any_work(
    changes: dict[str, object], expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    board = load_target("raspberry-pi-4")
    target = dataclasses.replace(board, cpu=dataclasses.replace(board.cpu, **changes))  # type: ignore[arg-type]
    message = refused_before_any_work(CompileRequest(target, tmp_path / "out", ONLINE))
    assert message.startswith(f"target raspberry-pi-4: {expected}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", target_names())
def test_every_shipped_target_has_a_cpu_that_llvm_knows(name: str) -> None:
    check_cpu(load_target(name))


# Output ------------------------------------------------------------------------------------------------------------


def test_a_relative_output(native: TargetCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(tiny(), "tiny.onnx")
    artifact = compile_model(CompileRequest(native, Path("out/tiny"), onnx=Path("tiny.onnx")))
    assert artifact.path == Path("out/tiny")
    assert_equals_onnx_runtime(load_artifact(tmp_path / "out" / "tiny"), tiny())


def broken_linker() -> tuple[str, ...]:
    return (sys.executable, "-c", "import sys; sys.exit('ld: error: no space left on device')")


@pytest.mark.parametrize("stage", ["reading", "linking"])
@pytest.mark.parametrize("before", [True, False], ids=["over an artifact", "new"])
def test_a_failure_leaves_what_was_there(
    stage: str, before: bool, native: TargetCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, output = tmp_path / "out", tmp_path / "out" / "model"
    source = tmp_path / "tiny.onnx"
    onnx.save(tiny(), str(source))
    if before:
        compile_model(CompileRequest(native, output, onnx=source, runner=False))
    old = {path.name: path.read_bytes() for path in output.iterdir()} if before else {}
    expected: type[TsmEdgeError] = ModelFileError
    if stage == "reading":
        source.write_bytes(b"not a model")
    else:
        monkeypatch.setattr("tsm_edge.compile.package.zig.zig_command", broken_linker)
        expected = CompileError
    with pytest.raises(expected) as caught:
        compile_model(CompileRequest(native, output, onnx=source, runner=False))
    if stage == "linking":
        assert "no space left on device" in str(caught.value)
    assert [path.name for path in folder.glob("*")] == (["model"] if before else [])
    assert {path.name: path.read_bytes() for path in output.iterdir()} == old if before else not output.exists()


def test_an_artifact_is_replaced_whole(native: TargetCard, tmp_path: Path) -> None:
    first = compile_onnx(tiny(1), tmp_path / "model", native)
    second = compile_onnx(tiny(2), tmp_path / "model", native)
    assert second.manifest.hashes != first.manifest.hashes
    assert_equals_onnx_runtime(second, tiny(2))


def test_other_peoples_folders_are_refused_before_any_work(native: TargetCard, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    stages: list[str] = []
    with pytest.raises(ArtifactError, match="photos: exists and is not a compiled artifact"):
        compile_model(
            CompileRequest(native, tmp_path / "photos", load_model("mobilenetv2-jester")),
            lambda text, done: stages.append(text),
        )
    assert stages == []
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_progress(native: TargetCard, tmp_path: Path) -> None:
    onnx.save(tiny(), str(tmp_path / "tiny.onnx"))
    told: list[tuple[str, float]] = []
    compile_model(
        CompileRequest(native, tmp_path / "a", onnx=tmp_path / "tiny.onnx", runner=False),
        lambda text, done: told.append((text, done)),
    )
    stages, shares = zip(*told, strict=True)
    assert stages[:2] == ("reading tiny.onnx", "lowering and scheduling")
    assert re.fullmatch(r"generating code for \d+ kernels", stages[2])
    assert stages[3:] == ("linking for native",)
    assert list(shares) == sorted(set(shares))
    assert 0 == shares[0] < shares[-1] < 1


# Requests ----------------------------------------------------------------------------------------------------------

ONLINE = ModelCard("m", "", "", NetworkSpec("resnet-18", 5, frame_size=32), Preprocess(36, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda target: CompileRequest(target, Path("x")), "nothing to compile: expected a model name or --onnx FILE"),
        (
            lambda target: CompileRequest(target, Path("x"), onnx=Path("m.onnx"), checkpoint=Path("c.pth")),
            "--onnx already has its weights",
        ),
        (lambda target: CompileRequest(target, Path("x"), ONLINE, frames=8), "online network takes one frame a step"),
        (
            lambda target: CompileRequest(target, Path("x"), ONLINE, precision=FP16_SUMMED_IN_FP32),
            r"is a CPU: precision fp16-fp32 \(halfs summed in fp32\) is for GPUs",
        ),
    ],
    ids=["nothing", "weights twice", "frames of an online network", "halfs summed in fp32"],
)
def test_impossible_requests(make: Callable[[TargetCard], CompileRequest], message: str, native: TargetCard) -> None:
    with pytest.raises(CompileError, match=message):
        make(native)


def test_no_such_onnx_file(native: TargetCard, tmp_path: Path) -> None:
    """The message names the file the user named, not a copy of it."""
    with pytest.raises(ModelFileError, match=f"{tmp_path / 'absent.onnx'}: no such file"):
        compile_model(CompileRequest(native, tmp_path / "model", onnx=tmp_path / "absent.onnx"))


def test_a_bad_onnx_file_is_named(native: TargetCard, tmp_path: Path) -> None:
    model = tiny()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, str(tmp_path / "moving.onnx"))
    with pytest.raises(ModelFileError, match=f"{tmp_path / 'moving.onnx'}: 'frame' has a dynamic shape"):
        compile_model(CompileRequest(native, tmp_path / "model", onnx=tmp_path / "moving.onnx"))
