"""Clips of events: the frames of a few seconds before, of the event, and of a few seconds after.

Frames wait as JPEGs in a ring, so that a Raspberry Pi can hold them; a thread of the lowest priority makes them, and
writes the clips. Where it cannot keep up, frames are left out and counted.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tsm_edge.errors import EventError, TsmEdgeError
from tsm_edge.events.courier import Counts
from tsm_edge.events.event import Event
from tsm_edge.live.observer import Snapshot
from tsm_edge.priority import be_last
from tsm_edge.video.base import SourceInfo
from tsm_edge.video.jpeg import decode_jpeg, encode_jpeg
from tsm_edge.video.writer import VideoFile

_QUALITY = 85
_WIDEST_PX = 1280
# At the end of a run, for what waits to be written: this thread gets what others leave over.
_LONGEST_END_S = 120.0
# Frames that wait for the thread; more are left out.
_MOST_WAITING = 8
_CLIP = re.compile(r"\d{8}T\d{9}Z-[\w.-]*-[0-9a-f]{8}\.mp4")


@dataclass(frozen=True)
class Recording:
    """What is kept.

    Attributes
    ----------
    folder : Path
    before_s, after_s : float
        Seconds around the event.
    longest_s : float
        A clip ends after so long, though the event goes on.
    ring_bytes : int
        Memory for the frames before.
    quota_bytes : int
        Of all clips; the oldest are deleted first.
    """

    folder: Path
    before_s: float = 5.0
    after_s: float = 3.0
    longest_s: float = 60.0
    ring_bytes: int = 48 << 20
    quota_bytes: int = 1_000_000_000


@dataclass(frozen=True)
class _Still:
    """A frame in the ring."""

    monotonic_s: float
    jpeg: bytes


class Recorder:
    """Keeps clips of events.

    Parameters
    ----------
    recording : Recording
    info : SourceInfo
        Of the source.

    Attributes
    ----------
    left_out : int
        Frames the thread could not keep up with.

    Raises
    ------
    EventError
        The folder cannot be made or written.
    """

    def __init__(self, recording: Recording, info: SourceInfo) -> None:
        self._recording = recording
        self._info = info
        self._check_folder()
        self.left_out = 0
        self._written = self._failed = self._encoded = 0
        self._queue: deque[Snapshot | Event] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._ring: deque[_Still] = deque()
        self._ring_bytes = 0
        # Frames of the clip that are not written yet.
        self._backlog: deque[_Still] = deque()
        self._backlog_bytes = 0
        self._clip: _Clip | None = None
        self._thread = threading.Thread(target=self._work, name="tsm-edge-recorder", daemon=True)
        self._thread.start()

    def see(self, snapshot: Snapshot) -> None:
        """Take a frame; returns at once."""
        if len(self._queue) >= _MOST_WAITING:
            self.left_out += 1
            return
        self._queue.append(snapshot)
        self._wake.set()

    def note(self, event: Event) -> None:
        """Know of an event; returns at once."""
        self._queue.append(event)
        self._wake.set()

    @property
    def counts(self) -> tuple[Counts, ...]:
        """What became of clips, and of the frames for them."""
        return (
            Counts("clips", self._written, 0, int(self._clip is not None), self._failed),
            Counts("clip frames", self._encoded, 0, len(self._queue), self.left_out),
        )

    def close(self) -> None:
        """Finish the clip that is being written; a disk that hangs is not waited for."""
        self._stopping = True
        self._wake.set()
        self._thread.join(_LONGEST_END_S)

    def _check_folder(self) -> None:
        folder = self._recording.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".tsm-edge-probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise EventError(
                f"--record {folder}: cannot be written ({error.strerror})", "name another folder with: --record DIR"
            ) from None

    def _work(self) -> None:
        be_last()
        while True:
            if not self._backlog:
                self._wake.wait(0.5)
            self._wake.clear()
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, Event):
                    self._take_event(item)
                else:
                    self._take_frame(item)
            self._write_one()
            if not self._backlog and (self._stopping or self._is_over()):
                self._finish()
            if self._stopping and not self._queue and not self._backlog:
                return

    def _is_over(self) -> bool:
        return self._clip is not None and self._clip.is_over(time.monotonic())

    def _take_frame(self, snapshot: Snapshot) -> None:
        still = _Still(snapshot.monotonic_s, encode_jpeg(snapshot.image, _WIDEST_PX, _QUALITY))
        self._encoded += 1
        self._ring.append(still)
        self._ring_bytes += len(still.jpeg)
        oldest_s = still.monotonic_s - self._recording.before_s
        while self._ring_bytes > self._recording.ring_bytes or self._ring[0].monotonic_s < oldest_s:
            self._ring_bytes -= len(self._ring.popleft().jpeg)
            if not self._ring:
                break
        if self._clip is not None and not self._is_over():
            self._add(still)

    def _take_event(self, event: Event) -> None:
        if event.event_type == "start" and self._clip is None:
            began_s = self._ring[-1].monotonic_s if self._ring else time.monotonic()
            self._clip = _Clip(self._recording, self._info, event, began_s)
            self._make_room()
            for still in list(self._ring):
                self._add(still)
        elif event.event_type == "start" and self._clip is not None:
            self._clip.go_on(event)
        elif self._clip is not None:
            self._clip.end(event, time.monotonic())

    def _add(self, still: _Still) -> None:
        """Let a frame wait to be written: those from before an event come all at once."""
        if self._backlog_bytes + len(still.jpeg) > self._recording.ring_bytes:
            self.left_out += 1
            return
        self._backlog.append(still)
        self._backlog_bytes += len(still.jpeg)

    def _write_one(self) -> None:
        """Write the frame that waits longest. One at a time, so that those that come meanwhile find their place."""
        if not self._backlog:
            return
        still = self._backlog.popleft()
        self._backlog_bytes -= len(still.jpeg)
        if self._clip is None:
            return
        try:
            self._clip.add(still)
        except TsmEdgeError:  # the disk is full, most likely
            self._clip.give_up()
            self._clip = None
            self._backlog.clear()
            self._backlog_bytes = 0
            self._failed += 1
            self._make_room()

    def _finish(self) -> None:
        clip, self._clip = self._clip, None
        if clip is None:
            return
        try:
            self._written += clip.finish()
        except TsmEdgeError:
            self._failed += 1
        self._make_room()

    def _make_room(self) -> None:
        """Delete the oldest clips until the quota is kept; other files in the folder are left alone."""
        try:
            clips = sorted(path for path in self._recording.folder.iterdir() if _CLIP.fullmatch(path.name))
            sizes = {path: path.stat().st_size for path in clips}
            total = sum(sizes.values())
            free = shutil.disk_usage(self._recording.folder).free
            # A clip takes up to a few MB; on a disk that is nearly full the oldest go before the quota is reached.
            while clips and (total > self._recording.quota_bytes or free < (32 << 20)):
                oldest = clips.pop(0)
                oldest.unlink()
                total -= sizes[oldest]
                free += sizes[oldest]
        except OSError:  # somebody else deletes, too: the next clip looks again
            pass


class _Clip:
    """A clip that is being written. It goes on while events do that overlap."""

    def __init__(self, recording: Recording, info: SourceInfo, event: Event, now_s: float) -> None:
        self._recording = recording
        self._info = info
        self._path = recording.folder / _name(event)
        self._file: VideoFile | None = None
        self._began_s = now_s
        self._open_events = {event.event_id}
        self._until_s: float | None = None

    def go_on(self, event: Event) -> None:
        """Another event began."""
        self._open_events.add(event.event_id)
        self._until_s = None

    def end(self, event: Event, now_s: float) -> None:
        """An event ended."""
        self._open_events.discard(event.event_id)
        if not self._open_events:
            self._until_s = now_s + self._recording.after_s

    def is_over(self, now_s: float) -> bool:
        """Whether all events have ended long enough ago, or it is long enough."""
        ended = self._until_s is not None and now_s >= self._until_s
        return ended or now_s - self._began_s >= self._recording.longest_s

    def add(self, still: _Still) -> None:
        """Add a frame.

        Raises
        ------
        VideoError
            It cannot be written.
        """
        image = decode_jpeg(still.jpeg)
        if self._file is None:
            height, width = image.shape[:2]
            size = SourceInfo(self._info.name, True, width, height, self._info.fps, None)
            self._file = VideoFile(self._path, size)
        self._file.write(image, still.monotonic_s)

    def finish(self) -> int:
        """Give it its name; returns how many clips there are more.

        Raises
        ------
        VideoError
            It cannot be finished.
        """
        if self._file is None:
            return 0
        self._file.close()
        return int(self._file.saved)

    def give_up(self) -> None:
        """Remove what was written of it."""
        if self._file is not None:
            with contextlib.suppress(TsmEdgeError):
                self._file.close()


def _name(event: Event) -> str:
    """Sorted by name, clips are sorted by time."""
    moment = re.sub(r"[^0-9TZ]", "", event.time)
    label = re.sub(r"[^A-Za-z0-9]+", "-", event.label).strip("-")[:40]
    return f"{moment}-{label}-{event.event_id[:8]}.mp4"
