"""Texts that a person edits, and atomic writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsm_edge.errors import TextFileError
from tsm_edge.files import read_text, write_atomic


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
