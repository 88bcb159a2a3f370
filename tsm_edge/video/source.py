"""Opens video files, streams and cameras: :func:`open_source` is the way in.

Files give every frame (:mod:`.file_source`); live sources give the newest one (:mod:`.grabber`).
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tsm_edge.errors import VideoError
from tsm_edge.files.paths import printable
from tsm_edge.redact import redacted
from tsm_edge.video.base import VideoSource
from tsm_edge.video.camera import open_camera, open_pipeline
from tsm_edge.video.capture import SourceOptions, is_pipeline, is_url, wait_for
from tsm_edge.video.file_source import FileSource
from tsm_edge.video.grabber import LiveSource
from tsm_edge.video.loop import LoopedSource


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
        A :class:`~tsm_edge.video.file_source.FileSource` if it has a stated length or is local, else a
        :class:`~tsm_edge.video.grabber.LiveSource`.

    Raises
    ------
    VideoError
        It cannot be opened, or gives no frame; the message says what it is and what was expected.
    """
    from tsm_edge.video.files import open_file
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
