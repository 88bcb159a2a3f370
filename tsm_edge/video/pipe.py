"""A video that another program writes into a named pipe."""

from __future__ import annotations

import math
import os
import select
import threading
import time
from pathlib import Path
from typing import Any

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import SourceOptions, wait_for
from tsm_edge.video.decoder import Decoder, chosen_stream
from tsm_edge.video.ffmpeg import load_ffmpeg

_POLL_S = 0.05
# FFmpeg looks at some seconds of a stream before it knows what it is.
_OPENING_SHARE = 3


def open_pipe(path: Path, options: SourceOptions) -> PipeDecoder:
    """Open a named pipe; waits at most ``open_timeout_s`` for the first bytes, later ``read_timeout_s`` for more.

    A video has to show in three times ``open_timeout_s``, however much comes.

    Raises
    ------
    VideoError
        Nothing comes through it, or no video.
    """
    av = load_ffmpeg(options)
    reader = _Reader(path, options)
    name = f"video {path}"
    try:
        container = wait_for(lambda: av.open(reader, metadata_errors="replace"))
        reader.opened()
        return PipeDecoder(reader, container, chosen_stream(container, name))
    except av.FFmpegError as error:
        reader.close()
        raise VideoError(f"{name}: what comes through this pipe is not a video", "expected a container") from error
    except Exception:
        reader.close()
        raise
    except BaseException:  # a signal: the thread still reads
        reader.stop()
        raise


class PipeDecoder(Decoder):
    """Decodes in threads of its own, where no signal arrives: in FFmpeg's call back into Python it would be lost."""

    def __init__(self, reader: _Reader, *source: Any) -> None:
        super().__init__(*source)
        self._reader = reader
        self._busy = threading.Lock()

    def grab(self) -> bool:
        """Decode up to the next frame; False at the end.

        Raises
        ------
        VideoError
            Nothing came for too long.
        """
        return wait_for(self._grab)

    def release(self) -> None:
        """Close the pipe, after what is being read from it."""
        self._reader.stop()
        with self._busy:
            super().release()
        self._reader.close()

    def _grab(self) -> bool:
        with self._busy:
            return super().grab()


class _Reader:
    """What FFmpeg reads from. Opening or reading a pipe into which nobody writes would else wait for ever."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self._path = path
        self._wait_s = options.open_timeout_s
        self._read_timeout_s = options.read_timeout_s
        self._opening_ends_s = time.monotonic() + _OPENING_SHARE * options.open_timeout_s
        self._stopping = threading.Event()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; none when the writer has closed its end."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        deadline_s = time.monotonic() + self._wait_s
        while not poll.poll(_POLL_S * 1e3):
            if self._stopping.is_set():
                return b""
            if time.monotonic() > deadline_s:
                raise VideoError(
                    f"video {self._path}: nothing came through this pipe for {self._wait_s:g} s",
                    "start the program that writes into it",
                )
        if time.monotonic() > self._opening_ends_s:
            raise VideoError(f"video {self._path}: what comes through this pipe is not a video", "expected a container")
        self._wait_s = self._read_timeout_s
        return os.read(self._descriptor, size)

    def opened(self) -> None:
        """Take any time from now on, as long as something comes."""
        self._opening_ends_s = math.inf

    def stop(self) -> None:
        """End the waiting of another thread."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self._descriptor)
