"""PyAV, silenced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions

if TYPE_CHECKING:
    from av.container import InputContainer


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


def open_local(path: Path, options: SourceOptions) -> InputContainer:
    """Open the file of just that name: it is taken neither for a protocol (``take:1.avi``) nor for a pattern (``%d``).

    FFmpeg is not given Python's file instead: a signal that comes while it calls back into Python is lost.

    Raises
    ------
    av.FFmpegError
        It is not a video, a picture or a recording of sound.
    """
    # Options of the container only: with others PyAV before 18 crashes where streams turn up late (MPEG).
    container: InputContainer = load_ffmpeg(options).open(
        f"file:{path.absolute()}", container_options={"pattern_type": "none"}, metadata_errors="replace"
    )
    return container
