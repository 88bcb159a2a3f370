"""Says in a few words why a file does not open as a video: empty, sound only, cut off, or something else entirely.

OpenCV only says that it failed. The answer is read from the file's first bytes and, for MP4, its list of boxes
(ISO/IEC 14496-12, section 4.2).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 65536
_MOST_BOXES = 10_000
_SOUND_ONLY = "has sound but no video stream"
_DAMAGED = "its video stream cannot be decoded: the file is damaged, or in a codec that OpenCV lacks"


def why_not_a_video(path: Path) -> str:
    """Return the end of a sentence that begins with the file's name, for example ``is empty (0 bytes)``.

    Parameters
    ----------
    path : Path
        A file that could not be opened as a video.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if not head:
            return "is empty (0 bytes)"
        if head[4:8] in (b"ftyp", b"moov", b"mdat"):
            return _why_not_mp4(file)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "is cut off or damaged: its AVI headers or frames are missing"
    if head[:4] == b"\x1a\x45\xdf\xa3":  # EBML: Matroska and WebM; codec names begin with V_ or A_
        return _SOUND_ONLY if b"A_" in head and b"V_" not in head else _DAMAGED
    return _SOUND_ONLY if _is_sound(head) else "is not a video file"


def _is_sound(head: bytes) -> bool:
    wave = head[:4] == b"RIFF" and head[8:12] == b"WAVE"
    ogg = head[:4] == b"OggS" and b"theora" not in head
    mpeg = head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0  # frame sync of MP3 and AAC
    return wave or ogg or mpeg or head[:4] in (b"fLaC", b"FORM") or head[:3] == b"ID3"


def _why_not_mp4(file: BinaryIO) -> str:
    index = _find_moov(file)
    if index is None:
        return "is cut off: its index (the moov box, which MP4 writers put last) is missing"
    if b"vide" not in index and b"soun" in index:
        return _SOUND_ONLY
    return _DAMAGED if b"vide" in index else "has no video stream"


def _find_moov(file: BinaryIO) -> bytes | None:
    """Walk the top-level boxes; None if moov is missing or reaches beyond the end of the file."""
    offset = 0
    for _ in range(_MOST_BOXES):
        file.seek(offset)
        header = file.read(16)
        if len(header) < 8:
            return None
        size = int.from_bytes(header[:4], "big")
        start = 8
        if size == 1:  # a 64-bit size follows
            size, start = int.from_bytes(header[8:16], "big"), 16
        if header[4:8] == b"moov":
            file.seek(offset + start)
            content = file.read(max(size - start, 0)) if size else file.read()
            return content if len(content) >= size - start else None
        if size < start:  # 0: the box reaches to the end of the file
            return None
        offset += size
    return None
