"""What is downloaded in place of a large file: told by its first bytes."""

from __future__ import annotations

from typing import Literal

Impostor = Literal["", "a Git LFS pointer", "a web page"]
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")


def impostor(head: bytes) -> Impostor:
    """What a file is instead of what its name says, by its first bytes; empty: neither of these."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    return "a web page" if text.startswith(_PAGES) else ""
