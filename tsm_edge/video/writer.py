"""Writes an MP4 file: under a temporary name, renamed when finished, so that the name never holds half a video."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsm_edge.errors import VideoError
from tsm_edge.files.atomic import NewFile
from tsm_edge.files.paths import native_path, refuse_replacing
from tsm_edge.video.base import SourceInfo
from tsm_edge.video.capture import Image, SourceOptions
from tsm_edge.video.ffmpeg import load_ffmpeg

if TYPE_CHECKING:
    from av.packet import Packet

_DEFAULT_FPS = 25.0
# MPEG-4 Part 2: quick to encode, and in every build of FFmpeg. Its clock has at most 65535 ticks a second, and knows no
# pause of more than an hour. This one divides by all ordinary rates.
_CODEC, _COLOURS = "mpeg4", "yuv420p"
_TICK = Fraction(1, 60_000)
_LONGEST_PAUSE_S = 3_600.0
# A live source that stood still is shown standing still, but not for longer than this.
_LONGEST_LIVE_PAUSE_S = 10.0
# Constant quality: the quantiser, 1 (best) to 31.
_QUALITY = {"qmin": "3", "qmax": "3"}


def check_place(path: Path) -> None:
    """Refuse a name no video can be written to, before there is one.

    Raises
    ------
    VideoError
        It does not end in ``.mp4``, its folder does not exist, or it is a folder.
    """
    if path.suffix.lower() != ".mp4":
        raise VideoError(
            f"annotated video {path}: expected a name that ends in .mp4", f"try: -o {path.with_suffix('.mp4')}"
        )
    if not path.parent.is_dir():
        raise VideoError(
            f"annotated video {path}: the folder {path.parent} does not exist",
            f"try: mkdir -p {shlex.quote(str(path.parent))}",
        )
    if path.is_dir():
        raise VideoError(f"annotated video {path}: is a folder, expected a file name", f"try: -o {path}/out.mp4")


class VideoFile:
    """An MP4 file being written: each frame is shown for as long as in its source.

    Parameters
    ----------
    path : Path
        Ends in ``.mp4``; replaced if it exists.
    info : SourceInfo
        Size and rate of the source. An odd width or height is enlarged by one pixel, as the codec needs.
    native_logs : bool
        Let FFmpeg write to stderr.

    Attributes
    ----------
    saved : bool
        The file is finished and has its name.

    Raises
    ------
    VideoError
        The name does not end in ``.mp4``, the folder does not exist, or the file cannot be written.
    TsmEdgeError
        It is the video that is read, or its name is not UTF-8.
    """

    def __init__(self, path: Path, info: SourceInfo, native_logs: bool = False) -> None:
        check_place(path)
        refuse_replacing(path, [info.path], "-o FILE.mp4")
        native_path(os.path.realpath(path))
        self._av = load_ffmpeg(SourceOptions(native_logs=native_logs))
        # One for all frames: making one costs more than the conversion.
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self.saved = False
        self._path = path
        self._size = (info.width + info.width % 2, info.height + info.height % 2)
        usual_s = 1 / (info.fps or _DEFAULT_FPS)
        self._timeline = Timeline(usual_s, _LONGEST_LIVE_PAUSE_S if info.live else _LONGEST_PAUSE_S)
        # A packet waits for the next one, which tells how long it is shown.
        self._waiting: Packet[Any] | None = None
        self._written = 0
        self._closed = self._failed = False
        try:
            self._file = NewFile(path, ".mp4")
        except OSError as error:
            raise self._not_written("cannot be written", error) from None
        try:
            self._container = self._av.open(str(self._file.temporary), "w", format="mp4")
            self._stream = self._container.add_stream(_CODEC, options=dict(_QUALITY))
        except (self._av.FFmpegError, OSError) as error:
            self._file.discard()
            raise self._not_written("cannot be written", error) from None
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = _COLOURS
        self._stream.time_base = self._stream.codec_context.time_base = _TICK

    def write(self, image: Image, time_s: float) -> None:
        """Add a frame: uint8 BGR ``[H, W, 3]`` with its time in seconds. Another size than the first is fitted in.

        Raises
        ------
        VideoError
            It cannot be written, for example because the disk is full.
        """
        picture = self._av.VideoFrame.from_ndarray(_fit(image, self._size), "bgr24")
        frame = self._reformatter.reformat(picture, format=_COLOURS)
        frame.pts, frame.time_base = self._timeline.place(time_s), _TICK
        try:
            self._mux(self._stream.encode(frame))
        except (self._av.FFmpegError, OSError) as error:
            self._failed = True
            raise self._not_written("cannot be written", error) from None
        self._written += 1

    def _mux(self, packets: Iterable[Packet[Any]]) -> None:
        for packet in packets:
            # In this order, so that an interruption may lose a frame but never writes one twice.
            ready, self._waiting = self._waiting, packet
            if ready is not None:
                ready.duration = (packet.pts or 0) - (ready.pts or 0)
                self._container.mux(ready)

    def close(self) -> None:
        """Finish the file and give it its name; without a single frame there is no file. May be called twice.

        Raises
        ------
        VideoError
            The file could not be finished, for example because the disk is full.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._finish()
        except (self._av.FFmpegError, OSError) as error:
            if not self._failed:
                raise self._not_written("could not be finished", error) from None
        finally:
            self._file.discard()

    def _finish(self) -> None:
        if self._written and not self._failed:
            self._mux(self._stream.encode(None))
        last, self._waiting = self._waiting, None
        # FFmpeg crashes on a packet for a file whose header it could not write.
        if last is not None and not self._failed:
            last.duration = self._timeline.last_duration()
            self._container.mux(last)
        self._container.close()
        if self._written and not self._failed:
            self._file.publish()
            self.saved = True

    def _not_written(self, what: str, error: OSError) -> VideoError:
        folder = shlex.quote(str(self._path.parent))
        reason = error.strerror or error
        return VideoError(f"annotated video {self._path}: {what} ({reason})", f"check: ls -ld {folder}; df {folder}")


class Timeline:
    """Places frames in time: from zero on, always forward, and without pauses that are too long.

    Parameters
    ----------
    usual_s : float
        From one frame to the next where their times do not tell, seconds.
    longest_s : float
        What a longer pause is shortened to, seconds.
    """

    def __init__(self, usual_s: float, longest_s: float) -> None:
        self._usual_s = usual_s
        self._longest_s = longest_s
        self._shift_s: float | None = None
        self._at_s = 0.0
        self._step_s = usual_s
        self._ticks = -1

    def place(self, time_s: float) -> int:
        """Turn a frame's time in its source into ticks of the file's clock, more than those of the frame before."""
        if self._shift_s is None:
            self._shift_s = time_s
        step_s = time_s - self._shift_s - self._at_s
        if step_s < -self._usual_s:  # a seek, or a stream that began again
            step_s = self._usual_s
            self._shift_s = time_s - self._at_s - step_s
        elif step_s > self._longest_s:
            step_s = self._longest_s
            self._shift_s = time_s - self._at_s - step_s
        self._step_s = max(step_s, 0.0)  # times that repeat or waver are found in healthy files
        self._at_s += self._step_s
        self._ticks = max(round(self._at_s / _TICK), self._ticks + 1)
        return self._ticks

    def last_duration(self) -> int:
        """How long the last frame is shown, in ticks: what is usual, but no longer than the one before it."""
        return max(round(min(self._step_s or self._usual_s, self._usual_s) / _TICK), 1)


def _fit(image: Image, size: tuple[int, int]) -> Image:
    """Bring a frame to ``(width, height)``: one missing column or row is repeated, other sizes are scaled into it."""
    import cv2

    height, width = image.shape[:2]
    if not (0 <= size[0] - width <= 1 and 0 <= size[1] - height <= 1):
        scale = min(size[0] / width, size[1] / height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        fitted: Image = cv2.copyMakeBorder(
            resized, 0, size[1] - height, 0, size[0] - width, cv2.BORDER_CONSTANT, value=(0, 0, 0)
        )
        return fitted
    if (width, height) == size:
        return image
    padded: Image = cv2.copyMakeBorder(image, 0, size[1] - height, 0, size[0] - width, cv2.BORDER_REPLICATE)
    return padded
