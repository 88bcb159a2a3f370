"""Texts that a person edits, and atomic writing."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tsm_edge.errors import TextFileError
from tsm_edge.files.atomic import NewFile, read_text, write_atomic


def test_writes_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", b"data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_texts_of_every_editor_read_the_same(mark: bytes, end: bytes, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(mark + end.join([b"Thumb Up", "Pouce levé".encode(), b""]))
    assert read_text(tmp_path / "text") == "Thumb Up\nPouce levé\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Stop Sign\n".encode("utf-16"), "is UTF-16, expected UTF-8; convert it: iconv -f UTF-16 -t UTF-8 "),
        ("one\nPouce levé\n".encode("latin-1"), r"is not UTF-8 (byte 0xe9 in line 2); save it as UTF-8"),
        (b"\0" * ((16 << 20) + 1), "has more than 16 MiB, expected a text"),
    ],
    ids=["UTF-16", "Latin-1", "huge"],
)
def test_what_is_no_text_is_refused_in_one_line(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(TextFileError) as caught:
        read_text(path)
    assert str(caught.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(caught.value)


def test_a_text_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextFileError, match="cannot be read \\(Is a directory\\); check"):
        read_text(tmp_path)
    with pytest.raises(TextFileError, match="null byte"):
        read_text(tmp_path / "a\0b")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_is_replaced_keeps_its_permissions_and_a_link_leads_on(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        write_atomic(tmp_path / "pipe", b"data")
    assert names(tmp_path) == ["pipe"]
    with pytest.raises(OSError, match="not a regular file"):
        write_atomic(Path("/dev/null"), b"data")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk."""
    (tmp_path / "report").write_bytes(b"old")
    script = (
        "import resource, signal, sys; from pathlib import Path; from tsm_edge.files.atomic import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomic(Path(sys.argv[1]), b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "report")], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert (tmp_path / "report").read_bytes() == b"old"
    assert names(tmp_path) == ["report"]


def test_a_disk_that_fails_only_when_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As network file systems do."""
    (tmp_path / "report").write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "report", b"new")
    assert (tmp_path / "report").read_bytes() == b"old"
    assert names(tmp_path) == ["report"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its name after: a power cut at any moment leaves the old file or the new one, whole."""
    done = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomic(tmp_path / "file", b"data")
    assert done == ["file", "rename", "folder"]


def test_folders_that_were_made_for_nothing_are_removed(tmp_path: Path) -> None:
    def stopped() -> None:
        with NewFile(tmp_path / "a" / "b" / "file") as file:
            file.temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert names(tmp_path) == []


HOLDER = """
import sys, time
from pathlib import Path
from tsm_edge.files.atomic import NewFile, scratch_folder
with NewFile(Path(sys.argv[1]), ".mp4") as file, scratch_folder() as scratch:
    file.temporary.write_bytes(b"half")
    (scratch / "more").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    (out / ".tsm-edge-notes").write_text("not in the form of our names")
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out / "video.mp4")], stdout=subprocess.PIPE, env=environment
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            write = [sys.executable, "-c", WRITER, str(out / "other")]
            subprocess.run(write, env=environment, check=True)
            assert len(names(out)) == 3
            assert len(names(scratch)) == 1
        finally:
            holder.kill()
    assert len(names(out)) == 3
    subprocess.run(write, env=environment, check=True)
    assert names(out) == [".tsm-edge-notes", "other"]
    assert names(scratch) == []


WRITER = """
import sys
from pathlib import Path
from tsm_edge.files.atomic import scratch_folder, write_atomic
with scratch_folder():
    write_atomic(Path(sys.argv[1]), b"data")
"""


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written; nothing is taken for left over."""
    left = tmp_path / ".tsm-edge-01234567.part"
    left.write_text("perhaps somebody writes it")

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("fcntl.flock", unsupported)
    write_atomic(tmp_path / "file", b"data")
    assert names(tmp_path) == [left.name, "file"]


def test_many_writers_of_one_file_at_once(tmp_path: Path) -> None:
    """Each cleans up while the others write: every write succeeds, and whole."""
    path = tmp_path / "file"
    contents = [bytes([number]) * 20_000 for number in range(8)]

    def write(content: bytes) -> None:
        for _ in range(10):
            write_atomic(path, content)
            assert path.read_bytes() in contents

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert names(tmp_path) == ["file"]
