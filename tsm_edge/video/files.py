"""Opens what has a path: a video file, a pipe, or pictures in a folder."""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import Recording, SourceOptions
from tsm_edge.video.decoder import Decoder, video_stream
from tsm_edge.video.diagnose import unknown_codec, why_not_a_video
from tsm_edge.video.ffmpeg import load_ffmpeg
from tsm_edge.video.pictures import Pictures, is_pattern, matching, pictures_in

if TYPE_CHECKING:
    from av.container import InputContainer


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
        return _decoder(path, _File(path), options)
    if path.is_fifo():
        return _decoder(path, _Pipe(path, options), options)
    camera = path.name.removeprefix("video")
    hint = f"for a camera: --camera {camera}" if stat.S_ISCHR(path.stat().st_mode) and camera.isdigit() else ""
    raise VideoError(f"video {path}: is a device or a socket, expected a video file", hint)


def _decoder(path: Path, file: _File | _Pipe, options: SourceOptions) -> Decoder:
    try:
        container = _open(path, file, options)
        stream = video_stream(container)
        if stream is None:
            raise VideoError(f"video {path}: {_what_it_holds(container)}", "expected a video file such as an .mp4")
        if stream.codec_context is None:
            codec = unknown_codec(path) if path.is_file() else ""
            raise VideoError(
                f"video {path}: its codec {codec or '(unnamed)'} is none that this FFmpeg can decode",
                "convert it with the program that made it, for example to H.264",
            )
    except BaseException:
        file.close()
        raise
    return Decoder(container, stream, file=file, path=path if path.is_file() else None)


def _open(path: Path, file: _File | _Pipe, options: SourceOptions) -> InputContainer:
    """Open the container: from Python's file, so that no name is taken for a protocol or a pattern."""
    av = load_ffmpeg(options)
    try:
        container: InputContainer = av.open(file, metadata_errors="replace")
    except av.FFmpegError as error:
        why = why_not_a_video(path) if path.is_file() else "what comes through this pipe is not a video"
        raise VideoError(f"video {path}: {why}", "expected a video file such as an .mp4") from error
    return container


def _what_it_holds(container: InputContainer) -> str:
    if container.streams.video:
        return "has sound and a cover picture, but no video stream"
    return "has sound but no video stream" if container.streams.audio else "has no video stream"


class _File:
    """An ordinary file. Where FFmpeg seeks to is the file's own word: a place before its beginning is no error here."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.name = str(path)  # playlists name other files relative to it
        self.read, self.tell, self.close = self._file.read, self._file.tell, self._file.close

    def seek(self, offset: int, whence: int = 0) -> int:
        """Return the new position; -1 where there is none."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError):
            return -1


class _Pipe:
    """A named pipe, read with bounded waits: opening or reading one into which nobody writes would wait for ever."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._wait_s = options.open_timeout_s
        self._read_timeout_s = options.read_timeout_s
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; none when the writer has closed its end."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        began_s = time.monotonic()
        if not poll.poll(self._wait_s * 1e3):
            raise VideoError(
                f"video {self._path}: nothing came through this pipe for {time.monotonic() - began_s:.1f} s",
                "start the program that writes into it",
            )
        self._wait_s = self._read_timeout_s
        return os.read(self._descriptor, size)

    def close(self) -> None:
        os.close(self._descriptor)
