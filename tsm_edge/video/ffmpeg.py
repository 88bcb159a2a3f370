"""PyAV, silenced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions


def file_address(path: Path) -> str:
    """Return what FFmpeg takes for a file of just that name: never for a protocol, as ``take:1.avi`` would be.

    It is not given Python's file instead. A signal that comes while FFmpeg calls back into Python is lost.
    """
    return f"file:{path.absolute()}"


def load_ffmpeg(options: SourceOptions) -> Any:
    """Import PyAV with FFmpeg's own lines on stderr off or on.

    Raises
    ------
    VideoError
        It is not installed, as may be on a board that is set up by hand.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError("decoding a video needs PyAV (FFmpeg for Python)", "try: pip install av") from error
    if options.native_logs:
        av.logging.restore_default_callback()
        av.logging.set_libav_level(av.logging.WARNING)
    return av
