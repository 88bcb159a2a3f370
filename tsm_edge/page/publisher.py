"""Tells the page's process how the run is doing, without ever holding the run up.

The run puts its newest snapshot into a slot. A thread of the lowest priority takes it from there when the page is ready
for one, makes a small JPEG of it if somebody looks, and sends both.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tsm_edge.artifact.manifest import Activation
from tsm_edge.live.observer import Snapshot
from tsm_edge.live.result import FrameResult
from tsm_edge.live.smoothing import probabilities
from tsm_edge.page.address import Door
from tsm_edge.page.child import Child
from tsm_edge.page.tally import Tally
from tsm_edge.page.wire import About
from tsm_edge.priority import be_last
from tsm_edge.video.jpeg import encode_jpeg

WIDEST_PX, _QUALITY = 640, 75
_TOP = 5
# Between two messages: while somebody looks; and else, for the metrics.
_LOOKED_AT_S, _ALONE_S = 0.05, 0.5
_RESTART_S, _LONGEST_RESTART_S = 0.5, 30.0
# At the end of a run: a page's process that takes nothing, and has to be killed.
_LONGEST_END_S = 20.0
# Results that wait for the thread, should it not get to run for minutes.
_MOST_WAITING = 100_000

Counters = Callable[[], list[dict[str, Any]]]


class Publisher:
    """An observer that keeps the page up to date; a context manager.

    Parameters
    ----------
    door : Door
        Where the page is served; closed at the end.
    about : About
        What the page is told first.
    activation : {"", "softmax", "sigmoid"}
        What the model applied to its logits itself.
    counters : callable
        Gives what has become of events, a table for each receiver; called in another thread.

    Raises
    ------
    OSError
        There is no memory or file for the page's process.
    """

    def __init__(self, door: Door, about: About, activation: Activation, counters: Counters) -> None:
        self._door = door
        self._about = about.to_plain()
        self._activation = activation
        self._counters = counters
        self._results: deque[tuple[float, FrameResult]] = deque(maxlen=_MOST_WAITING)
        self._newest: Snapshot | None = None
        self._wake = threading.Event()
        self._due_s = 0.0
        self._stopping = False
        self._tally = Tally()
        self._steps_sent, self._segment_sent = 0, -1
        self._picture_sent: Snapshot | None = None
        self._restarts = 0
        self._began_s = time.monotonic()
        self._child: Child | None = Child(door.listener, self._about)
        self._thread = threading.Thread(target=self._work, name="tsm-edge-page", daemon=True)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join(_LONGEST_END_S)
        if self._child is not None:
            self._child.close()
        self._door.listener.close()

    def see(self, snapshot: Snapshot) -> None:
        """Take a prediction: a few microseconds."""
        self._results.append((snapshot.monotonic_s, snapshot.result))
        self._newest = snapshot
        if snapshot.monotonic_s >= self._due_s:
            self._wake.set()

    def idle(self) -> None:
        """Nothing: the thread looks at the clock itself."""

    def _work(self) -> None:
        be_last()
        pause_s = _RESTART_S
        while not self._stopping:
            self._wake.wait(_ALONE_S)
            self._wake.clear()
            self._add_up()
            try:
                self._serve()
                if self._child is not None and self._child.ready:
                    pause_s = _RESTART_S
            except OSError:
                self._bury()
                self._pause(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_RESTART_S)
                self._restart()

    def _serve(self) -> None:
        now_s = time.monotonic()
        if self._child is None:
            raise ConnectionError("the page's process could not be started")
        self._child.listen()
        if not self._child.ready or now_s < self._due_s:
            return
        looked_at = self._child.wants_picture
        self._due_s = now_s + (_LOOKED_AT_S if looked_at else _ALONE_S)
        newest = self._newest
        picture = b""
        if looked_at and newest is not None and newest is not self._picture_sent:
            picture = encode_jpeg(newest.image, WIDEST_PX, _QUALITY)
            self._picture_sent = newest
        self._child.send(self._document(newest), picture)

    def _document(self, newest: Snapshot | None) -> dict[str, Any]:
        news = self._tally.news(self._steps_sent, self._segment_sent)
        self._steps_sent = self._tally.step_count
        self._segment_sent = news["segments"][-1][0] if news["segments"] else self._segment_sent
        document = {**news, "began_s": self._began_s, "page_restarts": self._restarts, "receivers": self._counters()}
        if newest is not None:
            result, totals = newest.result, newest.totals
            document |= {
                "seen_s": newest.monotonic_s,
                "class_index": result.class_index,
                "probability": _finite(result.probability),
                "frame": result.index,
                "top": self._top(newest),
                "frames": totals.frames,
                "predictions": totals.predictions,
                "dropped": totals.dropped,
                "resets": totals.resets,
            }
        return document

    def _top(self, snapshot: Snapshot) -> list[list[float]]:
        """The likeliest classes of one frame alone, each with its probability."""
        shares = probabilities(snapshot.result.logits, self._activation)
        order = shares.argsort()[::-1][:_TOP]
        return [[int(index), round(_finite(shares[index]), 4)] for index in order]

    def _add_up(self) -> None:
        while self._results:
            self._tally.add(*self._results.popleft())

    def _bury(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def _pause(self, seconds: float) -> None:
        """Let time pass, but go on counting."""
        until_s = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until_s:
            self._wake.wait(_ALONE_S)
            self._wake.clear()
            self._add_up()

    def _restart(self) -> None:
        if self._stopping:
            return
        self._restarts += 1
        self._steps_sent, self._segment_sent, self._picture_sent = 0, -1, None
        with contextlib.suppress(OSError):  # no memory now: later
            self._child = Child(self._door.listener, self._about)


def _finite(share: float) -> float:
    """A probability as JSON can have it: a network that overflows gives NaN, and the page goes on."""
    return float(share) if math.isfinite(share) else 0.0
