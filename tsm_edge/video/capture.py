"""What every source of frames is to the rest: how it is opened and read, and its frames as RGB."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tsm_edge.errors import VideoError

Image = npt.NDArray[np.uint8]

# AV_LOG_QUIET of FFmpeg's libavutil/log.h.
_FFMPEG_QUIET = "-8"
# cv::utils::logging::LogLevel.
_CV_SILENT, _CV_WARNING = 0, 3
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class SourceOptions:
    """How long to wait for a source, and what counts as a break in it.

    Attributes
    ----------
    gap_s : float
        Two frames further apart than this many seconds (and than three frames at the source's own rate) do not
        belong together: caches are reset between them.
    open_timeout_s, read_timeout_s : float
        Longest wait for a stream to open, and for one frame of it, seconds.
    reconnect_s : float
        A live source that breaks off is tried again for this many seconds; 0: the stream ends there.
    native_logs : bool
        Let OpenCV and FFmpeg write to stderr.
    """

    gap_s: float = 1.0
    open_timeout_s: float = 5.0
    read_timeout_s: float = 5.0
    reconnect_s: float = 0.0
    native_logs: bool = False

    def __post_init__(self) -> None:
        for name in ("gap_s", "open_timeout_s", "read_timeout_s"):
            if not getattr(self, name) > 0:
                raise VideoError(f"{name} is {getattr(self, name)} s, expected more than 0 s", "5 s suits most cameras")
        if not self.reconnect_s >= 0:
            raise VideoError(f"reconnect_s is {self.reconnect_s} s, expected 0 s or more", "0 s: never")


class Picture(Protocol):
    """A frame that was fetched and is not converted yet."""

    def to_rgb(self) -> Image:
        """Return it as uint8 RGB ``[H, W, 3]``, a new array."""


class Capture(Protocol):
    """Something that gives frames.

    Attributes
    ----------
    fps : float
        Stated rate, frames/s; 0.0 if it states none that can be true.
    broke_off : str
        Empty, or why there are no more frames although the source has not ended, in words.
    """

    fps: float
    broke_off: str

    def grab(self) -> bool:
        """Wait for the next frame; False when there is none."""

    def retrieve(self) -> Picture | None:
        """Return the frame that was grabbed; None if it could not be decoded."""

    def release(self) -> None:
        """Close the source."""


class Recording(Capture, Protocol):
    """A capture with a beginning and an end, which gives every frame.

    Attributes
    ----------
    frame_count : int or None
        Frames it says it has: a hint only. None if it does not say.
    time_s : float or None
        Of the frame that was grabbed: its presentation time, seconds; None if there are no time stamps.
    damaged : int
        Pieces that could not be decoded so far.
    """

    frame_count: int | None
    time_s: float | None
    damaged: int

    def retrieve(self) -> Picture:
        """Return the frame that was grabbed."""

    def seek(self, time_s: float) -> bool:
        """Go to a time in seconds; False if that is not possible."""

    def trouble(self) -> str:
        """Return what was wrong with it up to its end, in words; empty if it was whole."""

    def why_empty(self) -> tuple[str, str]:
        """Return why there is not a single frame, as the end of a sentence that begins with a name; and what to try."""


def is_url(place: str) -> bool:
    """Whether a place is a stream's address (``http://``, ``rtsp://`` …) and not a file's path."""
    return _URL.match(place) is not None


def is_pipeline(place: str) -> bool:
    """Whether a place is a GStreamer pipeline (``nvarguscamerasrc ! … ! appsink``)."""
    return " ! " in place and not Path(place).exists()


def to_rgb(image: Any) -> Image:
    """Turn a frame as OpenCV delivers it into RGB.

    Parameters
    ----------
    image : ndarray
        uint8 or uint16; ``[H, W]`` or ``[H, W, 1]`` grey, ``[H, W, 3]`` BGR or ``[H, W, 4]`` BGRA (alpha is dropped).

    Returns
    -------
    ndarray
        uint8 ``[H, W, 3]``, C-contiguous, a new array.

    Raises
    ------
    VideoError
        Any other shape or type.
    """
    import cv2

    channels = image.shape[2] if image.ndim == 3 else 1 if image.ndim == 2 else 0
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if channels not in codes or image.dtype not in (np.uint8, np.uint16) or 0 in image.shape:
        raise VideoError(
            f"a frame of shape {list(image.shape)} and type {image.dtype}, expected 1, 3 or 4 channels of 8 or 16 bits",
            "set the camera to another format: v4l2-ctl --list-formats",
        )
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    rgb: Image = cv2.cvtColor(image, codes[channels])
    return rgb


_Result = TypeVar("_Result")


def wait_for(task: Callable[[], _Result]) -> _Result:
    """Run a task that may block in C code in a thread of its own, so that Ctrl-C interrupts the waiting at once."""
    box: list[_Result | BaseException] = []

    def work() -> None:
        try:
            box.append(task())
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            box.append(error)

    thread = threading.Thread(target=work, name="tsm-edge-open", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    outcome = box[0]
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def load_opencv(options: SourceOptions) -> Any:
    """Import cv2 with its own logs, and FFmpeg's, off or on. FFmpeg's level is fixed at its first use.

    Both write to stderr on their own, in lines that name C++ files and not what the user did.
    """
    if not options.native_logs:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_QUIET)
    import cv2

    level = _CV_WARNING if options.native_logs else _CV_SILENT
    # OpenCV 4.9 has the function in the package itself, later ones in a submodule.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(level)
    return cv2
