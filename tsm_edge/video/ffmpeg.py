"""PyAV, silenced."""

from __future__ import annotations

from typing import Any

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions


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
