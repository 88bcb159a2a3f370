"""Full disks are named, and so is a folder for temporary files that cannot be written."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx_graphs import small_network

from tsm_edge.compile.frontend.onnx_reader import load_onnx
from tsm_edge.errors import TsmEdgeError
from tsm_edge.files import disk
from tsm_edge.files.atomic import scratch_folder
from tsm_edge.rpc.uploads import Uploads


def fill(monkeypatch: pytest.MonkeyPatch, full: Path) -> None:
    def usage(folder: Path) -> object:
        return SimpleNamespace(free=4096 if full in (folder, *folder.parents) else 1 << 40)

    monkeypatch.setattr("tsm_edge.files.disk.shutil.disk_usage", usage)


def test_the_place_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").mkdir()
    fill(monkeypatch, tmp_path / "b")
    places = [disk.Place(tmp_path / name / "not-there", f"the {name}", f"choose another {name}") for name in "ab"]
    with pytest.raises(TsmEdgeError) as named, disk.naming_full_disk(places):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(named.value) == f"{tmp_path}/b/not-there: no room is left for the b (0.0 MB free); choose another b"
    with pytest.raises(OSError, match="No space left"), disk.naming_full_disk(places[:1]):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), disk.naming_full_disk(places):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_onnx_runtime_is_not_asked_to_write_to_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "small.onnx"
    onnx.save(small_network(), str(source))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    fill(monkeypatch, tmp_path / "temporary")
    with pytest.raises(TsmEdgeError, match=r"/temporary: no room is left for temporary files .* TMPDIR=FOLDER"):
        load_onnx(source)


def test_an_upload_to_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(monkeypatch, tmp_path)
    (tmp_path / "model.so").symlink_to("/dev/full")
    with pytest.raises(TsmEdgeError, match=rf"^{tmp_path}: no room is left for uploads .* TMPDIR=FOLDER$"):
        Uploads(tmp_path, tmp_path).upload("model.so", bytes(8192))
    assert list(tmp_path.iterdir()) == []


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(TsmEdgeError, match=r"/file: no folder can be made there \(Not a directory\); .*TMPDIR=FOLDER"):
        scratch_folder().__enter__()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "file")])
    with pytest.raises(TsmEdgeError, match=r"no folder for temporary files can be written \(.*name one "):
        scratch_folder().__enter__()
