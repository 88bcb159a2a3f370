"""What a source of frames is, wherever they come from: RGB frames in a row that says where it breaks off."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from tsm_edge.video.capture import Image

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
