from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tsm_edge.artifact.folder import GOLDEN, LIBRARY, MANIFEST, MODEL_ONNX, Artifact
from tsm_edge.artifact.golden import MAGIC, make_golden, network_input, read_golden, write_golden
from tsm_edge.artifact.reference import Reference
from tsm_edge.cards import Preprocess
from tsm_edge.cards.precision import FP16_SUMMED_IN_FP32
from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import file_sha256
from tsm_edge.verify.compare import Gather, verify_golden
from tsm_edge.video.preprocess import Preprocessor


def test_the_file_is_as_golden_h_describes_it(small_artifact: Artifact, tmp_path: Path) -> None:
    manifest = small_artifact.manifest
    golden = make_golden(Reference(small_artifact.path / MODEL_ONNX, manifest), manifest, frames=3, seed=7)
    write_golden(tmp_path / "golden.bin", golden)
    data = (tmp_path / "golden.bin").read_bytes()
    _, _, height, width = manifest.frame_shape
    caches = len(manifest.caches)
    assert data[:8] == MAGIC
    assert struct.unpack_from("<6I", data, 8) == (3, 1, height, width, manifest.classes, caches)
    sizes = struct.unpack_from(f"<{caches}I", data, 32)
    assert sizes == tuple(int(np.prod(cache.shape)) for cache in manifest.caches)
    at = 32 + 4 * caches
    pixels = np.frombuffer(data, np.uint8, golden.frames.size, at)
    assert np.array_equal(pixels.reshape(golden.frames.shape), golden.frames)
    at += -(-golden.frames.size // 4) * 4
    values = np.frombuffer(data, "<f4", offset=at)
    assert values.size == 3 * manifest.classes + sum(sizes)
    assert np.array_equal(values[: manifest.classes], golden.outputs[0][0].ravel())
    assert np.array_equal(values[-sizes[-1] :], golden.outputs[-1][-1].ravel())


def test_the_caches_are_reset_half_way(small_artifact: Artifact) -> None:
    manifest = small_artifact.manifest
    reference = Reference(small_artifact.path / MODEL_ONNX, manifest)
    golden = make_golden(reference, manifest, frames=4)
    assert golden.reset == 2
    third = network_input(golden.frames[2], manifest.preprocess)
    reference.reset()
    assert np.array_equal(reference.step(third)[0], golden.outputs[2][0])
    assert not np.array_equal(reference.step(third)[0], golden.outputs[2][0])


def test_bytes_become_the_input_that_video_frames_become() -> None:
    card = Preprocess(short_side=24, crop=24, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 1.0))
    picture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    np.testing.assert_allclose(network_input(picture, card), Preprocessor(card)(picture), rtol=1e-6, atol=1e-6)


def test_the_reference_refuses_another_file(small_artifact: Artifact, other_artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not the file other for .* was compiled from"):
        Reference(small_artifact.path / MODEL_ONNX, other_artifact.manifest)
    with pytest.raises(ArtifactError, match="no such file"):
        Reference(tmp_path / "missing.onnx", small_artifact.manifest)


def test_a_file_is_read_back(small_artifact: Artifact, tmp_path: Path) -> None:
    manifest = small_artifact.manifest
    golden = make_golden(Reference(small_artifact.path / MODEL_ONNX, manifest), manifest, frames=3, seed=7)
    write_golden(tmp_path / "golden.bin", golden)
    found = read_golden(tmp_path / "golden.bin", manifest)
    assert found.reset == golden.reset
    assert np.array_equal(found.frames, golden.frames)
    for ours, theirs in zip(found.outputs[-1], golden.outputs[-1], strict=True):
        assert np.array_equal(ours, theirs)
    assert [len(outputs) for outputs in found.outputs] == [1, 1, 1 + len(manifest.caches)]
    assert np.array_equal(found.outputs[0][0], golden.outputs[0][0])


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"TSMGOLD0" + data[8:], lambda data: data[:9]])
def test_a_damaged_file_is_refused(small_artifact: Artifact, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    manifest = small_artifact.manifest
    write_golden(tmp_path / "golden.bin", make_golden(Reference(small_artifact.path / MODEL_ONNX, manifest), manifest))
    data = (tmp_path / "golden.bin").read_bytes()
    (tmp_path / "golden.bin").write_bytes(damage(data))
    with pytest.raises(ArtifactError, match=r"golden frames.*; compile again with"):
        read_golden(tmp_path / "golden.bin", manifest)


def test_a_model_is_verified_without_onnx_runtime(artifact_with_runner: Artifact) -> None:
    result = verify_golden(artifact_with_runner)
    assert result.passed
    assert result.against == "its golden.bin"
    assert len(result.checks) == 2 + len(artifact_with_runner.manifest.caches)


@pytest.mark.parametrize(("precision", "passes"), [("fp32", False), ("fp16", True)])
def test_the_tolerance_is_that_of_the_artifacts_precision(
    precision: str, passes: bool, artifact_with_runner: Artifact, tmp_path: Path
) -> None:
    """A thousandth off: too much for float32 sums, nothing for float16."""
    folder = Path(shutil.copytree(artifact_with_runner.path, tmp_path / "copy"))
    wanted = read_golden(folder / GOLDEN, artifact_with_runner.manifest).outputs[-1][-1]
    data = (folder / GOLDEN).read_bytes()
    off = wanted.ravel()[-1] + 1e-3 * np.abs(wanted).max()
    (folder / GOLDEN).write_bytes(data[:-4] + struct.pack("<f", off))
    said = b'"precision": "fp32"'
    library = (folder / LIBRARY).read_bytes()
    assert library.count(said) == 1
    (folder / LIBRARY).write_bytes(library.replace(said, said.replace(b"fp32", precision.encode())))
    table = json.loads((folder / MANIFEST).read_text("utf-8")) | {"precision": precision}
    table["files"] |= {name: file_sha256(folder / name) for name in (LIBRARY, GOLDEN)}
    (folder / MANIFEST).write_text(json.dumps(table, indent=1, ensure_ascii=False), "utf-8")
    result = verify_golden(folder)
    assert result.passed == passes
    assert result.checks[-1].error == pytest.approx(1e-3, rel=0.2)


@pytest.mark.parametrize(("off", "passes"), [(4e-3, (True, True)), (1e-2, (False, True)), (3e-2, (False, False))])
def test_shift_caches_may_have_a_tolerance_of_their_own(
    off: float, passes: tuple[bool, bool], small_artifact: Artifact
) -> None:
    """5e-3 of logits and 2e-2 of caches, where halfs are only stored."""
    manifest = replace(small_artifact.manifest, precision=FP16_SUMMED_IN_FP32.name)
    wanted = [np.ones(tensor.shape, np.float32) for tensor in (manifest.logits, *manifest.further)]
    gather = Gather(manifest)
    gather.add([value + off for value in (wanted[0], *wanted)], wanted)
    logits, again, *caches = (check.passed for check in gather.checks())
    assert caches
    assert (logits, again, *caches) == (passes[0], passes[0], *[passes[1]] * len(caches))
