from __future__ import annotations

from pathlib import Path

import pytest

from tsm_edge.errors import RpcError
from tsm_edge.rpc.key import check_key, chosen_key, read_key_file, same_key


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"s3cret", b"s3cret\n", b"\xef\xbb\xbf s3cret \r\n"])
def test_a_key_in_a_file(content: bytes, tmp_path: Path) -> None:
    assert read_key_file(key_file(tmp_path, content)) == "s3cret"


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", b"a\x00b", b"k" * 1025, b"k" * 9999])
def test_a_file_that_holds_no_key_is_refused_without_telling_what_it_holds(content: bytes, tmp_path: Path) -> None:
    path = key_file(tmp_path, content)
    with pytest.raises(RpcError) as caught:
        read_key_file(path)
    assert str(caught.value).startswith(
        f"key file {path} does not hold one word of at most 1024 bytes; make one with: (umask 077; "
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_key_file_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(RpcError, match=r"can be read by other users; keep it to yourself: chmod 600 .*/key$"):
        read_key_file(key_file(tmp_path, b"s3cret", mode))


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RpcError, match=r"key file .*/none: No such file or directory; make one with:"):
        read_key_file(tmp_path / "none")
    with pytest.raises(RpcError, match="Is a directory"):
        read_key_file(tmp_path)


def test_one_of_two_options(tmp_path: Path) -> None:
    path = key_file(tmp_path, b"s3cret")
    assert (chosen_key("k", None), chosen_key("", path), chosen_key("", None)) == ("k", "s3cret", "")
    with pytest.raises(RpcError, match="--key and --key-file were both given"):
        chosen_key("k", path)


@pytest.mark.parametrize("key", ["two words", "a\nb", "\x1b[2J", "\udcff", "k" * 1025])
def test_keys_the_handshake_cannot_carry(key: str) -> None:
    with pytest.raises(RpcError):
        check_key(key)


def test_comparison() -> None:
    assert same_key(b"client:k", "client:k")
    assert not same_key(b"client:", "client:k")
    assert not same_key(b"\xff", "k")
