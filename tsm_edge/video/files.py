"""Opens what has a path: a video file, a pipe, or pictures in a folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import Recording, SourceOptions
from tsm_edge.video.decoder import Decoder, chosen_stream
from tsm_edge.video.diagnose import unknown_codec, why_not_a_video
from tsm_edge.video.ffmpeg import load_ffmpeg, open_local
from tsm_edge.video.pictures import Pictures, is_pattern, matching, pictures_in
from tsm_edge.video.pipe import open_pipe

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream


def open_file(path: Path, options: SourceOptions) -> Recording:
    """Open a video file, a named pipe, a folder of pictures, or a pattern of their names (``%05d.jpg``).

    Raises
    ------
    VideoError
        There is no such file, or it is not a video: the message says what it seems to be instead.
    """
    if is_pattern(path) and not path.exists():
        return Pictures(matching(path), options)
    if not path.exists():
        raise VideoError(f"video {path}: no such file", "check the path")
    if path.is_dir():
        return Pictures(pictures_in(path), options)
    if not os.access(path, os.R_OK):
        raise VideoError(f"video {path}: no permission to read it", f"try: ls -l {path}")
    if path.is_file():
        return Decoder(*_open(path, options), path=path)
    if path.is_fifo():
        return open_pipe(path, options)
    camera = path.name.removeprefix("video")
    number = camera if stat.S_ISCHR(path.stat().st_mode) and camera.isdigit() else "0"
    raise VideoError(
        f"video {path}: is a device or a socket, expected a video file", f"for a camera: --camera {number}"
    )


def _open(path: Path, options: SourceOptions) -> tuple[InputContainer, VideoStream]:
    av = load_ffmpeg(options)
    try:
        container = open_local(path, options)
    except av.FFmpegError as error:
        raise VideoError(f"video {path}: {why_not_a_video(path)}", "expected a video file such as an .mp4") from error
    return container, chosen_stream(container, f"video {path}", lambda: unknown_codec(path))
