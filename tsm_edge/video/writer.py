"""Writes an MP4 file: under a temporary name, renamed when finished, so that the name never holds half a video."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import Image, SourceOptions, load_opencv
from tsm_edge.video.source import SourceInfo

_DEFAULT_FPS = 25.0
# MPEG-4 Part 2: H.264 is not in the OpenCV packages on PyPI. Its time base cannot say more frames/s than this.
_CODEC = "mp4v"
_MOST_FPS = 240.0
# A live source that stood still is shown standing still, but not for longer than this.
_LONGEST_HOLD_S = 10.0


class VideoFile:
    """An MP4 file being written at the source's rate and size.

    Frames of a file are written one by one; those of a live source as often as keeps the video in step with the
    clock, since some of them were dropped.

    Parameters
    ----------
    path : Path
        Ends in ``.mp4``; replaced if it exists.
    info : SourceInfo
        Size and rate of the source. An odd width or height is enlarged by one pixel, as the codec needs.
    native_logs : bool
        Let OpenCV and FFmpeg write to stderr.

    Attributes
    ----------
    saved : bool
        The file is finished and has its name.

    Raises
    ------
    VideoError
        The name does not end in ``.mp4``, the folder does not exist, or the file cannot be written.
    """

    def __init__(self, path: Path, info: SourceInfo, native_logs: bool = False) -> None:
        if path.suffix.lower() != ".mp4":
            raise VideoError(f"annotated video {path}: expected a name that ends in .mp4")
        if not path.parent.is_dir():
            raise VideoError(
                f"annotated video {path}: the folder {path.parent} does not exist", f"try: mkdir -p {path.parent}"
            )
        if path.is_dir():
            raise VideoError(f"annotated video {path}: is a folder, expected a file name")
        if info.path is not None and path.exists() and path.samefile(info.path):
            raise VideoError(f"annotated video {path}: is the video being read", "choose another name for it")
        cv2 = load_opencv(SourceOptions(native_logs=native_logs))
        self.saved = False
        self._path = path
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
        self._live = info.live
        self._fps = info.fps if 1.0 <= info.fps <= _MOST_FPS else _DEFAULT_FPS
        self._size = (info.width + info.width % 2, info.height + info.height % 2)
        self._written = 0
        self._cut = 0  # frames left out of long standstills
        self._latest: Image = np.zeros((self._size[1], self._size[0], 3), np.uint8)
        self._closed = False
        # A relative name with a colon would be taken for a protocol.
        self._writer = cv2.VideoWriter(
            str(self._partial.absolute()), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*_CODEC), self._fps, self._size
        )
        if not self._writer.isOpened():
            self._partial.unlink(missing_ok=True)
            raise VideoError(
                f"annotated video {path}: cannot be written", f"check: ls -ld {path.parent}; df {path.parent}"
            )

    def write(self, image: Image, time_s: float) -> None:
        """Add a frame: uint8 BGR ``[H, W, 3]`` with its time in seconds. Another size than the first is fitted in."""
        image = _fit(image, self._size)
        for _ in range(self._repeats(time_s) if self._live else 0):
            self._put(self._latest)
        if not self._live or self._written <= math.floor(time_s * self._fps) - self._cut:
            self._put(image)
        self._latest = image

    def _repeats(self, time_s: float) -> int:
        """How often the latest frame is still to be written before the one of ``time_s`` is due."""
        missing = math.floor(time_s * self._fps) - self._cut - self._written
        too_many = missing - round(_LONGEST_HOLD_S * self._fps)
        if too_many > 0:
            self._cut += too_many
            missing -= too_many
        return max(missing, 0) if self._written else 0

    def _put(self, image: Image) -> None:
        self._writer.write(image)
        self._written += 1

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
        self._writer.release()
        if self._written == 0:
            self._partial.unlink(missing_ok=True)
        elif not self._is_whole():
            self._partial.unlink(missing_ok=True)
            raise VideoError(f"annotated video {self._path}: could not be finished", f"check: df {self._path.parent}")
        else:
            os.replace(self._partial, self._path)
            self.saved = True

    def _is_whole(self) -> bool:
        """Whether the file opens again: OpenCV does not report a write that failed."""
        import cv2

        capture = cv2.VideoCapture(str(self._partial.absolute()), cv2.CAP_FFMPEG)
        whole = capture.isOpened() and capture.get(cv2.CAP_PROP_FRAME_COUNT) >= self._written
        capture.release()
        return bool(whole)


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
