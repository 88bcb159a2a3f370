"""What tsm-edge needs of OpenCV's capture: opening with bounded waits, silence on stderr, frames as RGB.

OpenCV and the FFmpeg inside it log to stderr on their own; both are silenced unless asked for, because their lines
name C++ files, not what the user did.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tsm_edge.errors import VideoError
from tsm_edge.redact import redacted
from tsm_edge.video.diagnose import why_not_a_video

Image = npt.NDArray[np.uint8]

# AV_LOG_QUIET of FFmpeg's libavutil/log.h.
_FFMPEG_QUIET = "-8"
# cv::utils::logging::LogLevel.
_CV_SILENT, _CV_WARNING = 0, 3
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MOST_FRAMES = 1e9


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
                raise VideoError(f"{name} is {getattr(self, name)} s, expected more than 0 s")
        if not self.reconnect_s >= 0:
            raise VideoError(f"reconnect_s is {self.reconnect_s} s, expected 0 s or more")


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used."""

    def grab(self) -> bool:
        """Wait for the next frame."""

    def retrieve(self) -> tuple[bool, Any]:
        """Decode the frame that was grabbed."""

    def get(self, prop: int) -> float:
        """Read a property."""

    def set(self, prop: int, value: float) -> bool:
        """Change a property."""

    def release(self) -> None:
        """Close the source."""


def is_url(place: str) -> bool:
    """Whether a place is a stream's address (``http://``, ``rtsp://`` …) and not a file's path."""
    return _URL.match(place) is not None


def is_pipeline(place: str) -> bool:
    """Whether a place is a GStreamer pipeline (``nvarguscamerasrc ! … ! appsink``)."""
    return " ! " in place and not Path(place).exists()


def open_file(path: Path, options: SourceOptions) -> Capture:
    """Open a video file.

    Raises
    ------
    VideoError
        There is no such file, or it is not a video: the message says what it seems to be instead.
    """
    if not path.exists():
        raise VideoError(f"video {path}: no such file", "check the path")
    if path.is_dir():
        raise VideoError(f"video {path}: is a folder, expected a video file")
    if not os.access(path, os.R_OK):
        raise VideoError(f"video {path}: no permission to read it", f"try: ls -l {path}")
    cv2 = load_opencv(options)
    # Absolute, so that a name such as "take:1.mp4" is not read as a protocol called "take".
    capture = _open(cv2, str(path.absolute()), _file_backend(cv2), [])
    if capture is None:
        raise VideoError(f"video {path}: {why_not_a_video(path)}", "expected a video file such as an .mp4")
    return capture


def open_url(url: str, options: SourceOptions) -> Capture:
    """Open a stream; waits at most ``open_timeout_s``, and later at most ``read_timeout_s`` for each frame.

    Raises
    ------
    VideoError
        Nothing answers there, or what answers is no video.
    """
    cv2 = load_opencv(options)
    waits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        int(options.open_timeout_s * 1e3),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        int(options.read_timeout_s * 1e3),
    ]
    capture = _open(cv2, url, cv2.CAP_FFMPEG, waits)
    if capture is None:
        raise VideoError(
            f"stream {redacted(url)}: no video could be opened there within {options.open_timeout_s:g} s",
            "check the address in a browser or player, and that this machine can reach it",
        )
    return capture


def open_pipeline(pipeline: str, options: SourceOptions) -> Capture:
    """Open a GStreamer pipeline that ends in an ``appsink``.

    Raises
    ------
    VideoError
        This OpenCV was built without GStreamer (those from PyPI are), or the pipeline does not start.
    """
    cv2 = load_opencv(options)
    if cv2.CAP_GSTREAMER not in cv2.videoio_registry.getStreamBackends() or not _has_gstreamer(cv2):
        raise VideoError(
            "GStreamer pipeline: this OpenCV was built without GStreamer",
            "use the system's OpenCV (on a Jetson: apt install python3-opencv), or a V4L2 camera with --camera",
        )
    capture = _open(cv2, pipeline, cv2.CAP_GSTREAMER, [])
    if capture is None:
        raise VideoError(f"GStreamer pipeline does not start: {redacted(pipeline)}", "try it with gst-launch-1.0")
    return capture


def open_camera(number: int, options: SourceOptions) -> Capture:
    """Open a camera: by V4L2 on Linux, asked for MJPG, which USB cameras need to deliver full rate.

    Raises
    ------
    VideoError
        There is no such camera, it is in use, or this user may not open it.
    """
    cv2 = load_opencv(options)
    linux = sys.platform.startswith("linux")
    if linux:
        _check_device(number)
    capture = _open(cv2, number, cv2.CAP_V4L2 if linux else cv2.CAP_ANY, [])
    if capture is None:
        raise VideoError(
            f"camera {number}: cannot be opened", "close other programs that use it, or try another --camera"
        )
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
    return capture


def frame_count(capture: Capture) -> int | None:
    """Return how many frames the container says it has; None for a live stream or a container that does not say."""
    import cv2

    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if 0 <= count < _MOST_FRAMES else None


def frame_rate(capture: Capture) -> float:
    """Return the source's stated rate in frames/s; 0.0 if it states none that can be true."""
    import cv2

    rate = capture.get(cv2.CAP_PROP_FPS)
    return float(rate) if 0.1 <= rate <= 1000 else 0.0


def to_rgb(image: Any) -> Image:
    """Turn a frame as OpenCV delivers it into RGB; the one place where channels change order.

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
            f"a frame of shape {list(image.shape)} and type {image.dtype}, expected 1, 3 or 4 channels of 8 or 16 bits"
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
    """Import cv2 with its own logs, and FFmpeg's, off or on. FFmpeg's level is fixed at its first use."""
    if not options.native_logs:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_QUIET)
    import cv2

    level = _CV_WARNING if options.native_logs else _CV_SILENT
    # OpenCV 4.9 has the function in the package itself, later ones in a submodule.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(level)
    return cv2


def _open(cv2: Any, place: str | int, backend: int, parameters: list[int]) -> Capture | None:
    capture = cv2.VideoCapture()
    try:
        opened = capture.open(place, backend, parameters) if parameters else capture.open(place, backend)
    except cv2.error:
        opened = False
    if not opened:
        capture.release()
        return None
    result: Capture = capture
    return result


def _file_backend(cv2: Any) -> int:
    # FFmpeg by name: OpenCV's own choice may fall through to backends that treat any file as an image sequence.
    backends = cv2.videoio_registry.getStreamBackends()
    return int(cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in backends else cv2.CAP_ANY)


def _has_gstreamer(cv2: Any) -> bool:
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def _check_device(number: int) -> None:
    device = Path(f"/dev/video{number}")
    if not device.exists():
        present = sorted(path.name for path in Path("/dev").glob("video[0-9]*"))
        found = f"found {', '.join(present)}" if present else "no camera was found"
        raise VideoError(f"camera {number}: {device} does not exist ({found})", "list cameras with: ls /dev/video*")
    if not os.access(device, os.R_OK | os.W_OK):
        raise VideoError(f"camera {number}: no permission to open {device}", "try: sudo usermod -aG video $USER")
