"""Video files, streams and cameras as a sequence of RGB frames that says where it breaks off.

:func:`open_source` is the way in. Files give every frame; live sources give the newest one (:mod:`.grabber`).
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import unquote, urlsplit

from tsm_edge.errors import VideoError
from tsm_edge.files.paths import printable
from tsm_edge.redact import redacted
from tsm_edge.video.camera import open_camera, open_pipeline
from tsm_edge.video.capture import Image, Recording, SourceOptions, is_pipeline, is_url, wait_for

_LATE_S = 2.0
# Of a source that states none, as FFmpeg takes it.
_DEFAULT_FPS = 25.0

Break = Literal["", "start", "seek", "gap", "new size", "new stream"]


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source after its first frame.

    Attributes
    ----------
    name : str
        For messages, without passwords: ``video clip.mp4``, ``stream http://…``, ``camera 0``.
    live : bool
        Frames come at their own pace and are dropped when they are not fetched in time.
    width, height : int
        Of the first frame, pixels (not what the source claims).
    fps : float
        Stated rate, frames/s; 0.0 if the source states none.
    frame_count : int or None
        Frames the file says it has: a hint, often wrong. None if it does not say.
    path : Path or None
        Of a local file.
    """

    name: str
    live: bool
    width: int
    height: int
    fps: float
    frame_count: int | None
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes
    ----------
    image : ndarray
        uint8 RGB ``[H, W, 3]``.
    index : int
        From 0, in the order of the source; a live source counts the frames it dropped, too.
    time_s : float
        Of a file: the presentation time; live: the time since the first frame. Seconds.
    arrived_s : float
        ``time.perf_counter()`` when work on this frame began: when it arrived (live), or when it was asked for.
    decode_ms : float
        Decoding and conversion to RGB; of a live source without the waiting. Milliseconds.
    discontinuity : str
        Empty, or why this frame does not continue the one before: ``start``, ``seek``, ``gap``,
        ``new size``, ``new stream``.
    """

    image: Image
    index: int
    time_s: float
    arrived_s: float
    decode_ms: float
    discontinuity: Break


def _nothing() -> None:
    """What a source does while it waits if nobody asks for more."""


class VideoSource(ABC):
    """Frames from somewhere; iterate, or call :meth:`read`. A context manager.

    Attributes
    ----------
    info : SourceInfo
        What is known of the source.
    dropped : int
        Frames that arrived while another was being worked on (live sources only).
    ended : str
        Empty while it runs; then how it ended, in words.
    complete : bool
        False when some frames could not be decoded, or the source is cut off.
    on_wait : callable
        Called several times a second while :meth:`read` waits for a live source, by the thread that waits.
    """

    info: SourceInfo
    dropped: int = 0
    ended: str = ""
    complete: bool = True
    on_wait: Callable[[], None] = staticmethod(_nothing)

    @abstractmethod
    def read(self) -> Frame | None:
        """Return the next frame (live: the newest), or None at the end.

        Raises
        ------
        VideoError
            A live source went away.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file, connection or camera. May be called twice."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def open_source(place: str | Path | int, options: SourceOptions | None = None) -> VideoSource:
    """Open a video file, a folder of pictures, a stream's address, a GStreamer pipeline or a camera's number.

    Parameters
    ----------
    place : str, Path or int
        A path, which may be a pattern (``%05d.jpg``); an address with ``://``; a pipeline with `` ! ``; or a camera
        number.
    options : SourceOptions, optional
        Waits and gaps.

    Returns
    -------
    VideoSource
        A :class:`FileSource` if it has a stated length or is local, else a
        :class:`~tsm_edge.video.grabber.LiveSource`.

    Raises
    ------
    VideoError
        It cannot be opened, or gives no frame; the message says what it is and what was expected.
    """
    from tsm_edge.video.files import open_file
    from tsm_edge.video.grabber import LiveSource
    from tsm_edge.video.network import has_an_end, open_url

    options = options or SourceOptions()
    if isinstance(place, int):
        return LiveSource(lambda: open_camera(place, options), f"camera {place}", options, may_end=False)
    text = str(place)
    if text.lower().startswith("file://"):  # the file itself: nothing may be written over it
        text = unquote(urlsplit(text).path)
    if is_pipeline(text):
        return LiveSource(lambda: open_pipeline(text, options), "GStreamer pipeline", options, may_end=True)
    if not is_url(text):
        return FileSource(open_file(Path(text), options), f"video {printable(text)}", options, Path(text))
    capture = wait_for(lambda: open_url(text, options))
    if has_an_end(capture):
        return FileSource(capture, f"video {redacted(text)}", options)
    name = f"stream {redacted(text)}"
    return LiveSource(lambda: open_url(text, options), name, options, may_end=True, opened=capture)


def open_looped(place: str | Path | int, options: SourceOptions | None = None) -> VideoSource:
    """Open a file to be played again and again, at its own pace.

    Raises
    ------
    VideoError
        As for :func:`open_source`, or it is no file, or cannot go back to its beginning.
    """
    from tsm_edge.video.loop import LoopedSource

    source = open_source(place, options)
    if not isinstance(source, FileSource):
        source.close()
        raise VideoError(f"{source.info.name}: has no end, so it cannot be played again", "leave out --loop")
    try:
        return LoopedSource(source)
    except BaseException:
        source.close()
        raise


def chosen_source(video: str | None, camera: str | None) -> str | int:
    """What ``--video`` or ``--camera`` names: of these only a camera can be a number."""
    if camera is None:
        return video or ""
    return int(camera) if camera.isascii() and camera.isdigit() and len(camera) <= 4 else camera
