"""Live sources: a thread that always fetches and keeps only the newest frame, so that latency cannot pile up.

A driver or socket queues frames that are not fetched; a program slower than the camera would then work further and
further in the past. Here the frame handed out is never older than one frame interval.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tsm_edge.errors import VideoError
from tsm_edge.video.base import Break, Frame, SourceInfo, VideoSource
from tsm_edge.video.capture import Capture, Picture, SourceOptions, wait_for

_JOIN_S = 1.0
_POLL_S = 0.1
# Between two attempts to open a source again; twice as long after each, until a frame comes.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


@dataclass(frozen=True, eq=False)
class Grabbed:
    """A frame as it was fetched: ``picture`` is not converted yet; the rest as in :class:`Frame`."""

    picture: Picture
    index: int
    arrived_s: float
    retrieve_ms: float
    discontinuity: Break


class Grabber:
    """Fetches frames in a thread and keeps the newest.

    Parameters
    ----------
    open_capture : callable
        Opens the source; called again to reconnect. Raises VideoError.
    name : str
        For messages.
    options : SourceOptions
        Gap and reconnection times, seconds.
    may_end : bool
        A source that breaks off has ended; else (a camera) that is an error.
    opened : Capture, optional
        The source, already opened.
    """

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        name: str,
        options: SourceOptions,
        *,
        may_end: bool,
        opened: Capture | None = None,
    ) -> None:
        self._open = open_capture
        self._name = name
        self._options = options
        self._may_end = may_end
        self._arrival = threading.Condition()
        self._newest: Grabbed | None = None
        self._pending: Break = "start"
        self._stopping = threading.Event()
        self._error: VideoError | None = None
        self._grabbed = 0
        self._taken = 0
        self._finished = False
        # Since the source was lost; None while its frames come.
        self._lost_s: float | None = None
        self._pause_s = _FIRST_PAUSE_S
        capture = opened if opened is not None else wait_for(open_capture)
        self.fps = capture.fps
        self._thread = threading.Thread(target=self._work, args=(capture,), name="tsm-edge-grabber", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Frames that a newer one replaced before they were taken."""
        with self._arrival:
            return self._grabbed - self._taken - (self._newest is not None)

    def take(self, meanwhile: Callable[[], None] = lambda: None) -> Grabbed | None:
        """Wait for a frame that was not taken yet and return the newest; None when the stream has ended.

        The waiting is bounded by the source's own read timeout and ``reconnect_s``. In it, ``meanwhile`` is called
        several times a second.

        Raises
        ------
        VideoError
            The source went away.
        """
        with self._arrival:
            newest = self._wait(meanwhile)
            if newest is not None:
                self._newest = None
                self._taken += 1
            return newest

    def peek(self) -> Grabbed | None:
        """Do as :meth:`take`, but leave the frame to be taken."""
        with self._arrival:
            return self._wait(lambda: None)

    def close(self) -> None:
        """Stop the thread; if it is held up in a read, it ends by itself when the read's timeout is over."""
        self._stopping.set()
        self._thread.join(_JOIN_S)

    def _wait(self, meanwhile: Callable[[], None]) -> Grabbed | None:
        while self._newest is None and not self._finished:
            if not self._arrival.wait(_POLL_S):
                meanwhile()
        if self._newest is None and self._error is not None:
            raise self._error
        return self._newest

    def _work(self, capture: Capture) -> None:
        current: Capture | None = capture
        error: VideoError | None = None
        try:
            while current is not None:
                broke_off = self._fetch_until_it_breaks(current)
                current.release()
                current = None if self._stopping.is_set() else self._reconnect()
                if current is None and not self._stopping.is_set():
                    error = self._loss(broke_off)
        except VideoError as unfit:  # a frame of an impossible shape
            error = unfit
        finally:
            if current is not None:
                current.release()
            with self._arrival:
                self._error, self._finished = error, True
                self._arrival.notify_all()

    def _fetch_until_it_breaks(self, capture: Capture) -> str:
        """Keep the newest frame up to date; return why there are no more, in words; empty: it may just have ended."""
        last_s: float | None = None
        good_s = time.perf_counter()
        while not self._stopping.is_set():
            asked_s = time.perf_counter()
            if not capture.grab():
                return capture.broke_off or self._silence(time.perf_counter() - asked_s)
            arrived_s = time.perf_counter()
            picture = capture.retrieve()
            if picture is None:
                if arrived_s - good_s > self._options.read_timeout_s:
                    return self._undecoded(arrived_s - good_s)
                continue
            good_s = arrived_s
            self._lost_s, self._pause_s = None, _FIRST_PAUSE_S
            retrieve_ms = (time.perf_counter() - arrived_s) * 1e3
            with self._arrival:
                if last_s is not None and arrived_s - last_s > self._longest_interval_s():
                    self._pending = self._pending or "gap"
                # A break seen on a frame that is dropped must reach the next one that is taken.
                if self._newest is not None:
                    self._pending = self._pending or self._newest.discontinuity
                self._newest = Grabbed(picture, self._grabbed, arrived_s, retrieve_ms, self._pending)
                self._pending = ""
                self._grabbed += 1
                self._arrival.notify()
            last_s = arrived_s
        return ""

    def _silence(self, waited_s: float) -> str:
        return f"no frame for {waited_s:.1f} s" if waited_s >= 0.9 * self._options.read_timeout_s else ""

    def _undecoded(self, undecoded_s: float) -> str:
        """Bear a frame that was damaged on its way, but not a source of which nothing can be decoded.

        Where it may be opened again that is tried: it helps a camera whose power was low for a moment.
        """
        why = f"frames arrive, but for {undecoded_s:.1f} s none of them could be decoded"
        if self._options.reconnect_s > 0:
            return why
        raise VideoError(
            f"{self._name}: {why}", "see whether another program shows it; if so, try another version of OpenCV"
        )

    def _longest_interval_s(self) -> float:
        return max(self._options.gap_s, 3 / self.fps if self.fps else 0.0)

    def _reconnect(self) -> Capture | None:
        """Open the source again, waiting longer between attempts; None when ``reconnect_s`` is over.

        It is over that long after the last frame: a source that can be opened but gives none is not back.
        """
        if self._lost_s is None:
            self._lost_s = time.monotonic()
        while (left_s := self._lost_s + self._options.reconnect_s - time.monotonic()) > 0:
            if self._stopping.wait(min(self._pause_s, left_s)):
                return None
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            try:
                capture = self._open()
            except VideoError:
                continue
            with self._arrival:
                self._pending = "new stream"
            return capture
        return None

    def _loss(self, broke_off: str) -> VideoError | None:
        """Return what to tell about a source that broke off for good; None if it simply ended."""
        after = f"after {self._grabbed} frames"
        if self._options.reconnect_s > 0:
            return VideoError(
                f"{self._name}: lost {after}, and not back within {self._options.reconnect_s:g} s",
                "check its power, cable and network",
            )
        if broke_off:
            return VideoError(
                f"{self._name}: {broke_off} {after}",
                "check the sender, or wait longer for it with --reconnect SECONDS",
            )
        if self._may_end and self._grabbed:
            return None
        if not self._grabbed:
            return VideoError(f"{self._name}: opened, but gave no frame", "check that it sends video")
        return VideoError(f"{self._name}: stopped giving frames {after}", "check its cable, then run again")


class LiveSource(VideoSource):
    """A camera or stream: :meth:`read` gives the newest frame and counts those it passed over.

    Parameters
    ----------
    open_capture, name, options, may_end, opened
        As for :class:`Grabber`.

    Raises
    ------
    VideoError
        The source cannot be opened or gives no frame.
    """

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        name: str,
        options: SourceOptions,
        *,
        may_end: bool,
        opened: Capture | None = None,
    ) -> None:
        self._grabber = Grabber(open_capture, name, options, may_end=may_end, opened=opened)
        try:
            first = self._grabber.peek()
            if first is None:
                raise VideoError(f"{name}: opened, but gave no frame", "check that it sends video")
            self._shape = first.picture.to_rgb().shape
        except BaseException:
            self._grabber.close()
            raise
        self._began_s = first.arrived_s
        height, width = self._shape[:2]
        self.info = SourceInfo(name, True, width, height, self._grabber.fps, None)

    def read(self) -> Frame | None:
        """Return the newest frame, waiting for one if need be; None when the sender has ended the stream."""
        if self.ended:
            return None
        grabbed = self._grabber.take(self.on_wait)
        self.dropped = self._grabber.dropped
        if grabbed is None:
            self.ended = "the sender closed the stream"
            return None
        began_s = time.perf_counter()
        image = grabbed.picture.to_rgb()
        decode_ms = grabbed.retrieve_ms + (time.perf_counter() - began_s) * 1e3
        time_s = grabbed.arrived_s - self._began_s
        discontinuity = grabbed.discontinuity or ("new size" if image.shape != self._shape else "")
        self._shape = image.shape
        return Frame(image, grabbed.index, time_s, grabbed.arrived_s, decode_ms, discontinuity)

    def close(self) -> None:
        """Stop fetching and let go of the source."""
        self._grabber.close()
        self.dropped = self._grabber.dropped
        self.ended = self.ended or "closed"
