"""The statistics of ``tsm-runner bench``, in C, against SciPy and NumPy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from artifacts import run_cc
from scipy import special, stats

from tsm_edge.cards import load_target
from tsm_edge.runtime import RUNTIME_FOLDER

CONFIDENCE = 0.99
DOUBLES = ctypes.POINTER(ctypes.c_double)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """``statistics.c`` alone, as a shared library."""
    output = tmp_path_factory.mktemp("statistics") / "statistics.so"
    source = RUNTIME_FOLDER / "bench" / "statistics.c"
    run_cc(load_target("native"), "-std=c11", "-shared", "-fPIC", f"-I{RUNTIME_FOLDER}", source, "-lm", "-o", output)
    loaded = ctypes.CDLL(str(output))
    loaded.tsm_incomplete_beta.restype = ctypes.c_double
    loaded.tsm_incomplete_beta.argtypes = [ctypes.c_double] * 3
    loaded.tsm_early_stopping.restype = ctypes.c_size_t
    loaded.tsm_early_stopping.argtypes = [ctypes.c_size_t, ctypes.c_double]
    loaded.tsm_fewest_samples.restype = ctypes.c_size_t
    loaded.tsm_fewest_samples.argtypes = [ctypes.c_double]
    loaded.tsm_median_rank.restype = ctypes.c_size_t
    loaded.tsm_median_rank.argtypes = [ctypes.c_size_t]
    for name in ("tsm_median", "tsm_percentile"):
        getattr(loaded, name).restype = ctypes.c_double
    return loaded


@pytest.mark.parametrize("x", [0.0, 1e-9, 0.01, 0.3, 0.5, 0.9, 0.99, 1 - 1e-9, 1.0])
@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1, 1), (63, 2), (1, 900), (5e3, 500), (9e5, 1e5)])
def test_the_incomplete_beta_function_is_scipys(library: ctypes.CDLL, x: float, a: float, b: float) -> None:
    # Of arguments near 10^6 the logarithms of the gamma function lose as many digits.
    assert library.tsm_incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-7, abs=1e-12)


SIZES = (63, 64, 65, 100, 129, 130, 250, 500, 661, 662, 663, 1000, 1500, 3000, 5000, 10000, 30000, 65536, 100000, 10**6)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("percentile", [0.90, 0.99])
def test_early_stopping_is_the_largest_t_that_scipy_finds(library: ctypes.CDLL, count: int, percentile: float) -> None:
    t = np.arange(1, count)
    allowed = t[special.betainc(count - t, t + 1.0, percentile) <= 1 - CONFIDENCE]
    assert library.tsm_early_stopping(count, percentile) == (allowed.max() if len(allowed) else 0)


def test_the_fewest_samples_are_mlperfs(library: ctypes.CDLL) -> None:
    assert [library.tsm_fewest_samples(share) for share in (0.90, 0.95, 0.99)] == [64, 130, 662]


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 20, 99, 1000, 54321])
def test_the_medians_interval_holds_it_with_99_percent(library: ctypes.CDLL, count: int) -> None:
    """By the binomial distribution: fewer than so many samples lie on one side of the median."""
    rank = library.tsm_median_rank(count)
    tail = (1 - CONFIDENCE) / 2
    assert rank == 0 or stats.binom.cdf(rank - 1, count, 0.5) <= tail
    assert stats.binom.cdf(rank, count, 0.5) > tail


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1001])
def test_percentiles_are_numpys(library: ctypes.CDLL, count: int) -> None:
    values = np.random.default_rng(count).lognormal(size=count)
    library.tsm_sort(values.ctypes.data_as(DOUBLES), ctypes.c_size_t(count))
    assert (np.diff(values) >= 0).all()
    pointer = values.ctypes.data_as(DOUBLES)
    assert library.tsm_median(pointer, ctypes.c_size_t(count)) == np.median(values)
    for percent in (0, 50, 90, 99, 100):
        found = library.tsm_percentile(pointer, ctypes.c_size_t(count), ctypes.c_double(percent / 100))
        assert found == pytest.approx(np.percentile(values, percent), rel=1e-12)
