"""Names that are no text, and outputs that are an input, in every command and in the Python API."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RunProgram
from encoded_clips import clip, plain

from tsm_edge.artifact.folder import Artifact
from tsm_edge.cards import TargetCard
from tsm_edge.cli.main import entry_point
from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.compile.pipeline import CompileRequest, compile_model
from tsm_edge.deploy.bundle import write_bundle
from tsm_edge.errors import TsmEdgeError
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.files.paths import native_path, printable, refuse_replacing, refuse_replacing_folder
from tsm_edge.session.local import OnlineSession
from tsm_edge.video.base import SourceInfo
from tsm_edge.video.source import open_source
from tsm_edge.video.writer import VideoFile

BAD = os.fsdecode(b"bad\xff")


def test_printable() -> None:
    assert printable("plain é 日本") == "plain é 日本"
    assert printable(Path(BAD) / "x") == r"bad\xff/x"
    assert printable("\ud800") == r"\ud800"
    assert native_path(Path("é/日本")) == "é/日本"


# Names that are not UTF-8 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", BAD, "--video", "x.mp4"],
        ["run", "DIR", "--video", f"{BAD}.mp4"],
        ["run", "DIR", "--video", "x.mp4", f"--out={BAD}.mp4"],
        ["verify", "DIR", "--onnx", BAD],
        ["compile", f"{BAD}.toml"],
        ["compile", "--onnx", BAD, "-o", "x"],
        ["compile", "-o", BAD],
        ["export", "-o", BAD, "--checkpoint", BAD],
        ["profile", "DIR", "--html", BAD],
        ["deploy", BAD, "host"],
        ["deploy", "DIR", f"host:{BAD}"],
        ["deploy", "DIR", "--bundle", f"{BAD}.tar.gz"],
        [BAD],
    ],
    ids=lambda arguments: " ".join(map(printable, arguments)),
)
def test_every_argument_of_the_program(
    arguments: list[str], small_artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(small_artifact.path) if argument == "DIR" else argument for argument in arguments]
    assert entry_point(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert r"bad\xff" in line
    assert "expected a name in UTF-8; rename the file or folder that has it" in line


def test_a_real_process_in_a_folder_of_such_a_name(
    run_program: RunProgram, small_artifact: Artifact, tmp_path: Path
) -> None:
    """Relative names are fine; what they stand for is not."""
    folder = tmp_path / BAD
    folder.mkdir()
    shutil.copy(clip("bikes.mp4"), folder / "clip.mp4")
    shutil.copytree(small_artifact.path, folder / "model")
    works = run_program("run", str(small_artifact.path), "--video", "clip.mp4", "--limit", "2", cwd=folder)
    assert works.returncode == 0, works.stderr
    for arguments in (
        ["run", str(small_artifact.path), "--video", str(clip("bikes.mp4")), "--out", "out.mp4", "--limit", "2"],
        ["verify", "model"],
    ):
        result = run_program(*arguments, cwd=folder)
        assert result.returncode == 2, result.stdout + result.stderr
        (line,) = [line for line in result.stderr.splitlines() if not line.startswith("warning: random")]
        assert r"bad\xff" in line
    assert sorted(path.name for path in folder.iterdir()) == ["clip.mp4", "model"]


API: dict[str, Callable[[Path, Artifact, TargetCard], object]] = {
    "annotated video": lambda folder, _artifact, _native: VideoFile(
        folder / "out.mp4", SourceInfo("test", False, 64, 48, 10.0, None)
    ),
    "session": lambda folder, _artifact, _native: OnlineSession(folder / "model"),
    "graph": lambda folder, _artifact, _native: load_onnx(folder / "model" / "model.onnx"),
    "artifact": lambda folder, artifact, native: compile_model(
        CompileRequest(native, folder / "out", onnx=artifact.path / "model.onnx")
    ),
    "bundle": lambda folder, _artifact, _native: write_bundle(folder, folder / "x.tar.gz"),
}


@pytest.mark.parametrize("what", API)
def test_the_python_api(what: str, small_artifact: Artifact, native: TargetCard, tmp_path: Path) -> None:
    folder = tmp_path / BAD
    shutil.copytree(small_artifact.path, folder if what == "bundle" else folder / "model")
    shutil.copy(clip("bikes.mp4"), folder / "clip.mp4")
    before = sorted(folder.rglob("*"))
    with pytest.raises(TsmEdgeError, match=r"bad\\xff.*: expected a name in UTF-8; rename the file"):
        API[what](folder, small_artifact, native)
    assert sorted(folder.rglob("*")) == before


def test_a_video_is_opened_by_python(tmp_path: Path) -> None:
    shutil.copy(clip("bikes.mp4"), tmp_path / BAD)
    with open_source(tmp_path / BAD) as source:
        assert source.info.name == rf"video {tmp_path}/bad\xff"
        assert source.read() is not None


def test_a_temporary_folder_of_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / BAD).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / BAD))
    with pytest.raises(TsmEdgeError, match="expected a name in UTF-8"), scratch_folder():
        pytest.fail("begun")
    assert list((tmp_path / BAD).iterdir()) == []


def test_a_locale_in_which_names_are_other_bytes() -> None:
    """Python would hand native code the UTF-8 of a name: another file."""
    script = "from tsm_edge.files.paths import native_path; native_path('\\xe9.mp4')"
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    environment = {**os.environ, **locale, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "expected a name in UTF-8" in done.stderr


# Outputs that are inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["itself", "by another way", "hard link", "symbolic link", "through a linked folder"])
def test_an_output_is_known_as_an_input_by_what_it_is(form: str, tmp_path: Path) -> None:
    source = tmp_path / "w.pth"
    source.write_bytes(b"weights")
    output = source
    if form == "by another way":
        (tmp_path / "sub").mkdir()
        output = tmp_path / "sub" / ".." / "w.pth"
    elif form == "hard link":
        output = tmp_path / "other"
        output.hardlink_to(source)
    elif form == "symbolic link":
        output = tmp_path / "other"
        output.symlink_to("w.pth")
    elif form == "through a linked folder":
        (tmp_path / "linked").symlink_to(tmp_path)
        output = tmp_path / "linked" / "w.pth"
    with pytest.raises(TsmEdgeError, match="is also read, expected another file to write; name another: -o FILE"):
        refuse_replacing(output, [None, tmp_path / "absent", source], "-o FILE")


def test_a_folder_with_an_input_in_it(tmp_path: Path) -> None:
    deep = tmp_path / "model" / "deep"
    deep.mkdir(parents=True)
    (deep / "model.onnx").touch()
    with pytest.raises(TsmEdgeError, match=r"model: .*model\.onnx is in it and is read, expected another folder"):
        refuse_replacing_folder(tmp_path / "model", [deep / "model.onnx"], "-o DIR")
    refuse_replacing_folder(deep / "other", [deep / "model.onnx"], "-o DIR")


CARD = """
description = "a card"
source = "this test"
labels_file = "labels.txt"
[network]
backbone = "mobilenet-v2"
classes = 2
"""


@pytest.fixture
def inputs(small_artifact: Artifact, tmp_path: Path) -> Path:
    """A folder with everything commands read."""
    folder = tmp_path / "inputs"
    shutil.copytree(small_artifact.path, folder / "model")
    (folder / "card.toml").write_text(CARD)
    (folder / "labels.txt").write_text("one\ntwo\n")
    (folder / "w.pth").write_bytes(b"weights")
    shutil.copy(clip("bikes.mp4"), folder / "clip.mp4")
    (folder / "linked.mp4").symlink_to("clip.mp4")
    (folder / "linked.tar.gz").symlink_to("model/model.so")
    (folder / "out").mkdir()
    (folder / "out" / "demo-annotated.mp4").symlink_to("../clip.mp4")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        "export --checkpoint w.pth -o w.pth",
        "export ./card.toml -o card.toml",
        "export ./card.toml -o labels.txt",
        "compile --onnx model/model.onnx -o model",
        "compile --checkpoint w.pth -o .",
        "compile --onnx model-intermediates/model.onnx -o model --keep-intermediates",
        "run model --video clip.mp4 --out clip.mp4",
        "run model --video clip.mp4 --out linked.mp4",
        "run model --video file://HERE/clip%2Emp4 --out clip.mp4",
        "profile model --html model/model.so",
        "profile model/model.so --html model/manifest.json",
        "deploy model --bundle linked.tar.gz",
        "deploy model --bundle linked.tar.gz --dry-run",
        "demo --video clip.mp4",
    ],
)
def test_no_command_replaces_what_it_reads(
    arguments: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(inputs)
    if "intermediates/" in arguments:
        (inputs / "model-intermediates").mkdir()
        (inputs / "model-intermediates" / "model.onnx").touch()
    before = {path: path.read_bytes() for path in sorted(inputs.rglob("*")) if path.is_file()}
    assert entry_point(arguments.replace("HERE", str(inputs)).split()) == 2
    _, err = capfd.readouterr()
    (line,) = [line for line in err.splitlines() if not line.startswith("warning: random")]
    assert re.search(r"(is also|and is) read, expected another (file|folder) to write; name another: -", line)
    assert {path: path.read_bytes() for path in sorted(inputs.rglob("*")) if path.is_file()} == before


def test_outputs_beside_inputs_are_fine(inputs: Path) -> None:
    """A video written into the folder of the one that is read, and into that of the model."""
    with open_source(inputs / "clip.mp4") as source:
        for path in (inputs / "other.mp4", inputs / "model" / "other.mp4"):
            file = VideoFile(path, source.info)
            file.write(plain(100), 0.0)
            file.close()
            assert file.saved


def test_a_name_in_a_card_leads_nowhere_else(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(inputs)
    (inputs / "evil.toml").write_text('name = "../../../evil"\n' + CARD)
    assert entry_point(["compile", "./evil.toml"]) == 2
    _, err = capfd.readouterr()
    assert "name is '../../../evil', expected a plain name" in err
