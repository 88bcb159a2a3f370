"""How an artifact takes the place of another: at once, and only where everything in that one is tsm-edge's."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from artifacts import compile_onnx
from onnx_graphs import small_network

from tsm_edge.artifact.folder import MANIFEST, Artifact, load_artifact
from tsm_edge.cards import TargetCard
from tsm_edge.compile.package.output import writing_artifact, writing_intermediates
from tsm_edge.errors import ArtifactError, CompileError
from tsm_edge.files.stale import remove_stale


def put(folder: Path, content: str) -> None:
    """What makes a folder an artifact, as far as writing goes: a file and a manifest that lists it."""
    (folder / "data").write_text(content)
    files = {"data": hashlib.sha256(content.encode()).hexdigest()}
    table = {"format": 1, "versions": {"tsm_edge": "0.1"}, "hashes": {"onnx": ""}, "files": files}
    (folder / MANIFEST).write_text(json.dumps(table))


def fill(path: Path, content: str) -> None:
    with writing_artifact(path) as folder:
        put(folder, content)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(path: Path) -> str:
    """Why an artifact cannot be written there; said before any work."""
    before = listing(path.parent) if path.parent.is_dir() else []
    with pytest.raises(ArtifactError) as caught, writing_artifact(path):
        pytest.fail("begun")
    assert (listing(path.parent) if path.parent.is_dir() else []) == before
    return str(caught.value)


def test_writing(tmp_path: Path) -> None:
    fill(tmp_path / "deep" / "er" / "new", "one")
    assert listing(tmp_path / "deep" / "er") == ["new"]
    assert (tmp_path / "deep" / "er" / "new" / "data").read_text() == "one"
    assert (tmp_path / "deep" / "er" / "new").stat().st_mode & 0o777 == 0o755


def test_replacing(tmp_path: Path) -> None:
    fill(tmp_path / "model", "one")
    fill(tmp_path / "model", "two")
    assert listing(tmp_path) == ["model"]
    assert listing(tmp_path / "model") == [*sorted(["data", MANIFEST])]
    assert (tmp_path / "model" / "data").read_text() == "two"


def test_a_link_stays_one(tmp_path: Path) -> None:
    fill(tmp_path / "disk" / "model", "one")
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    fill(tmp_path / "model", "two")
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "disk" / "model" / "data").read_text() == "two"
    assert listing(tmp_path / "disk") == ["model"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    fill(tmp_path / "model", "one")
    assert listing(tmp_path / "model") == sorted(["data", MANIFEST])


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", ["one", None], ids=["over an artifact", "new"])
def test_a_failure_on_the_way(stop: type[BaseException], before: str | None, tmp_path: Path) -> None:
    if before:
        fill(tmp_path / "out" / "model", before)
    with contextlib.suppress(stop), writing_artifact(tmp_path / "out" / "model") as folder:
        (folder / "data").write_text("two")
        raise stop
    assert listing(tmp_path) == (["out"] if before else [])
    if before:
        assert listing(tmp_path / "out") == ["model"]
        assert (tmp_path / "out" / "model" / "data").read_text() == before


def test_readers_never_see_half_of_one(tmp_path: Path) -> None:
    fill(tmp_path / "model", "one")
    with writing_artifact(tmp_path / "model") as folder:
        (folder / "data").write_text("tw")
        assert (tmp_path / "model" / "data").read_text() == "one"
        put(folder, "two")


# What is not replaced ----------------------------------------------------------------------------------------------


def test_other_peoples_folders(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    assert refusal(tmp_path / "thesis") == (
        f"{tmp_path}/thesis: exists and is not a compiled artifact; choose another folder with: -o DIR"
    )
    assert (tmp_path / "thesis" / "chapter").read_text() == "1"


@pytest.mark.parametrize(
    "manifest",
    [
        '{"manifest_version": 3, "name": "a browser extension", "version": "1.0"}',
        '{"format": 1, "files": {}, "versions": {"other": "1"}, "hashes": {"onnx": ""}}',
        '{"format": 1, "files": ["background.js"], "versions": {"tsm_edge": "1"}, "hashes": {"onnx": ""}}',
        "[]",
        "null",
        "{",
        "\0\xff",
    ],
)
def test_a_folder_with_another_programs_manifest(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "ext").mkdir()
    (tmp_path / "ext" / MANIFEST).write_text(manifest, "latin-1")
    (tmp_path / "ext" / "background.js").write_text("mine")
    assert "ext: exists and is not a compiled artifact" in refusal(tmp_path / "ext")
    assert listing(tmp_path / "ext") == ["background.js", MANIFEST]


def test_an_artifact_with_files_of_the_users(tmp_path: Path) -> None:
    model = tmp_path / "model"
    fill(model, "one")
    for name in ("step", "a", "b", "c"):
        (model / name).write_text("built by the user")
    (model / "videos").mkdir()
    assert "model: has in it what tsm-edge did not write (a, b, c and 2 more); choose another" in refusal(model)
    assert (model / "step").read_text() == "built by the user"


@pytest.mark.parametrize("link", [False, True])
def test_an_artifact_with_a_file_the_user_changed(link: bool, tmp_path: Path) -> None:
    fill(tmp_path / "model", "one")
    data = tmp_path / "model" / "data"
    if link:
        data.unlink()
        (tmp_path / "elsewhere").write_text("one")
        data.symlink_to(tmp_path / "elsewhere")
    else:
        data.write_text("of the user")
    assert "model: data in it was changed since tsm-edge wrote it" in refusal(tmp_path / "model")


def test_an_artifact_whose_manifest_the_user_edited(small_artifact: Artifact, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(small_artifact.path, model)
    table = json.loads((model / MANIFEST).read_text("utf-8"))
    (model / MANIFEST).write_text(json.dumps({**table, "labels": ["mine"] * 7}), "utf-8")
    assert f"model: {MANIFEST} in it was changed since tsm-edge wrote it" in refusal(model)


def test_a_file_listed_without_a_hash_is_not_ours(small_artifact: Artifact, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(small_artifact.path, model)
    (model / "thesis.txt").write_text("mine")
    table = json.loads((model / MANIFEST).read_text("utf-8"))
    table["files"]["thesis.txt"] = ""
    (model / MANIFEST).write_text(json.dumps(table), "utf-8")
    assert "model: has in it what tsm-edge did not write (thesis.txt)" in refusal(model)


@pytest.mark.parametrize("name", ["model.so", "golden.bin", MANIFEST])
def test_damage_is_mended(name: str, tmp_path: Path) -> None:
    """What nobody writes by hand is replaced, whatever is in it: "compile it again" has to work."""
    fill(tmp_path / "model", "one")
    with (tmp_path / "model" / name).open("a") as file:
        file.write(" ")
    fill(tmp_path / "model", "two")
    assert (tmp_path / "model" / "data").read_text() == "two"


def test_a_file_that_comes_while_the_artifact_is_made(tmp_path: Path) -> None:
    model = tmp_path / "model"
    fill(model, "one")

    def write() -> None:
        with writing_artifact(model) as folder:
            put(folder, "two")
            (model / "notes").write_text("mine")

    with pytest.raises(ArtifactError, match=r"did not write \(notes\)"):
        write()
    assert (model / "notes").read_text() == "mine"
    assert (model / "data").read_text() == "one"
    assert listing(tmp_path) == ["model"]


def test_a_file_that_comes_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the exchange."""
    from tsm_edge.files import folders

    model, exchange = tmp_path / "model", folders.exchange
    fill(model, "one")

    def late(one: Path, other: Path) -> None:
        if not (one / "notes").exists():
            (other / "notes").write_text("mine")
        exchange(one, other)
        remove_stale(tmp_path)  # as another run beside this one does

    monkeypatch.setattr(folders, "exchange", late)
    with pytest.raises(ArtifactError, match=r"did not write \(notes\)"):
        fill(model, "two")
    assert (model / "notes").read_text() == "mine"
    assert (model / "data").read_text() == "one"
    assert listing(tmp_path) == ["model"]


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    assert "exists and is not a compiled artifact" in refusal(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "model: cannot be written (" in refusal(tmp_path / "file" / "model")
    assert "cannot be written (File name too long)" in refusal(tmp_path / ("x" * 250))


@pytest.mark.parametrize("name", [".", "..", "", "../../here"])
def test_the_folder_this_runs_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    with pytest.raises(ArtifactError, match="is the folder this runs in"), writing_artifact(Path(name)):
        pytest.fail("begun")
    with pytest.raises(ArtifactError, match="is the folder this runs in"), writing_artifact(Path("/")):
        pytest.fail("begun")


def test_a_file_system() -> None:
    assert "/proc: is a whole file system, expected a folder in it" in refusal(Path("/proc"))


# Several at once, and killed ones ----------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tsm_edge.compile.package.output import writing_artifact
sys.path.insert(0, sys.argv[1])
from test_output import put
with writing_artifact(Path(sys.argv[2])) as folder:
    put(folder, sys.argv[3])
    print("ready", flush=True)
    sys.stdin.read()
"""


def writer(path: Path, content: str) -> subprocess.Popen[bytes]:
    """A process that is about to publish."""
    tests = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tests), str(path), content],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_a_second_writer_is_refused_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    fill(model, "one")
    with writer(model, "two") as process:
        try:
            assert f"model: is being written by another tsm-edge (process {process.pid}); wait" in refusal(model)
            fill(tmp_path / "other", "beside it")
            assert len(listing(tmp_path)) == 4
        finally:
            process.kill()
    assert (model / "data").read_text() == "one"
    assert len(listing(tmp_path)) == 4
    fill(tmp_path / "other", "anew")
    assert listing(tmp_path) == ["model", "other"]
    fill(model, "three")
    assert listing(tmp_path) == ["model", "other"]
    assert (model / "data").read_text() == "three"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL])
def test_a_system_that_cannot_exchange_names(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*arguments: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr("tsm_edge.files.folders._renameat2", lambda: cannot)
    fill(tmp_path / "model", "one")
    fill(tmp_path / "model", "two")
    assert (tmp_path / "model" / "data").read_text() == "two"
    assert listing(tmp_path) == ["model"]
    # Killed between its renames: the next writer puts it back, even one that then fails.
    (tmp_path / "model").rename(tmp_path / ".model.tsm-edge.old")
    with pytest.raises(RuntimeError), writing_artifact(tmp_path / "model"):
        raise RuntimeError
    assert (tmp_path / "model" / "data").read_text() == "two"
    # Killed after them.
    with writing_artifact(tmp_path / ".model.tsm-edge.old") as folder:
        put(folder, "one")
    fill(tmp_path / "model", "three")
    assert listing(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (errno.EBUSY, r"model: cannot be written \(Device or resource busy\)"),
        (errno.EXDEV, "model: comes with the container's image and cannot be replaced; remove it there, or choose"),
    ],
)
def test_another_error_of_the_exchange_is_told(
    number: int, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*arguments: object) -> int:
        ctypes.set_errno(number)
        return -1

    fill(tmp_path / "model", "one")
    monkeypatch.setattr("tsm_edge.files.folders._renameat2", lambda: cannot)
    with pytest.raises(ArtifactError, match=problem):
        fill(tmp_path / "model", "two")
    assert (tmp_path / "model" / "data").read_text() == "one"
    assert listing(tmp_path) == ["model"]


# A whole compilation -----------------------------------------------------------------------------------------------


def test_an_artifact_that_cannot_be_loaded_replaces_nothing(
    native: TargetCard, small_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(small_artifact.path, tmp_path / "model"))

    def garbage(output: Path, *arguments: object) -> None:
        output.write_bytes(b"no library")

    monkeypatch.setattr("tsm_edge.compile.package.link.link_library", garbage)
    with pytest.raises(CompileError) as caught:
        compile_onnx(small_network(seed=3), model, native)
    assert f"what was there before stays: {model}/manifest.json: not the manifest that" in str(caught.value)
    assert ".part" not in str(caught.value)
    assert load_artifact(model).manifest == small_artifact.manifest


def test_intermediates_are_replaced_as_artifacts_are(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with writing_intermediates(tmp_path / "kept") as folder:
            (folder / "kernels.s").write_text(content)
    assert (tmp_path / "kept" / "kernels.s").read_text() == "two"
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "kept", check=True)
    (tmp_path / "kept" / "kernels.s").write_text("edited by hand")
    with (
        pytest.raises(ArtifactError, match=r"kept: kernels\.s in it was changed since"),
        writing_intermediates(tmp_path / "kept"),
    ):
        pytest.fail("begun")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "kernels.s").write_text("mine")
    with (
        pytest.raises(ArtifactError, match="is not the intermediates of a compilation"),
        writing_intermediates(tmp_path / "notes"),
    ):
        pytest.fail("begun")
