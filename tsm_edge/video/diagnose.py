"""Says in a few words what a file is that cannot be played as a video, and whether one that can is all there.

FFmpeg only says "invalid data". The answers are read from the file's first bytes and from the sizes that its
container states: MP4's boxes (ISO/IEC 14496-12, section 4.2), AVI's RIFF chunks, Matroska's segment (RFC 9559).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

from tsm_edge.files.impostors import impostor

_HEAD_BYTES = 65536
_MOST_BOXES = 10_000
_SOUND_ONLY = "has sound but no video stream"
_DAMAGED = "its video stream cannot be decoded: the file is damaged"
_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"styp")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# RIFF pads and some writers count their header twice; what is cut off is longer.
_RIFF_SLACK = 64


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
        if head[4:8] in _MP4_STARTS:
            return _why_not_mp4(file)
    if _is_riff(head, b"AVI "):
        return "is cut off or damaged: its AVI headers or frames are missing"
    if head[:4] == _EBML:  # codec names begin with V_ or A_
        return _SOUND_ONLY if b"A_" in head and b"V_" not in head else _DAMAGED
    instead = impostor(head)
    if instead:
        return f"is {instead}, not a video"
    return _SOUND_ONLY if _is_sound(head) else "is not a video file"


def unknown_codec(path: Path) -> str:
    """Return what a file calls the codec of its video, for example ``V_MPEGI/ISO/VVC``; empty if that is not found."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        index = (_find_moov(file) or b"") if head[4:8] in _MP4_STARTS else b""
    named = re.search(rb"V_[A-Z0-9_/]+", head) if head[:4] == _EBML else _sample_entry(index)
    return named[0].decode("ascii", "replace").strip() if named else ""


def is_animated_webp(path: Path) -> bool:
    """Whether a file is a WebP picture of several frames, which FFmpeg tells from a still one by failing."""
    with path.open("rb") as file:
        head = file.read(21)
    return _is_riff(head, b"WEBP") and head[12:16] == b"VP8X" and len(head) == 21 and bool(head[20] & 0x02)


def is_cut_off(path: Path) -> bool:
    """Whether a file is shorter than its own container says: a copy or a recording that was interrupted."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(256)
        if head[4:8] in _MP4_STARTS:
            return _boxes_reach_beyond(file, size)
    if _is_riff(head, b"AVI "):
        stated = int.from_bytes(head[4:8], "little")
        return 0 < stated < 0xFFFFFFFF and stated + 8 > size + _RIFF_SLACK
    at = head.find(_SEGMENT)
    return head[:4] == _EBML and at >= 0 and _segment_end(head, at + len(_SEGMENT)) > size


def _segment_end(head: bytes, at: int) -> int:
    """Where a Matroska segment ends whose size begins at ``at``; 0 if it does not say (live recordings)."""
    first = head[at] if at < len(head) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    return 0 if not first or unknown else at + length + value


def _is_riff(head: bytes, kind: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == kind


def _is_sound(head: bytes) -> bool:
    ogg = head[:4] == b"OggS" and b"theora" not in head
    mpeg = head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0  # frame sync of MP3 and AAC
    return _is_riff(head, b"WAVE") or ogg or mpeg or head[:4] in (b"fLaC", b"FORM") or head[:3] == b"ID3"


def _why_not_mp4(file: BinaryIO) -> str:
    index = _find_moov(file)
    if index is None:
        return "is cut off: its index (the moov box, which MP4 writers put last) is missing"
    if b"vide" not in index and b"soun" in index:
        return _SOUND_ONLY
    return _DAMAGED if b"vide" in index else "has no video stream"


def _sample_entry(index: bytes) -> re.Match[bytes] | None:
    """Find the four letters of the codec in a video track: stsd, its version and count, the entry's size, its name."""
    track = index.find(b"vide")
    return re.compile(rb"(?s)(?<=stsd.{12})[ -~]{4}").search(index, track) if track >= 0 else None


def _find_moov(file: BinaryIO) -> bytes | None:
    """Return what is in the moov box; None if it is missing or reaches beyond the end of the file."""
    file_size = os.fstat(file.fileno()).st_size
    for kind, start, end in _top_boxes(file, file_size):
        if kind == b"moov" and end <= file_size:
            file.seek(start)
            return file.read(end - start)
    return None


def _boxes_reach_beyond(file: BinaryIO, file_size: int) -> bool:
    boxes = _top_boxes(file, file_size)
    return any(kind in (b"moov", b"moof", b"mdat") and end > file_size for kind, _, end in boxes)


def _top_boxes(file: BinaryIO, file_size: int) -> list[tuple[bytes, int, int]]:
    """Walk an MP4's top-level boxes: kind, and where in the file its content starts and ends."""
    boxes: list[tuple[bytes, int, int]] = []
    offset = 0
    for _ in range(_MOST_BOXES):
        file.seek(offset)
        header = file.read(16)
        if len(header) < 8:
            break
        size, start = int.from_bytes(header[:4], "big"), 8
        if size == 1:  # a 64-bit size follows
            size, start = int.from_bytes(header[8:16], "big"), 16
        if size == 0:  # the box reaches to the end of the file
            size = file_size - offset
        if size < start:
            break
        boxes.append((header[4:8], offset + start, offset + size))
        offset += size
    return boxes
