"""What counts of the frames of a turn, where other work takes the core away."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tsm_edge.session.timings import Timings
from tsm_edge.tune.race import Entrant, Pace, race, undisturbed_us


class BusyMachine:
    """Program 0's second call takes 100 µs, program 1's 80; two frames of three wait 4 ms for the core, in any call."""

    def __init__(self) -> None:
        self.program = 0
        self.noise = np.random.default_rng(1)

    def select(self, program: int) -> int:
        self.program = program
        return 2

    def measure(
        self, frames: NDArray[np.float32], first: int, count: int, period_ns: int = 0, kernels: bool = False
    ) -> Timings:
        calls = np.tile(np.array([50_000, 80_000 if self.program else 100_000], np.uint64), (count, 1))
        waits = self.noise.random(count) < 2 / 3
        calls[waits, self.noise.integers(0, 2)] += np.uint64(4_000_000)
        steps = calls.sum(axis=1)
        return Timings(steps, steps, steps, np.zeros(3, np.float32), calls)

    def close(self) -> None:
        pass


def test_other_work_on_the_machine_does_not_decide_a_race() -> None:
    frames = np.zeros((2, 3, 4, 4), np.float32)
    (finish,) = race(BusyMachine(), frames, [Entrant(1, (1,), (1,))], Pace(6), 1e-4)
    assert finish.ratio is not None
    assert finish.ratio.value == pytest.approx(0.8)
    assert finish.ratio.high < 1.0
    assert finish.base_us == pytest.approx(100.0)


class SharedCalls(BusyMachine):
    """Program 1 is slower: 100 µs for 80. In a frame of four the thread that steps comes 2 ms late: all is done."""

    def measure(
        self, frames: NDArray[np.float32], first: int, count: int, period_ns: int = 0, kernels: bool = False
    ) -> Timings:
        calls = np.tile(np.array([50_000, 100_000 if self.program else 80_000], np.uint64), (count, 1))
        steps = calls.sum(axis=1)
        late = np.arange(count) % 4 == 2 + self.program
        calls[late], steps[late] = 30, steps[late] + np.uint64(2_000_000)
        return Timings(steps, steps, steps, np.zeros(3, np.float32), calls)


def test_a_thread_that_comes_late_to_calls_that_others_share_makes_none_of_them_fast() -> None:
    frames = np.zeros((2, 3, 4, 4), np.float32)
    (finish,) = race(SharedCalls(), frames, [Entrant(1, (1,), (1,))], Pace(6), 1e-4, shared=True)
    assert finish.ratio is not None
    assert finish.ratio.value == pytest.approx(1.25)
    assert finish.base_us == pytest.approx(80.0)
    timings = SharedCalls().measure(frames, 0, 16, kernels=True)
    assert undisturbed_us(timings, shared=True).tolist() == [50.0, 80.0]
    assert undisturbed_us(BusyMachine().measure(frames, 0, 16, kernels=True), shared=False).tolist() == [50.0, 100.0]


@pytest.mark.parametrize(("step_ms", "block", "warm"), [(0.0, 6, 2), (5.0, 6, 2), (25.0, 3, 2), (200.0, 3, 1)])
def test_turns_of_slow_steps_are_shorter_and_have_frames_to_choose_from(step_ms: float, block: int, warm: int) -> None:
    assert Pace(6).for_step(step_ms) == Pace(6, block, warm)


def test_a_race_whose_time_is_up_has_its_fewest_rounds() -> None:
    frames = np.zeros((2, 3, 4, 4), np.float32)
    finishes = [
        race(BusyMachine(), frames, [Entrant(1, (1,), (1,))], Pace(16, fewest=fewest), 1e-4, lambda: True)
        for fewest in (1, 8)
    ]
    assert [finish.rounds for (finish,) in finishes] == [1, 8]
