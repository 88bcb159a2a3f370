"""Cameras and GStreamer pipelines, through OpenCV."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tsm_edge.errors import VideoError
from tsm_edge.redact import redacted
from tsm_edge.video.capture import Capture, Image, SourceOptions, load_opencv, to_rgb

# A picture that has these bytes in these places by chance comes once in 2^128 frames.
_MARKS = np.random.default_rng(0).integers(0, 256, 16, np.uint8)
_DEVICES = Path("/dev")


class NativeCapture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used."""

    def grab(self) -> bool:
        """Wait for the next frame."""

    def retrieve(self, image: Any = None) -> tuple[bool, Any]:
        """Decode the frame that was grabbed, into ``image`` if that has its size."""

    def get(self, prop: int) -> float:
        """Read a property."""

    def release(self) -> None:
        """Close the source."""


class OpenCvPicture:
    """A frame as OpenCV delivered it."""

    def __init__(self, image: Any) -> None:
        self._image = image

    def to_rgb(self) -> Image:
        """Return uint8 RGB ``[H, W, 3]``, a new array."""
        return to_rgb(self._image)


class OpenCvCapture:
    """A camera or pipeline that OpenCV has opened.

    OpenCV's word that it read a frame is not taken for it: each frame goes into a buffer with marks in it, and a
    buffer that comes back with all its marks was not written.

    Parameters
    ----------
    native : cv2.VideoCapture
        Opened; closed by this object.
    """

    def __init__(self, native: NativeCapture) -> None:
        import cv2

        rate = native.get(cv2.CAP_PROP_FPS)
        self.fps = float(rate) if 0.1 <= rate <= 1000 else 0.0
        self.broke_off = ""
        self._native = native
        self._shape: tuple[int, ...] = ()
        self._type: Any = np.uint8

    def grab(self) -> bool:
        """Wait for the next frame; False if the source broke off or ended: OpenCV does not say which."""
        return self._native.grab()

    def retrieve(self) -> OpenCvPicture | None:
        """Decode the frame that was grabbed; None if OpenCV could not, whether it says so or not."""
        # A new one for each frame, as OpenCV would make: the one before belongs to whoever took it.
        buffer = np.empty(self._shape, self._type)
        if buffer.nbytes < _MARKS.size:
            found, image = self._native.retrieve()
        else:
            _marked(buffer)[:] = _MARKS
            found, image = self._native.retrieve(buffer)
            if image is buffer and np.array_equal(_marked(buffer), _MARKS):
                return None
        if not found:
            return None
        self._shape, self._type = image.shape, image.dtype
        return OpenCvPicture(image)

    def release(self) -> None:
        """Close the source."""
        self._native.release()


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
    native = _open(cv2, number, cv2.CAP_V4L2 if linux else cv2.CAP_ANY)
    if native is None:
        raise VideoError(
            f"camera {number}: cannot be opened", "close other programs that use it, or try another --camera"
        )
    native.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
    return OpenCvCapture(native)


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
    native = _open(cv2, pipeline, cv2.CAP_GSTREAMER)
    if native is None:
        raise VideoError(f"GStreamer pipeline does not start: {redacted(pipeline)}", "try it with gst-launch-1.0")
    return OpenCvCapture(native)


def _marked(buffer: Any) -> Any:
    """View the bytes of a buffer that hold marks: as many as there are marks, over all of it."""
    return buffer.reshape(-1).view(np.uint8)[:: buffer.nbytes // _MARKS.size][: _MARKS.size]


def _open(cv2: Any, place: str | int, backend: int) -> Any:
    native = cv2.VideoCapture()
    try:
        opened = native.open(place, backend)
    except cv2.error:
        opened = False
    if not opened:
        native.release()
        return None
    return native


def _has_gstreamer(cv2: Any) -> bool:
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def _check_device(number: int) -> None:
    device = _DEVICES / f"video{number}"
    if not device.exists():
        present = sorted(path.name for path in _DEVICES.glob("video[0-9]*"))
        found = f"found {', '.join(present)}" if present else "no camera was found"
        raise VideoError(f"camera {number}: {device} does not exist ({found})", "list cameras with: ls /dev/video*")
    if not os.access(device, os.R_OK | os.W_OK):
        raise VideoError(f"camera {number}: no permission to open {device}", "try: sudo usermod -aG video $USER")
