"""Statistics of a run, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from tsm_edge.bench.statistics import (
    early_stopping,
    fewest_samples,
    incomplete_beta,
    student_t,
    summary,
    trend,
)

SIZES = (20, 63, 64, 65, 100, 127, 128, 200, 256, 500, 661, 662, 663, 1000, 1500, 2048, 5000, 10_000, 20_000, 100_000)


def early_stopping_by_scipy(count: int, percent: int) -> int | None:
    """MLPerf's formula, every t tried."""
    t = np.arange(1, count)
    passing = t[special.betainc(count - t, t + 1, percent / 100) <= 0.01]
    return int(passing.max()) - 1 if len(passing) else None


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_early_stopping_agrees_with_scipy(percent: int) -> None:
    assert [early_stopping(n, percent) for n in SIZES] == [early_stopping_by_scipy(n, percent) for n in SIZES]


def test_the_fewest_samples_are_those_mlperf_names() -> None:
    assert [fewest_samples(percent) for percent in (90, 95, 99)] == [64, 130, 662]


def test_incomplete_beta_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    for a, b, x in zip(random.uniform(0.3, 3000, 100), random.uniform(0.3, 3000, 100), random.random(100), strict=True):
        assert incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-9, abs=1e-200)


def test_student_t_agrees_with_scipy() -> None:
    for freedom in (1, 2, 8, 9, 40):
        assert student_t(0.995, freedom) == pytest.approx(stats.t.ppf(0.995, freedom), rel=1e-9)


def test_63_frames_give_no_p90_and_64_do() -> None:
    few, enough = summary(np.arange(63.0)), summary(np.arange(64.0))
    assert (few.p90, few.p90_observed) == (None, None)
    assert {entry.key: entry.reason for entry in few.refused}["p90"] == "63 samples, 64 are needed at 99 % confidence"
    assert enough.p90 == 63.0  # none may be dropped
    assert [entry.key for entry in enough.refused] == ["p99"]


def test_the_estimate_bounds_the_true_percentile_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    bounds = [summary(random.exponential(1.0, 200)).p90 or 0.0 for _ in range(1000)]
    assert np.mean(np.array(bounds) >= np.log(10)) >= 0.98


def test_a_summary_is_numpys() -> None:
    samples = np.random.default_rng(2).gamma(3.0, size=777)
    found = summary(samples)
    assert found.count == 777
    assert [found.min, found.mean, found.max] == pytest.approx([samples.min(), samples.mean(), samples.max()])
    assert [found.p50, found.std] == pytest.approx([np.median(samples), samples.std(ddof=1)])
    assert found.p99_observed == pytest.approx(np.percentile(samples, 99))


def test_the_medians_interval_holds_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    found = [summary(random.exponential(1.0, 51)) for _ in range(1000)]
    assert np.mean([(one.p50_low or 0) <= np.log(2) <= (one.p50_high or 0) for one in found]) >= 0.98


@pytest.mark.parametrize("count", [0, 1, 7])
def test_what_few_samples_cannot_tell_is_refused(count: int) -> None:
    found = summary(np.ones(count))
    assert (found.p50 is None) == (count == 0)
    assert (found.std is None) == (count < 2)
    assert found.p50_low is None
    assert found.refused


def test_a_drift_is_found_with_its_size() -> None:
    random = np.random.default_rng(4)
    found = trend(10 + np.linspace(0, 1, 400) + random.normal(0, 0.1, 400))
    assert found is not None
    assert not found.is_stationary
    assert found.low_percent <= 100 / 10.5 <= found.high_percent
    assert found.halves_percent == pytest.approx(5, abs=0.6)


def test_noise_is_seldom_taken_for_a_drift() -> None:
    random = np.random.default_rng(5)
    runs = [trend(10 + random.normal(0, 0.5, 200)) for _ in range(300)]
    assert sum(found is None or not found.is_stationary for found in runs) <= 9


def test_too_few_samples_have_no_trend() -> None:
    assert trend(np.ones(39)) is None
