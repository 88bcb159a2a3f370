"""A file's frames by their number: those that are wanted are fetched, and little else is decoded.

How many frames a file has, and when each is shown, is read from its packets, none of which is decoded for it; what the
container states is often wrong. A frame is then decoded from the key frame before it. Where packets do not tell (no
time stamps, frames that are never shown, damage) all frames are decoded to count them, and again up to the last one
that is wanted. Either way nothing grows with the length of the video but the times, a number a frame.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tsm_edge.errors import VideoError
from tsm_edge.files.paths import printable
from tsm_edge.video.capture import Image, Recording, SourceOptions
from tsm_edge.video.decoder import Decoder, video_stream
from tsm_edge.video.ffmpeg import load_ffmpeg, open_local
from tsm_edge.video.files import open_file
from tsm_edge.video.pictures import PICTURES_PER_S, Pictures

# Containers with times for all packets and an index to seek by; codecs of which each packet is a frame that is shown.
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_FRAME_A_PACKET = ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg")
_DEFAULT_FPS = 25.0
# Two times that are the same, seconds: rounding of a container's clock.
_SAME_S = 1e-4


class _Reach(Protocol):
    """A way to a frame."""

    def __call__(self, index: int) -> bool:
        """Go to a frame that comes after the one before; False: there is none."""


class IndexedVideo:
    """A file or folder of pictures whose frames are fetched by number; a context manager that closes it.

    Made by :func:`open_indexed`.

    Attributes
    ----------
    name : str
        For messages: ``video clip.mp4``.
    times_s : list of float
        When each frame is shown, seconds, ascending. Their number is that of the frames.
    """

    def __init__(self, name: str, recording: Recording, times_s: list[float], reach: _Reach) -> None:
        self.name = name
        self.times_s = times_s
        self._recording = recording
        self._reach = reach

    @property
    def count(self) -> int:
        """Frames."""
        return len(self.times_s)

    def fetch(self, wanted: Iterable[int]) -> Iterator[tuple[int, Image]]:
        """Yield frames, uint8 RGB ``[H, W, 3]``, with their numbers; it ends early where the file does.

        Parameters
        ----------
        wanted : iterable of int
            Ascending, none twice, and all after those that were fetched before.
        """
        for index in wanted:
            if not self._reach(index):
                return
            yield index, self._recording.retrieve().to_rgb()

    def trouble(self) -> str:
        """Return what was wrong with what has been read so far, in words; empty if nothing was."""
        return self._recording.trouble()

    def close(self) -> None:
        """Close the file."""
        self._recording.release()

    def __enter__(self) -> IndexedVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_indexed(path: Path, options: SourceOptions | None = None) -> IndexedVideo:
    """Open a video file, a folder of pictures, or a pattern of their names.

    Raises
    ------
    VideoError
        It cannot be opened, has no frame, or is a pipe, which shows its frames only once.
    """
    options = options or SourceOptions()
    name = f"video {printable(str(path))}"
    if path.is_fifo():
        raise VideoError(f"{name}: is a pipe, expected a file: frames are chosen from all of it", "save it to a file")
    recording = open_file(path, options)
    try:
        return _indexed(name, path, recording, options)
    except BaseException:
        recording.release()
        raise


def _indexed(name: str, path: Path, recording: Recording, options: SourceOptions) -> IndexedVideo:
    if isinstance(recording, Pictures):
        times_s = [index / PICTURES_PER_S for index in range(recording.frame_count or 0)]
        return IndexedVideo(name, recording, times_s, lambda index: recording.seek(times_s[index]) and recording.grab())
    if not recording.grab():
        why, hint = recording.why_empty()
        raise VideoError(f"{name}: {why}", hint)
    table = _table(path, recording, options) if isinstance(recording, Decoder) else None
    if table is not None and isinstance(recording, Decoder):
        return IndexedVideo(name, recording, table.times_s, _ByTable(recording, table))
    times_s = _all_times(path, options)
    if not times_s:
        raise VideoError(f"{name}: changed while it was read", "label it once it is written")
    return IndexedVideo(name, recording, times_s, _InOrder(recording))


@dataclass(frozen=True)
class _Table:
    """Times of all frames, and of those at which decoding can begin; seconds, ascending."""

    times_s: list[float]
    keys_s: list[float]


def _table(path: Path, decoder: Decoder, options: SourceOptions) -> _Table | None:
    """Read a file's packets, none of which is decoded; None: they do not tell what its frames are."""
    av = load_ffmpeg(options)
    times_s, keys_s = [], []
    try:
        with open_local(path, options) as container:
            stream = video_stream(container)
            base = None if stream is None else stream.time_base
            if stream is None or base is None or not _tells(container.format.name, stream.codec_context):
                return None
            for packet in container.demux(stream):
                if not packet.size:  # the end
                    continue
                if packet.pts is None or packet.is_corrupt:
                    return None
                time_s = float(packet.pts * base) - decoder.zero_s
                if packet.is_keyframe:
                    keys_s.append(time_s)
                if not packet.is_discard:  # what an edit list leaves out
                    times_s.append(time_s)
    except (av.FFmpegError, OSError):
        return None
    times_s.sort()
    keys_s.sort()
    distinct = all(earlier < later for earlier, later in pairwise(times_s))
    begins = bool(times_s) and decoder.time_s is not None and abs(times_s[0] - decoder.time_s) < _SAME_S
    return _Table(times_s, keys_s) if distinct and begins and keys_s else None


def _tells(container: str, codec: object) -> bool:
    name = getattr(getattr(codec, "codec", None), "canonical_name", "")
    return container in _INDEXED and name in _FRAME_A_PACKET


def _all_times(path: Path, options: SourceOptions) -> list[float]:
    """Decode everything, to know when each frame is shown."""
    recording = open_file(path, options)
    times_s: list[float] = []
    try:
        while recording.grab():
            default_s = len(times_s) / (recording.fps or _DEFAULT_FPS)
            time_s = default_s if recording.time_s is None else recording.time_s
            times_s.append(max([time_s, *times_s[-1:]]))  # damage can send them back
    finally:
        recording.release()
    return times_s


class _InOrder:
    """Decodes every frame on the way; the first has been grabbed."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._at = 0

    def __call__(self, index: int) -> bool:
        while self._at < index:
            if not self._recording.grab():
                return False
            self._at += 1
        return True


class _ByTable:
    """Goes to the key frame before, where that is nearer than where it is; the first frame has been grabbed."""

    def __init__(self, decoder: Decoder, table: _Table) -> None:
        self._decoder = decoder
        self._table = table

    def __call__(self, index: int) -> bool:
        time_s, here_s = self._table.times_s[index], self._decoder.time_s or 0.0
        if time_s - here_s < _SAME_S:
            return True
        key = bisect_right(self._table.keys_s, time_s + _SAME_S) - 1
        if key < 0 or self._table.keys_s[key] <= here_s:
            return self._decoder.pass_to(time_s) and self._decoder.grab()
        return self._from_key(key, time_s)

    def _from_key(self, key: int, time_s: float) -> bool:
        """Decode from a key frame on; from the one before, should the container have gone too far."""
        found = self._decoder.pass_to(time_s, self._table.keys_s[key]) and self._decoder.grab()
        if found and key > 0 and (self._decoder.time_s or 0.0) > time_s + _SAME_S:
            found = self._decoder.pass_to(time_s, self._table.keys_s[key - 1]) and self._decoder.grab()
        return found
