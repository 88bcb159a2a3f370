"""What the page's process keeps: bounded, whatever a run shows and for how long."""

from __future__ import annotations

import gc
import time

import numpy as np

from tsm_edge.live.result import FrameResult
from tsm_edge.page.state import State
from tsm_edge.page.tally import Tally
from tsm_edge.page.wire import KEPT_SEGMENTS, KEPT_STEPS, About, pack

_A_MESSAGE = 100


class Flicker:
    """A run whose label changes with every frame, told to the page's process."""

    def __init__(self) -> None:
        self.state = State(About("model", "camera 0", ("a", "b", "c"), False, ""))
        self._tally = Tally()
        self._steps, self._segment = 0, -1
        logits = np.zeros(3, np.float32)
        self._results = [FrameResult(0, 0.0, "", label, 0.5, 1.0, 1.0, 1.5, 2.0, "", logits) for label in range(3)]

    def show(self, frames: int) -> None:
        for _ in range(frames // _A_MESSAGE):
            for _ in range(_A_MESSAGE):
                self._predict()
            news = self._tally.news(self._steps, self._segment)
            self._steps, self._segment = self._tally.step_count, news["segments"][-1][0]
            self.state.take({**news, "began_s": 0.0}, b"")
            self.state.view(self._steps - _A_MESSAGE, self._segment - 1)

    def _predict(self) -> None:
        self._tally.add(time.monotonic(), self._results[self._tally.step_count % 3])


def test_20_000_frames_of_flickering_labels_take_no_more_memory_than_3_000() -> None:
    run = Flicker()
    run.show(3_000)
    gc.collect()
    before = len(gc.get_objects())
    run.show(20_000)
    gc.collect()
    assert len(gc.get_objects()) - before < 100  # each segment is one: without a bound they are 20 000, some 4 MB


def test_a_browser_that_opens_the_page_is_sent_a_bounded_history() -> None:
    run = Flicker()
    run.show(6_500)
    view = run.state.view()
    numbers = [number for number, *_ in view["segments"]]
    assert numbers == list(range(6_500 - KEPT_SEGMENTS, 6_500))
    assert len(view["steps"]) == KEPT_STEPS
    assert len(pack(view)) < 150_000
    # One that keeps up is sent what is new.
    assert [number for number, *_ in run.state.view(6_490, 6_497)["segments"]] == [6_497, 6_498, 6_499]
