"""A window on the screen that shows annotated frames."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import Image

_TITLE = "tsm-edge"
_ESCAPE, _Q = 27, ord("q")


def why_no_window() -> VideoError | None:
    """Why there can be no window here; None: there can."""
    import cv2

    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        return VideoError("--show needs a window, but the installed OpenCV is headless", "pip install opencv-python")
    # Qt, in OpenCV's Linux packages, ends the whole process when it finds no display.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return VideoError("--show needs a screen, but DISPLAY is not set", "run it on the desktop, or use -o FILE.mp4")
    return None


class Window:
    """Shows frames; ``q``, Escape or the window's own button ends the run.

    Raises
    ------
    VideoError
        The installed OpenCV has no windows, or there is no screen.
    """

    def __init__(self) -> None:
        problem = why_no_window()
        if problem is not None:
            raise problem
        import cv2

        self._cv2: Any = cv2
        self.closed = False
        cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL)

    def write(self, image: Image, time_s: float) -> None:
        """Show a frame: uint8 BGR ``[H, W, 3]``."""
        self._cv2.imshow(_TITLE, image)
        key = self._cv2.waitKey(1) & 0xFF
        if key in (_ESCAPE, _Q) or self._cv2.getWindowProperty(_TITLE, self._cv2.WND_PROP_VISIBLE) < 1:
            self.closed = True

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyAllWindows()
