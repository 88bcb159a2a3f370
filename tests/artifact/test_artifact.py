"""Artifacts on disk: what is checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import compile_onnx, run_cc
from onnx_graphs import GraphBuilder, Reference, assert_close

from tsm_edge.artifact.folder import (
    HEADER_FILE,
    LIBRARY,
    MANIFEST,
    MODEL_ONNX,
    RUNNER,
    Artifact,
    latest_artifact,
    load_artifact,
    open_library,
)
from tsm_edge.artifact.manifest import TensorInfo, embedded_forms, parse_manifest
from tsm_edge.cards import TargetCard, load_target
from tsm_edge.cards.architecture import X86_LEVELS
from tsm_edge.compile.package.c_tables import c_string
from tsm_edge.deploy.files import files_of
from tsm_edge.errors import ArtifactError
from tsm_edge.files.atomic import file_sha256
from tsm_edge.session.local import OnlineSession
from tsm_edge.verify.compare import verify_artifact
from tsm_edge.verify.emulated import verify_emulated

HASHED = (LIBRARY, HEADER_FILE)


@pytest.fixture
def folder(small_artifact: Artifact, tmp_path: Path) -> Path:
    """A copy of the small artifact, to damage."""
    return Path(shutil.copytree(small_artifact.path, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as a table."""
    table = json.loads((folder / MANIFEST).read_text("utf-8"))
    change(table)
    (folder / MANIFEST).write_text(json.dumps(table), "utf-8")


def replace_library(folder: Path, content: Path) -> None:
    """Another ``model.so`` under a manifest that agrees with it."""
    shutil.copy(content, folder / LIBRARY)
    edit(folder, lambda table: table["files"].update({LIBRARY: file_sha256(folder / LIBRARY)}))


@pytest.mark.parametrize("form", [str, Path, lambda path: path / LIBRARY], ids=["text", "folder", "library"])
def test_load(form: Callable[[Path], str | Path], folder: Path, small_artifact: Artifact) -> None:
    artifact = load_artifact(form(folder))
    assert artifact.path == folder
    assert artifact.library == folder / LIBRARY
    assert artifact.manifest == small_artifact.manifest


def test_every_file_is_hashed(small_artifact: Artifact) -> None:
    """But the manifest itself, and the reference model, which running does not need."""
    names = {path.name for path in small_artifact.path.iterdir()}
    assert set(small_artifact.manifest.files) == names - {MANIFEST, MODEL_ONNX}
    assert set(HASHED) <= set(small_artifact.manifest.files)


def test_the_reference_model_may_be_missing(folder: Path) -> None:
    (folder / MODEL_ONNX).unlink()
    with OnlineSession(folder) as session:
        session.step(np.zeros(session.manifest.frame_shape, np.float32))


def test_a_reference_model_that_cannot_be_read(folder: Path) -> None:
    (folder / MODEL_ONNX).unlink()
    (folder / MODEL_ONNX).symlink_to("/proc/self/mem")
    with pytest.raises(ArtifactError, match=r"model\.onnx: cannot be read \(Input/output error\); check"):
        verify_artifact(folder, frames=1)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"absent: no such directory, expected a compiled artifact; make one with"):
        load_artifact(tmp_path / "absent")


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        load_artifact(tmp_path)


@pytest.mark.parametrize("name", HASHED)
def test_a_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing or unreadable"):
        load_artifact(folder)


@pytest.mark.parametrize("name", HASHED)
def test_a_half_copied_file(name: str, folder: Path) -> None:
    os.truncate(folder / name, (folder / name).stat().st_size // 2)
    with pytest.raises(ArtifactError, match=f"{name}: does not match its manifest"):
        load_artifact(folder)


def test_one_changed_byte(folder: Path) -> None:
    content = bytearray((folder / LIBRARY).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / LIBRARY).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.so: does not match its manifest"):
        OnlineSession(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable manifest"),
        (b'{"format": 1, "model": "x"', "not a readable manifest"),
        (b"[1, 2]", "not a readable manifest"),
        (b'{"format": 1}', "not a readable manifest .*target"),
        (b'{"format": 2}', "not a readable manifest .*frame"),
        (b'{"format": 99}', r"manifest format is 99, expected 2; compile it again"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
    ids=["empty", "cut off", "a list", "keys missing, old", "keys missing", "newer", "not text"],
)
def test_a_damaged_manifest(content: bytes, message: str, folder: Path) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_artifact(folder)
    assert str(folder / MANIFEST) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_input_without_a_shape(folder: Path) -> None:
    edit(folder, lambda table: table["frame"].update(shape=[]))
    with pytest.raises(ArtifactError, match="not a readable manifest"):
        load_artifact(folder)


def test_a_precision_of_a_later_version(folder: Path) -> None:
    edit(folder, lambda table: table.update(precision="fp4"))
    with pytest.raises(ArtifactError, match="precision is 'fp4', expected fp32, fp16, fp16-fp32, int8"):
        load_artifact(folder)


def test_an_unknown_key_in_the_manifest(folder: Path) -> None:
    edit(folder, lambda table: table.update(colour="red"))
    with pytest.raises(ArtifactError, match=r"not a readable manifest .*colour"):
        load_artifact(folder)


def number_of(path: tuple[str | int, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a part of the manifest."""

    def change(table: Any) -> None:
        for key in path[:-1]:
            table = table[key]
        table[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("frame", "shape"), [1, 3, 24, 10]),
        (("frame", "shape"), [1, 3, 24000, 20000]),
        (("frame", "shape", 3), "20"),
        (("frame", "shape"), []),
        (("frame", "name"), "picture"),
        (("outputs", 0, "shape"), [1, 700]),
        (("outputs", 0, "shape"), []),
        (("caches", 0, "shape"), [1, 2, 2, 2]),
        (("caches",), []),
        (("kernels",), []),
        (("kernels", 0, "stages"), [{"name": "all", "flops": 1}]),
        (("labels",), ["one", "two"]),
        (("target", "cpu"), "x86-64"),
        (("target", "triple"), "riscv64-unknown-linux-gnu"),
        (("random_weights",), True),
        (("preprocess", "crop"), 2**40),
        (("preprocess", "crop"), 10**400),
        (("created",), 1e400),
        (("compile_seconds",), [[[]]]),
        (("hashes", "onnx"), "0" * 64),
        (("hashes", "more"), "\udcff"),
    ],
    ids=str,
)
def test_a_changed_manifest(path: tuple[str | int, ...], value: Any, folder: Path) -> None:
    """It is not the one inside the library, and nothing is opened that it would have the size of."""
    edit(folder, number_of(path, value))
    with pytest.raises(
        ArtifactError, match=r"manifest\.json: (not the manifest that model|does not list lab|not a readable man)"
    ):
        load_artifact(folder)


@pytest.mark.parametrize("name", ["frame", "outputs"])
def test_a_library_says_itself_what_it_is(name: str, small_artifact: Artifact) -> None:
    """Also where the folder was not checked: a pointer is never sized by another manifest."""
    wrong = TensorInfo(name, (1, 3, 2, 2))
    change: dict[str, Any] = {name: wrong if name == "frame" else (wrong,)}
    artifact = Artifact(small_artifact.path, dataclasses.replace(small_artifact.manifest, **change))
    with pytest.raises(ArtifactError, match=r"model\.so: has another manifest inside than manifest\.json beside it"):
        OnlineSession(artifact)


def test_written_another_way_it_is_the_same_manifest(folder: Path) -> None:
    table = json.loads((folder / MANIFEST).read_text("utf-8"))
    (folder / MANIFEST).write_text(json.dumps(table, indent=4, separators=(" , ", " : ")), "utf-8")
    assert load_artifact(folder).manifest == load_artifact(folder).manifest


@pytest.mark.parametrize("name", HASHED)
def test_every_file_must_be_listed(name: str, folder: Path) -> None:
    edit(folder, lambda table: table["files"].pop(name))
    with pytest.raises(ArtifactError, match=rf"manifest\.json: does not list {name}; compile it again"):
        load_artifact(folder)
    edit(folder, lambda table: table.update(files={}))
    with pytest.raises(ArtifactError, match=r"does not list model\.so, tsm_edge\.h; compile it again"):
        load_artifact(folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/model.so", "notes.txt", "", ".", "x" * 5000, "a\nb\udcff"])
def test_no_other_file_is_listed(name: str, folder: Path) -> None:
    edit(folder, lambda table: table["files"].update({name: "0" * 64}))
    with pytest.raises(ArtifactError, match=r"manifest\.json: lists '.*', expected only model\.so") as caught:
        load_artifact(folder)
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_a_runner_that_is_not_listed_is_not_ours(folder: Path) -> None:
    (folder / RUNNER).write_text("#!/bin/sh\ntouch was-here\n")
    (folder / RUNNER).chmod(0o755)
    artifact = load_artifact(folder)
    assert artifact.runner is None
    assert RUNNER not in [file.name for file in files_of(artifact)]
    with pytest.raises(ArtifactError, match="has no tsm-runner"):
        verify_emulated(folder)


@pytest.mark.parametrize("name", [MANIFEST, LIBRARY])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ArtifactError, match=r"has no manifest\.json|model\.so is missing or unreadable"):
        load_artifact(folder)


@pytest.mark.parametrize("depth", [300, 900, 100_000])
def test_a_manifest_of_lists_in_lists(depth: int, folder: Path) -> None:
    text = (folder / MANIFEST).read_text("utf-8")
    (folder / MANIFEST).write_text(text.replace('"created":', f'"created": {"[" * depth}{"]" * depth}, "old":', 1))
    with pytest.raises(ArtifactError, match=r"not (a readable|the) manifest"):
        load_artifact(folder)


def test_another_architecture(small_artifact: Artifact) -> None:
    manifest = small_artifact.manifest
    target = dataclasses.replace(load_target("raspberry-pi-4-32bit"), name="board")
    with pytest.raises(
        ArtifactError, match=r"this machine is \w+, the model is compiled for board \(arm\); .*--target native$"
    ):
        OnlineSession(Artifact(small_artifact.path, dataclasses.replace(manifest, target=target)))


def test_another_architecture_with_a_runner_can_be_checked_here(folder: Path) -> None:
    manifest = load_artifact(folder).manifest
    target = dataclasses.replace(load_target("raspberry-pi-4-32bit"), name="board")
    manifest = dataclasses.replace(manifest, target=target, files={**manifest.files, RUNNER: "0" * 64})
    with pytest.raises(ArtifactError, match=rf"under QEMU: tsm-edge verify {folder} --emulate$"):
        open_library(Artifact(folder, manifest))


def test_a_cpu_that_lacks_something(small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = small_artifact.manifest
    target = load_target("x86-64")
    monkeypatch.setattr("tsm_edge.cards.architecture.this_architecture", lambda: "x86_64")
    monkeypatch.setattr("tsm_edge.cards.architecture.cpu_flags", lambda: {*X86_LEVELS["x86-64-v3"]} - {"fma"})
    with pytest.raises(
        ArtifactError, match=r"this machine's CPU lacks fma, the model is compiled for x86-64 \(x86-64-v3\)"
    ):
        open_library(Artifact(small_artifact.path, dataclasses.replace(manifest, target=target)))


def test_a_library_that_is_none(folder: Path, tmp_path: Path) -> None:
    inside = embedded_forms((folder / MANIFEST).read_text(), folder)[0]
    (tmp_path / "text").write_bytes(b"not a library" + inside + b"\0")
    replace_library(folder, tmp_path / "text")
    with pytest.raises(ArtifactError, match=r"model\.so: cannot be loaded \("):
        OnlineSession(folder)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int answer(void) { return text[42]; }", r"cannot be loaded \(.*tsm_"),
        (
            "const char *tsm_manifest(void) { return text; } int tsm_abi_version(void) { return 3; }",
            "ABI version 3, expected 2",
        ),
    ],
    ids=["something else", "newer"],
)
def test_a_library_of_another_kind(source: str, message: str, folder: Path, tmp_path: Path) -> None:
    inside = embedded_forms((folder / MANIFEST).read_text("utf-8"), folder)[0].decode("utf-8")
    (tmp_path / "other.c").write_text(f"const char text[] = {c_string(inside)};\n{source}")
    library = tmp_path / "other.so"
    run_cc(load_target("native"), "-shared", tmp_path / "other.c", "-o", library)
    replace_library(folder, library)
    with pytest.raises(ArtifactError, match=message):
        OnlineSession(folder)


def test_compiled_again_to_the_same_folder(native: TargetCard, tmp_path: Path) -> None:
    """The system's loader would give the library it knows by that path."""
    for seed in (1, 2):
        graph = GraphBuilder(8, 8, seed)
        model = graph.model(graph.head(graph.conv(graph.frame, 4, 3), 3))
        reference = Reference(model)
        with OnlineSession(compile_onnx(model, tmp_path / "model", native)) as session:
            for frame, expected in zip(reference.frames(2), reference.stream(reference.frames(2)), strict=True):
                assert_close(session.step(frame), expected)


def test_latest_artifact(tmp_path: Path) -> None:
    for age, name in ((30, "old"), (10, "newest"), (20, "newer"), (0, ".newest.part")):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).touch()
        seconds = (tmp_path / name / MANIFEST).stat().st_mtime - age
        os.utime(tmp_path / name / MANIFEST, (seconds, seconds))
    assert latest_artifact(tmp_path) == tmp_path / "newest"


def test_no_latest_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no compiled artifact below .*; make one with: tsm-edge compile"):
        latest_artifact(tmp_path / "out")


def test_a_manifest_says_what_the_model_applies_to_its_logits(
    small_artifact: Artifact, other_artifact: Artifact
) -> None:
    assert other_artifact.manifest.activation == load_artifact(other_artifact.path).manifest.activation == "softmax"
    text = small_artifact.manifest.to_json()
    assert "activation" not in text  # as in those of older versions
    assert parse_manifest(text, "text") == small_artifact.manifest
    with pytest.raises(ArtifactError, match="tanh"):
        parse_manifest(json.dumps({**json.loads(text), "activation": "tanh"}), "text")


def test_the_manifest_survives_its_file(small_artifact: Artifact) -> None:
    """What is read equals what was written, types included."""
    manifest = load_artifact(small_artifact.path).manifest
    assert json.loads(manifest.to_json()) == json.loads((small_artifact.path / MANIFEST).read_text("utf-8"))
    assert dataclasses.replace(manifest) == small_artifact.manifest
    assert isinstance(manifest.caches[0].shape, tuple)
    assert isinstance(manifest.preprocess.mean, tuple)


def test_a_manifest_of_format_1_is_read(small_artifact: Artifact) -> None:
    """As artifacts on devices have it that were compiled before there was format 2."""
    manifest = small_artifact.manifest
    table = json.loads(manifest.to_json())
    for tensor in (table["frame"], *table["outputs"], *table["caches"]):
        del tensor["dtype"]
    cpu = table["target"].pop("cpu")
    kept = {key: table["target"][key] for key in ("name", "description", "device", "libc")}
    target = {**kept, **{key: cpu[key] for key in ("triple", "cpu", "features", "vector_lanes")}}
    (logits,) = table.pop("outputs")
    del table["precision"]
    found = parse_manifest(json.dumps({**table, "format": 1, "logits": logits, "target": target}), "old")
    assert found.target.cpu.triple == manifest.target.cpu.triple
    same = dataclasses.replace(found, target=manifest.target)
    assert same == manifest


def test_a_manifest_holds_the_whole_target_card(small_artifact: Artifact, native: TargetCard) -> None:
    assert parse_manifest(small_artifact.manifest.to_json(), "text").target == native
