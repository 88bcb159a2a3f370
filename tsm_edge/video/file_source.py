"""Frames of a video that has an end: every one of them, and at the end whether the video was whole."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from tsm_edge.errors import VideoError
from tsm_edge.video.base import Break, Frame, SourceInfo, VideoSource
from tsm_edge.video.capture import Image, Recording, SourceOptions

_LATE_S = 2.0
# Of a source that states none, as FFmpeg takes it.
_DEFAULT_FPS = 25.0


class FileSource(VideoSource):
    """A source with a beginning and an end: a file, or one served over HTTP. Every frame is delivered.

    Parameters
    ----------
    capture : Recording
        Opened; closed by this object.
    name : str
        For messages.
    options : SourceOptions
        Only ``gap_s`` is used here.
    path : Path, optional
        Of a local file.

    Raises
    ------
    VideoError
        Not even one frame can be decoded.
    """

    def __init__(self, capture: Recording, name: str, options: SourceOptions, path: Path | None = None) -> None:
        self._capture = capture
        self._gap_s = options.gap_s
        self._next_index = 0
        self._sought = False
        self._time_s = 0.0
        self._break: Break = "start"
        self._shape: tuple[int, ...] = ()
        # The first frame is read at once: only it tells the true size, and whether there is any.
        try:
            self._first = self._decode()
            if self._first is None:
                why, hint = capture.why_empty()
                raise VideoError(f"{name}: {why}", hint)
        except BaseException:
            capture.release()
            raise
        height, width = self._first.image.shape[:2]
        self.info = SourceInfo(name, False, width, height, capture.fps, capture.frame_count, path)

    def read(self) -> Frame | None:
        """Return the next frame, or None at the end; damaged stretches are passed over.

        At the end, :attr:`complete` is False and :attr:`ended` says why, when some of it was damaged or is cut off.
        """
        if self.ended:
            return None
        first, self._first = self._first, None
        if first is not None:
            return dataclasses.replace(first, arrived_s=time.perf_counter() - first.decode_ms / 1e3)
        frame = self._decode()
        if frame is None:
            self._conclude()
        return frame

    def seek(self, time_s: float) -> None:
        """Go to a time in seconds; the next frame carries the discontinuity ``seek``.

        Raises
        ------
        VideoError
            The source cannot seek there.
        """
        if not (time_s >= 0 and self._capture.seek(time_s)):
            raise VideoError(
                f"{self.info.name}: cannot seek to {time_s:g} s", "copy it to an .mp4: ffmpeg -i FILE -c copy NEW.mp4"
            )
        self._first = None
        self._next_index = round(time_s * (self._capture.fps or _DEFAULT_FPS))
        self.ended = ""
        self._sought = True
        self._break = "seek"

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
        self.ended = self.ended or "closed"

    def _decode(self) -> Frame | None:
        began = time.perf_counter()
        while self._capture.grab():
            time_s = self._presentation_time()
            if self._is_late(time_s):
                continue
            image = self._capture.retrieve().to_rgb()
            decode_ms = (time.perf_counter() - began) * 1e3
            frame = Frame(image, self._next_index, time_s, began, decode_ms, self._discontinuity(time_s, image))
            self._time_s, self._break, self._shape = time_s, "", image.shape
            self._next_index += 1
            return frame
        return None

    def _is_late(self, time_s: float) -> bool:
        """Whether a decoder that stumbled over damage hands out a frame from before the one it handed out last."""
        return self._capture.damaged > 0 and not self._break and self._time_s - _LATE_S < time_s < self._time_s

    def _presentation_time(self) -> float:
        time_s = self._capture.time_s
        # There are containers without time stamps.
        return self._next_index / (self._capture.fps or _DEFAULT_FPS) if time_s is None else time_s

    def _discontinuity(self, time_s: float, image: Image) -> Break:
        if self._break:
            return self._break
        apart = time_s - self._time_s
        longest = max(self._gap_s, 3 / self._capture.fps if self._capture.fps else 0.0)
        if apart > longest:
            return "gap"
        if apart < -longest:
            return "seek"
        return "new size" if image.shape != self._shape else ""

    def _conclude(self) -> None:
        """Say how it ended. The container's frame count is a hint only: healthy files are off by any number."""
        trouble = self._capture.trouble()
        if not trouble:
            self.ended = "end of the video"
            return
        decoded, stated = self._next_index, self._capture.frame_count
        of = f" of {stated}" if stated is not None and stated > decoded and not self._sought else ""
        self.complete = False
        self.ended = f"decoded {decoded}{of} frames: {trouble}"
