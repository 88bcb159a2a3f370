"""A file that is played again and again at its own pace, as a camera would send it."""

from __future__ import annotations

import dataclasses
import time

from tsm_edge.errors import VideoError
from tsm_edge.video.base import Frame, VideoSource
from tsm_edge.video.file_source import FileSource

# The longest sleep between two looks at whether somebody wants to know that time passes.
_NAP_S = 0.1
# From one frame to the next where the file does not tell; FFmpeg's own guess is 25 frames/s.
_USUAL_S = 1 / 25


class LoopedSource(VideoSource):
    """Plays a file for ever. Each round begins with the discontinuity ``seek``.

    A machine that is slower than the file plays it slower: no frame is left out.

    Parameters
    ----------
    file : FileSource
        At its beginning; closed by this object.

    Raises
    ------
    VideoError
        The file cannot go back to its beginning.
    """

    def __init__(self, file: FileSource) -> None:
        self._file = file
        self._index = 0
        self._round_s = 0.0  # where this round began, on the clock of the whole
        self._time_s = 0.0
        self._start_s: float | None = None
        file.seek(0.0)
        self._first = True
        self.info = dataclasses.replace(file.info, live=True, frame_count=None)

    def read(self) -> Frame | None:
        """Return the next frame when it is due; None only after :meth:`close`.

        Raises
        ------
        VideoError
            The file cannot be read any more.
        """
        if self.ended:
            return None
        frame = self._file.read()
        if frame is None:
            frame = self._begin_again()
        time_s = self._round_s + frame.time_s
        self._wait_until(time_s)
        self._time_s = time_s
        break_, self._first = ("start" if self._first else frame.discontinuity), False
        decoded = dataclasses.replace(
            frame,
            index=self._index,
            time_s=time_s,
            arrived_s=time.perf_counter() - frame.decode_ms / 1e3,
            discontinuity=break_,
        )
        self._index += 1
        return decoded

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self.ended = self.ended or "closed"

    def _begin_again(self) -> Frame:
        self._round_s = self._time_s + (1 / self.info.fps if self.info.fps else _USUAL_S)
        self._file.seek(0.0)
        frame = self._file.read()
        if frame is None:
            raise VideoError(f"{self.info.name}: has no frame any more", "was the file replaced? run again")
        return frame

    def _wait_until(self, time_s: float) -> None:
        now_s = time.monotonic()
        if self._start_s is None:
            self._start_s = now_s - time_s
        due_s = self._start_s + time_s
        if due_s < now_s:
            self._start_s = now_s - time_s  # too slow: the rest moves, too
        while (left_s := due_s - time.monotonic()) > 0:
            if left_s > _NAP_S:
                self.on_wait()
            time.sleep(min(left_s, _NAP_S))
