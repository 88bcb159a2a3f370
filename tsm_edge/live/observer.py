"""What others are shown of a run while it goes on: a page, events, a watchdog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tsm_edge.live.result import FrameResult
from tsm_edge.video.capture import Image


@dataclass(frozen=True)
class Totals:
    """Counts since the run began.

    Attributes
    ----------
    frames, predictions : int
        Frames read; frames predicted.
    dropped : int
        Frames a live source passed over to stay up to date.
    resets : int
        Times the caches were reset in the middle.
    """

    frames: int
    predictions: int
    dropped: int
    resets: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A run at the moment of a prediction.

    Attributes
    ----------
    image : ndarray
        The frame, uint8 RGB ``[H, W, 3]``. Nobody writes to it.
    result : FrameResult
        The prediction on it.
    totals : Totals
        Up to this frame.
    time_s, monotonic_s : float
        ``time.time()``, which jumps when the clock is set, and ``time.monotonic()``, which does not. Seconds.
    """

    image: Image
    result: FrameResult
    totals: Totals
    time_s: float
    monotonic_s: float


class Observer(Protocol):
    """Somebody who watches a run.

    Both methods are called between two frames, by the thread that predicts: they return at once and do not raise. What
    takes longer belongs into another thread or process that is handed the newest snapshot, or a queue that is bounded.
    """

    def see(self, snapshot: Snapshot) -> None:
        """Take a prediction."""

    def idle(self) -> None:
        """Know that a live source is silent; called several times a second as long as it is."""
