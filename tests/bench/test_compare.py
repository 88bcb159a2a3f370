"""Comparing runs: what is the same is not flagged, what is 10 % slower is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench_results import a_result

from tsm_edge.bench.compare import compare, pairs
from tsm_edge.bench.result import Result, Samples, Verdict
from tsm_edge.errors import BenchError


def a_run(seed: int, factor: float = 1.0, count: int = 700, name: str = "here") -> Result:
    """Steps of about 10 ms: noise with a long tail, and a machine that wanders by 2 %."""
    random = np.random.default_rng(seed)
    wander = 1 + 0.02 * np.sin(np.arange(count) / 60 + random.uniform(0, 6))
    steps = factor * wander * (10 + random.gamma(2.0, 0.3, count))
    result = a_result()
    samples = Samples(tuple(np.cumsum(steps) * 1e-3), tuple(steps.tolist()))
    return replace(result, name=name, samples=samples, verdicts=())


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


def test_a_disturbed_machine_tells_nothing_of_the_model() -> None:
    shared = replace(a_run(1, 1.5), verdicts=(Verdict("shared", "bad", "others used 1.2 of 2 cores"),))
    found = compare(a_run(0), shared, 5.0)
    assert (found.finding, found.is_regression, found.disturbed) == ("not distinguishable", False, ("shared",))
    assert "disturbed (shared): measure again" in found.text()


def test_a_fast_wrong_answer_is_not_called_faster() -> None:
    wrong = replace(a_run(1, 0.5), verdicts=(Verdict("verified", "bad", "the answers differ"),))
    found = compare(a_run(0), wrong, 5.0)
    assert found.finding == "not distinguishable"
    assert "wrong answers" in found.text()
