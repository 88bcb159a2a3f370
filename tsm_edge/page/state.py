"""What the page's process knows: the newest of everything, and the history of the last minutes."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Any

from tsm_edge.page.readings import Readings
from tsm_edge.page.wire import HISTORY_S, KEPT_SEGMENTS, KEPT_STEPS, About

# Without a prediction for so long, something is wrong.
STALE_S = 30.0


class State:
    """The newest of everything.

    Parameters
    ----------
    about : About

    Attributes
    ----------
    latest : dict
        The newest message of the run (:meth:`tsm_edge.page.tally.Tally.news` and more); empty before the first.
    picture : bytes
        The newest JPEG.
    version, picture_version : int
        How many messages there were, and the number of the one that brought the picture.
    readings : Readings
        Of the machine.
    viewers : int
        How many look.
    """

    def __init__(self, about: About) -> None:
        self.about = about
        self.latest: dict[str, Any] = {}
        self.picture = b""
        self.version = self.picture_version = 0
        self.readings = Readings()
        self.viewers = 0
        self._steps: deque[float] = deque(maxlen=KEPT_STEPS)
        self._segments: dict[int, list[float]] = {}

    def take(self, news: dict[str, Any], picture: bytes) -> None:
        """Take a message of the run."""
        self.version += 1
        self._steps.extend(news.pop("steps"))
        for number, *segment in news.pop("segments"):
            self._segments[number] = segment
        self._forget()
        self.latest = news
        if picture:
            self.picture, self.picture_version = picture, self.version

    def _forget(self) -> None:
        """Drop the segments that are too old, and where labels flicker those that are too many."""
        oldest_s = time.monotonic() - HISTORY_S
        while self._segments:
            number, (_, _, end_s) = next(iter(self._segments.items()))
            if len(self._segments) <= KEPT_SEGMENTS and end_s >= oldest_s:
                return
            del self._segments[number]

    def _segments_from(self, number: int) -> list[tuple[int, list[float]]]:
        """Those from that number on; a browser that keeps up asks for the last one or two of many."""
        fresh = itertools.takewhile(lambda item: item[0] >= number, reversed(self._segments.items()))
        return list(fresh)[::-1]

    @property
    def age_s(self) -> float:
        """Since the last prediction, or the start, seconds."""
        since_s = self.latest.get("seen_s", self.latest.get("began_s"))
        return 0.0 if since_s is None else max(time.monotonic() - since_s, 0.0)

    @property
    def healthy(self) -> bool:
        """Whether predictions come."""
        return bool(self.latest) and self.age_s < STALE_S

    def label(self, class_index: int) -> str:
        """Of a class."""
        return self.about.labels[class_index] if self.about.labels else f"class {class_index}"

    def view(self, steps_known: int = 0, segment_known: int = -1) -> dict[str, Any]:
        """What a browser is told.

        Parameters
        ----------
        steps_known, segment_known : int
            As for :meth:`tsm_edge.page.tally.Tally.news`, of this browser.
        """
        now_s = time.monotonic()
        latest = self.latest
        fresh = min(latest.get("step_count", 0) - steps_known, len(self._steps))
        shown = "class_index" in latest
        return {
            "label": self.label(latest["class_index"]) if shown else "",
            "probability": latest.get("probability", 0.0),
            "top": [[self.label(index), share] for index, share in latest.get("top", ())],
            "age_s": round(self.age_s, 2),
            "step_count": latest.get("step_count", 0),
            "steps": list(self._steps)[len(self._steps) - fresh :],
            # Browsers have clocks of their own: times are told as how long ago they were.
            "segments": [
                [number, self.label(int(index)), round(now_s - start_s, 3), round(now_s - end_s, 3)]
                for number, (index, start_s, end_s) in self._segments_from(segment_known)
            ],
            **{name: latest.get(name, 0) for name in ("frame", "frames", "predictions", "dropped", "resets")},
            "reset_reasons": latest.get("reset_reasons", {}),
            "running_s": round(now_s - latest["began_s"], 1) if latest else 0.0,
            "receivers": latest.get("receivers", []),
            "machine": self.readings.shown(),
            "viewers": self.viewers,
        }
