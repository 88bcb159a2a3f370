"""Races of synthetic steppers on a synthetic machine: it drifts by more than what is to be found."""

from __future__ import annotations

import gc
import math
import random

import numpy as np
import numpy.typing as npt
import pytest

from tsm_edge.bench import interleave
from tsm_edge.bench.interleave import Samples, Schedule, race
from tsm_edge.bench.paired import paired_ratio
from tsm_edge.errors import TsmEdgeError

Floats = npt.NDArray[np.float32]

FRAMES = [np.zeros((1, 3, 2, 2), np.float32) for _ in range(3)]
SCHEDULE = Schedule(rounds=30, block=4)


class Machine:
    """In place of the module ``time``: its clock goes on when something is computed or slept."""

    def __init__(self, seed: int = 0) -> None:
        self.now_s = self.busy_s = 0.0
        self.random = random.Random(seed)
        self.spins_until_s = 0.0

    def compute(self, seconds: float) -> None:
        """In its first half a race is slowed down, in its second sped up; each frame is off by some per cent."""
        slowed = seconds * (1.5 + 0.5 * math.sin(8 * self.now_s)) * self.random.gauss(1.0, 0.03)
        self.now_s += slowed
        self.busy_s += slowed

    def sleep(self, seconds: float) -> None:
        self.busy_s += max(0.0, min(self.spins_until_s - self.now_s, seconds))
        self.now_s += seconds

    def perf_counter(self) -> float:
        return self.now_s

    def perf_counter_ns(self) -> int:
        return round(self.now_s * 1e9)

    def process_time(self) -> float:
        return self.busy_s


class Fixed:
    """A frame takes so long; the first of a turn, whose weights are not in the caches, three times as long."""

    def __init__(self, machine: Machine, name: str, seconds: float, log: list[str]) -> None:
        self.machine, self.name, self.seconds, self.log = machine, name, seconds, log

    def step(self, frame: Floats) -> Floats:
        is_cold = not self.log or self.log[-1] != self.name
        self.log.append(self.name)
        self.machine.compute(self.seconds * (3 if is_cold else 1))
        return frame


def raced(monkeypatch: pytest.MonkeyPatch, times: dict[str, float], seed: int) -> tuple[dict[str, Samples], list[str]]:
    machine, log = Machine(seed), list[str]()
    monkeypatch.setattr(interleave, "time", machine)
    steppers = {name: Fixed(machine, name, seconds, log) for name, seconds in times.items()}
    return race(steppers, FRAMES, SCHEDULE), log


@pytest.mark.parametrize("seed", range(10))
def test_ten_per_cent_are_found(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = raced(monkeypatch, {"base": 1e-3, "slow": 1.1e-3}, seed)
    ratio = paired_ratio(samples["slow"].seconds, samples["base"].seconds)
    assert ratio.low > 1.0
    assert ratio.value == pytest.approx(1.1, abs=0.03)
    assert ratio.low <= 1.1 <= ratio.high
    assert ratio.high - ratio.low < 0.1


@pytest.mark.parametrize("seed", range(10))
def test_equal_ones_are_not_told_apart(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = raced(monkeypatch, {"one": 1e-3, "other": 1e-3}, seed)
    ratio = paired_ratio(samples["one"].seconds, samples["other"].seconds)
    assert ratio.low <= 1.0 <= ratio.high
    assert ratio.value == pytest.approx(1.0, abs=0.03)


def test_one_after_the_other_would_tell_equal_ones_apart() -> None:
    """What interleaving is for: the synthetic machine is unfair enough to need it."""
    machine = Machine()
    seconds = np.empty((2, SCHEDULE.rounds, interleave.WARM_FRAMES + SCHEDULE.block))
    for place in np.ndindex(*seconds.shape):  # all of the first, then all of the second
        before = machine.now_s
        machine.compute(1e-3)
        seconds[place] = machine.now_s - before
    ratio = paired_ratio(seconds[0], seconds[1])
    assert ratio.low > 1.0
    assert ratio.value > 1.2


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the first of a round as often as the others; the frames that warm up are not counted."""
    samples, log = raced(monkeypatch, dict.fromkeys("abc", 1e-3), 0)
    turn = interleave.WARM_FRAMES + SCHEDULE.block
    turns = [log[start : start + turn] for start in range(0, len(log), turn)]
    assert all(len(set(one)) == 1 for one in turns)
    rounds = [[one[0] for one in turns[start : start + 3]] for start in range(0, len(turns), 3)]
    assert len(rounds) == SCHEDULE.rounds
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    firsts = [one[0] for one in rounds]
    assert {firsts.count(name) for name in "abc"} == {SCHEDULE.rounds // 3}
    for result in samples.values():
        assert result.seconds.shape == (SCHEDULE.rounds, SCHEDULE.block)
        assert result.cores == pytest.approx(1.0)
        assert result.minimum <= result.median <= result.p90 < 2.5e-3  # a cold frame takes three times as long


def test_a_turn_begins_when_the_threads_of_the_one_before_are_still(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, begun = Machine(), list[float]()

    class Spinning:
        def step(self, frame: Floats) -> Floats:
            begun.append(machine.now_s)
            machine.compute(1e-3)
            machine.spins_until_s = machine.now_s + 0.050
            return frame

    class Patient:
        def step(self, frame: Floats) -> Floats:
            assert machine.now_s >= machine.spins_until_s
            machine.compute(1e-3)
            return frame

    monkeypatch.setattr(interleave, "time", machine)
    race({"spinning": Spinning(), "patient": Patient()}, FRAMES, Schedule(4, 2))
    assert len(begun) == 4 * (2 + interleave.WARM_FRAMES)


def test_garbage_is_collected_again_after_a_failure() -> None:
    class Failing:
        def step(self, frame: Floats) -> Floats:
            assert not gc.isenabled()
            raise KeyError("broken engine")

    with pytest.raises(KeyError):
        race({"failing": Failing()}, FRAMES, Schedule(1, 1))
    assert gc.isenabled()


def test_impossible_races() -> None:
    for rounds, block in ((0, 1), (1, 0)):
        with pytest.raises(TsmEdgeError, match="expected at least 1 of each"):
            Schedule(rounds, block)
    with pytest.raises(TsmEdgeError, match="3 and 2 rounds, expected as many"):
        paired_ratio(np.ones((3, 1)), np.ones((2, 1)))


def test_the_interval_is_the_same_each_time_and_narrows_with_rounds() -> None:
    random_state = np.random.default_rng(3)
    seconds, base = (random_state.normal(1.0, 0.05, (400, 4)) for _ in range(2))
    few, many = paired_ratio(seconds[:20], base[:20]), paired_ratio(seconds, base)
    assert many == paired_ratio(seconds, base)
    assert many.high - many.low < 0.5 * (few.high - few.low)
