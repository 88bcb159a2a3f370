"""Comparing runs: what is the same is not flagged, what is 10 % slower is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench_results import a_result, yardstick

from tsm_edge.bench.compare import compare, pairs
from tsm_edge.bench.result import Result, Samples, Verdict
from tsm_edge.errors import BenchError


def a_run(
    seed: int,
    factor: float = 1.0,
    count: int = 700,
    name: str = "here",
    machine: float = 1.0,
    since_s: float = 0.0,
    seen: tuple[float, float] = (1.0, 1.0),
) -> Result:
    """Steps of about 10 ms: noise with a long tail, and a machine that wanders by 2 %.

    From ``since_s`` on the machine makes each step ``machine`` times as long, and the yardstick ``seen`` times.
    """
    random = np.random.default_rng(seed)
    wander = 1 + 0.02 * np.sin(np.arange(count) / 60 + random.uniform(0, 6))
    steps = factor * wander * (10 + random.gamma(2.0, 0.3, count))
    start = np.cumsum(steps) * 1e-3
    steps[start >= since_s] *= machine
    readings = yardstick(float(start[-1]), random, seen, since_s)
    samples = Samples(tuple(start.tolist()), tuple(steps.tolist()))
    return replace(a_result(), name=name, samples=samples, yardstick=readings, verdicts=())


def test_two_runs_of_the_same_are_no_regression_in_ten_repetitions() -> None:
    first = a_run(0)
    found = [compare(first, a_run(seed), 5.0) for seed in range(1, 11)]
    assert [one.is_regression for one in found] == [False] * 10
    assert all(one.finding == "not distinguishable" for one in found)


def test_ten_percent_are_found_each_time() -> None:
    first = a_run(0)
    found = [compare(first, a_run(seed, 1.1), 5.0) for seed in range(1, 11)]
    assert all(one.is_regression and one.finding == "slower" for one in found)
    assert all(one.low_percent <= 10 <= one.high_percent for one in found)
    assert "a regression" in found[0].text()


def test_faster_is_said() -> None:
    found = compare(a_run(0), a_run(1, 0.8), 5.0)
    assert (found.finding, found.is_regression) == ("faster", False)


def test_slower_within_the_tolerance_is_no_regression() -> None:
    found = compare(a_run(0), a_run(1, 1.1), 30.0)
    assert (found.finding, found.is_regression) == ("slower", False)


def test_what_else_differs_is_said() -> None:
    other = a_run(1)
    other = replace(other, model=replace(other.model, target="pi"), settings=replace(other.settings, threads=9))
    assert compare(a_run(0), other, 5.0).remarks == (
        f"target: {a_result().model.target} then, pi now",
        f"threads: {a_result().settings.threads} then, 9 now",
    )


def test_another_model_and_few_frames_are_refused() -> None:
    other = a_run(1)
    with pytest.raises(BenchError, match=r"the earlier run measured .* on its cpu, this one n"):
        compare(a_run(0), replace(other, model=replace(other.model, name="n")), 5.0)
    with pytest.raises(BenchError, match="39 frames are too few to compare, expected 40"):
        compare(a_run(0, count=39), other, 5.0)


def test_results_are_paired_by_name() -> None:
    old, new = [a_run(0, name="b"), a_run(1, name="a")], [a_run(2, name="a"), a_run(3, name="b")]
    assert [(one.name, other.name) for one, other in pairs(old, new)] == [("a", "a"), ("b", "b")]
    with pytest.raises(BenchError, match="has no result of c: it has b, a"):
        pairs(old, [a_run(0, name="c"), *new])


def test_a_machine_at_another_speed_is_no_change_of_the_model() -> None:
    """As a second program on the same core makes it: arithmetic 1.5 times, memory 1.25 times, a frame 1.31 times."""
    for machine, seen in ((1.31, (1.5, 1.25)), (0.76, (0.67, 0.8))):
        found = compare(a_run(0), a_run(1, machine=machine, seen=seen), 5.0)
        assert (found.finding, found.is_regression) == ("not distinguishable", False)
        assert "the machine itself ran at another speed (fixed work took ×" in found.text()
    assert "×0.67, reading memory ×0.80" in found.text()


def test_ten_percent_are_found_although_the_machine_changed_its_speed() -> None:
    """Half of each run was at one speed."""
    old = a_run(0, machine=1.31, since_s=4.0, seen=(1.5, 1.25))
    same = [compare(old, a_run(s, machine=1.45, since_s=3.5, seen=(1.6, 1.3)), 5.0) for s in range(1, 11)]
    assert not any(one.finding == "slower" or one.finding == "faster" for one in same)
    slower = [compare(old, a_run(s, 1.1, machine=1.31, since_s=3.5, seen=(1.5, 1.25)), 5.0) for s in range(1, 11)]
    assert all(one.is_regression for one in slower)
    assert " of 15 stretches and " in slower[0].basis


def test_what_the_yardstick_differs_by_may_be_the_machines() -> None:
    """A machine 1.5 % slower, and a model 1.5 % slower: nobody can tell these from each other."""
    quiet = [replace(a_run(seed), yardstick=a_run(9).yardstick) for seed in (0, 1)]
    found = compare(quiet[0], quiet[1], 5.0)
    slower = replace(
        quiet[1],
        yardstick=tuple(replace(one, arithmetic_ms=1.015 * one.arithmetic_ms) for one in quiet[1].yardstick),
    )
    wider = compare(quiet[0], slower, 5.0)
    assert wider.low_percent == pytest.approx(found.low_percent - 1.5, abs=0.2)
    assert wider.high_percent == pytest.approx(found.high_percent)


def test_without_a_yardstick_nothing_is_blamed_on_the_model() -> None:
    found = compare(replace(a_run(0), yardstick=()), a_run(1, 1.5), 5.0)
    assert found.finding == "not distinguishable"
    assert "the machine's own speed was not measured (then)" in found.text()


def test_a_disturbed_machine_tells_nothing_of_the_model() -> None:
    throttled = replace(a_run(1, 1.5), verdicts=(Verdict("throttled", "bad", "under-voltage"),))
    found = compare(a_run(0), throttled, 5.0)
    assert (found.finding, found.is_regression) == ("not distinguishable", False)
    assert "disturbed (throttled): measure again" in found.text()


def test_others_on_the_cores_are_no_hindrance_where_the_yardstick_kept_its_speed() -> None:
    shared = replace(a_run(1, 1.1), verdicts=(Verdict("shared", "bad", "others used 1.2 of 2 cores"),))
    assert compare(a_run(0), shared, 5.0).is_regression


def test_a_fast_wrong_answer_is_not_called_faster() -> None:
    wrong = replace(a_run(1, 0.5), verdicts=(Verdict("verified", "bad", "the answers differ"),))
    found = compare(a_run(0), wrong, 5.0)
    assert found.finding == "not distinguishable"
    assert "wrong answers" in found.text()
