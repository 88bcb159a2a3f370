"""Decodes video files and network streams with PyAV, which is FFmpeg, and knows when it could not.

OpenCV is not used for this. Since 4.13 it leaves the pictures of interlaced video unwritten and says that it read
them, and a mark in the buffer does not show it: OpenCV copies a stale picture of its own over it. Nor does it tell a
frame it failed to decode from the end of the file, or a codec it lacks from damage. FFmpeg's own interface does.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tsm_edge.errors import VideoError
from tsm_edge.video.capture import Image
from tsm_edge.video.diagnose import is_animated_webp, is_cut_off

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

# After this many failures to read in a row a file is given up: what follows is not a video any more.
_MOST_READ_ERRORS = 16
_FEWEST_FPS, _MOST_FPS = 0.1, 1000.0
# Two times that are the same: less than a tick of any container's clock.
_SAME_S = 1e-6
# A recording of a broadcast begins in the middle, with packets that refer to what came before.
_JOINED_FORMATS = ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v")


class DecodedPicture:
    """A decoded frame in the codec's own colours; it is converted when it is asked for."""

    def __init__(self, frame: VideoFrame, reformatter: VideoReformatter) -> None:
        self._frame = frame
        self._reformatter = reformatter

    def to_rgb(self) -> Image:
        """Return uint8 RGB ``[H, W, 3]``, C-contiguous, turned as the file says it is to be shown."""
        # Of the reformatter that is kept: one made for each frame costs more than the conversion.
        rgb: Any = self._reformatter.reformat(self._frame, format="rgb24").to_ndarray()
        # No copy where there is nothing to turn.
        return np.ascontiguousarray(np.rot90(rgb, round(self._frame.rotation / 90)), np.uint8)


class Decoder:
    """The pictures of one video stream, in the order in which they are shown.

    Parameters
    ----------
    container : av.container.InputContainer
        Opened; closed by this object.
    stream : av.video.stream.VideoStream
        The stream to decode; its codec is known (:func:`video_stream`).
    live : bool
        Rather the newest frame at once than many frames a second.
    path : Path, optional
        Of an ordinary file.

    Attributes
    ----------
    fps : float
        Stated rate, frames/s; 0.0 if none is stated that can be true.
    frame_count : int or None
        Frames the container says it has: a hint, wrong in many healthy files. None if it does not say.
    time_s : float or None
        Presentation time of the frame that was grabbed, seconds; None if the container has no time stamps.
    duration_s : float or None
        How long the container says it is, seconds; None of a live stream.
    damaged : int
        Packets that could not be decoded, and frames with parts missing; of a broadcast since its first good frame.
    broke_off : str
        Empty, or why reading ended before the source did.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        live: bool = False,
        path: Path | None = None,
    ) -> None:
        from av.video.reformatter import VideoReformatter

        self._container = container
        self._stream = stream
        self._live = live
        self._path = path
        self._codec = stream.codec_context.codec.name
        # Frame threads hold back a frame each. A motion JPEG camera is decoded as fast without.
        stream.thread_type = "SLICE" if live and self._codec == "mjpeg" else "AUTO"
        self._packets = container.demux(stream)
        self._frames: deque[VideoFrame] = deque()
        self._frame: VideoFrame | None = None
        self._reformatter = VideoReformatter()
        # AVI has no presentation times: its packets' order of decoding gives them.
        self._by_decoding_time = container.format.name == "avi"
        self._joined = live or container.format.name in _JOINED_FORMATS
        self._zero_s: float | None = None
        self._skip_until_s: float | None = None
        self._exhausted = False
        self._read_errors = 0
        self._packets_read = 0
        self._cut_off = False
        self.fps = _stated_rate(stream)
        self.frame_count: int | None = stream.frames or None
        self.duration_s = None if container.duration is None else container.duration / 1e6
        self.time_s: float | None = None
        self.damaged = 0
        self.broke_off = ""

    def grab(self) -> bool:
        """Decode up to the next frame; False at the end, or where reading breaks off."""
        while self._next_frame():
            began = self._zero_s is not None
            self.time_s = self._presentation_time()
            if self._skip_until_s is None or self.time_s is None or self.time_s >= self._skip_until_s:
                self._skip_until_s = None
                corrupt = self._frame is not None and self._frame.is_corrupt
                self._count_damage(corrupt and (began or not self._joined))
                return True
        return False

    def retrieve(self) -> DecodedPicture:
        """Return the frame that was grabbed, not converted yet."""
        if self._frame is None:
            raise RuntimeError("retrieve() before grab()")
        return DecodedPicture(self._frame, self._reformatter)

    @property
    def zero_s(self) -> float:
        """Where :attr:`time_s` is counted from, in the container's own time, seconds; known after the first frame."""
        return self._zero_s or 0.0

    def seek(self, time_s: float) -> bool:
        """Go to a time in seconds, as :attr:`time_s` counts it; False where the source cannot."""
        # Seeking ends at a key frame before; half a frame is for times that were rounded.
        return self._seek(time_s, time_s - 0.5 / (self.fps or 1e3))

    def pass_to(self, time_s: float, key_s: float | None = None) -> bool:
        """Make the frame of just this time the next one, from the key frame at ``key_s`` on, or from here.

        Frames between that no other needs are not decoded. False where the source cannot seek.
        """
        if key_s is not None:
            return self._seek(key_s, time_s - _SAME_S)
        self._skip_until_s = time_s - _SAME_S
        return True

    def _seek(self, time_s: float, skip_until_s: float) -> bool:
        import av

        base = self._stream.time_base
        if base is None:
            return False
        try:
            self._container.seek(round((time_s + self.zero_s) / float(base)), stream=self._stream)
        except av.FFmpegError:
            return False
        self._packets = self._container.demux(self._stream)
        self._frames.clear()
        self._exhausted = False
        self._skip_until_s = skip_until_s
        return True

    def release(self) -> None:
        """Close the source."""
        self._frames.clear()
        self._container.close()

    def trouble(self) -> str:
        """Return why the frames up to here are not all there are, in words; empty if they are."""
        troubles = [self.broke_off] if self.broke_off else []
        # The half packet at a cut is no damage of its own.
        if self.damaged > self._cut_off:
            troubles.append(count_of("piece", self.damaged - self._cut_off) + " damaged")
        if self._cut_off or self._is_short():
            troubles.append("the rest is cut off")
        return " and ".join(troubles)

    def _is_short(self) -> bool:
        try:
            return self._path is not None and is_cut_off(self._path)
        except OSError:  # removed meanwhile: what was read of it was whole
            return False

    def why_empty(self) -> tuple[str, str]:
        """Return why there is not a single frame, as the end of a sentence that begins with a name; and what to try."""
        if self._path is not None and is_animated_webp(self._path):
            return "is an animated WebP, which this FFmpeg cannot decode", "save it as .gif or .mp4"
        if self.broke_off:
            return f"gave no frame: {self.broke_off}", "check that the sender sends video"
        if self._packets_read == 0:
            return "has no frames", "record it again: its writer put none into it"
        return (
            f"has no frames that can be decoded (codec {self._codec})",
            "try to play it: it is damaged, or this FFmpeg decodes only a part of this codec",
        )

    def _next_frame(self) -> bool:
        while not self._frames:
            if self._exhausted:
                return False
            self._read()
        self._frame = self._frames.popleft()
        return True

    def _read(self) -> None:
        """Read and decode one packet; at the end, what the decoder still holds."""
        import av

        began_s = time.perf_counter()
        try:
            packet = next(self._packets, None)
        except av.error.InvalidDataError:
            self._pass_over_garbage()
            return
        except (av.FFmpegError, OSError) as error:
            # A motion JPEG stream ends with an "input/output error", whatever the reason.
            if not (self._live and getattr(error, "errno", 0) == errno.EIO):
                self.broke_off = _why(error, time.perf_counter() - began_s)
            self._drain()
            return
        if packet is None:
            self._exhausted = True
            return
        self._read_errors = 0
        self._packets_read += packet.size > 0
        # Half a packet is passed on: the last one of a file that is cut off.
        self._cut_off = packet.is_corrupt or (self._cut_off and packet.size == 0)
        self._decode(packet)

    def _decode(self, packet: Any) -> None:
        import av

        try:
            self._stream.codec_context.skip_frame = "NONREF" if self._is_passed_over(packet) else "DEFAULT"
            self._frames.extend(self._stream.codec_context.decode(packet))
        except av.FFmpegError:
            self._count_damage(True)

    def _is_passed_over(self, packet: Any) -> bool:
        """Whether nobody will see a packet's frame: it is decoded only where others need it."""
        base = self._stream.time_base
        if self._skip_until_s is None or packet is None or packet.pts is None or base is None:
            return False
        return float(packet.pts * base) - self.zero_s < self._skip_until_s

    def _count_damage(self, damaged: bool) -> None:
        if damaged and not (self._joined and self._zero_s is None):
            self.damaged += 1

    def _pass_over_garbage(self) -> None:
        self._read_errors += 1
        self._count_damage(True)
        if self._read_errors > _MOST_READ_ERRORS:
            self._drain()
        else:
            self._packets = self._container.demux(self._stream)

    def _drain(self) -> None:
        self._exhausted = True
        self._decode(None)

    def _presentation_time(self) -> float | None:
        """Time of the frame; of a container that begins late (a broadcast) counted from its beginning."""
        frame, base = self._frame, self._stream.time_base
        stamp = None if frame is None else frame.dts if self._by_decoding_time else frame.pts
        time_s = None if stamp is None or base is None else float(stamp * base)
        if self._zero_s is None:
            self._zero_s = self._beginning(time_s or 0.0)
        return None if time_s is None else time_s - self._zero_s

    def _beginning(self, first_s: float) -> float:
        """Where times are counted from, in the container's own time, seconds; ``first_s`` is the first good frame's."""
        stated, base = self._stream.start_time, self._stream.time_base
        if stated is not None and base is not None and not self._joined and not self._by_decoding_time:
            # Frames before the first good one were damaged; they had their times, too.
            first_s = min(first_s, float(stated * base))
        # A frame with a negative time comes before the beginning: that shifts no other.
        return max(first_s, 0.0)


def count_of(thing: str, count: int) -> str:
    """Return ``1 piece is`` or ``7 pieces are``."""
    return f"1 {thing} is" if count == 1 else f"{count} {thing}s are"


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the stream to decode; None if there is none but, at most, the cover picture of a song."""
    from av.stream import Disposition

    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    best: Any = container.streams.best("video")
    return next((stream for stream in films if best is not None and stream.index == best.index), None) or next(
        iter(films), None
    )


def chosen_stream(container: InputContainer, name: str, codec_name: Callable[[], str] = str) -> VideoStream:
    """Return the stream to decode, or close the container.

    Parameters
    ----------
    container : av.container.InputContainer
        Opened.
    name : str
        Of the source, for messages.
    codec_name : callable, optional
        Finds out what a codec is called that FFmpeg does not know; empty: it cannot be found.

    Raises
    ------
    VideoError
        There is no video in it, or none that can be decoded.
    """
    stream = video_stream(container)
    if stream is not None and stream.codec_context is not None:
        return stream
    holds = _what_it_holds(container)
    container.close()
    if stream is None:
        raise VideoError(f"{name}: {holds}", "expected a video file such as an .mp4")
    raise VideoError(
        f"{name}: its codec {codec_name() or '(unnamed)'} is none that this FFmpeg can decode",
        "convert it with the program that made it, for example to H.264",
    )


def _what_it_holds(container: InputContainer) -> str:
    if container.streams.video:
        return "has sound but no video stream (its picture is the cover)"
    return "has sound but no video stream" if container.streams.audio else "has no video stream"


def _stated_rate(stream: VideoStream) -> float:
    rate = stream.guessed_rate or stream.average_rate
    return float(rate) if rate and _FEWEST_FPS <= rate <= _MOST_FPS else 0.0


def _why(error: Exception, waited_s: float) -> str:
    import av

    if isinstance(error, (av.error.ExitError, TimeoutError)):
        return f"no frame for {waited_s:.1f} s"
    return f"reading failed: {getattr(error, 'strerror', None) or error}"
