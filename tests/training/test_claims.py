"""The paper's claims in small: the clips are those of any training, and a claim holds only beyond doubt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tsm_edge.bench.statistics import student_t
from tsm_edge.training.generated import MotionData

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from claims_report import Claim, Outcome  # noqa: E402
from seeds import Interval, Spread  # noqa: E402
from stored_clips import store  # noqa: E402

DATA = MotionData(6, 32, per_epoch=8, seed=3, validation_clips=5, test_clips=4)


def test_stored_clips_are_those_that_are_drawn(tmp_path: Path) -> None:
    stored = store(tmp_path, DATA, epochs=2, processes=1)
    for epoch, places in ((0, range(8)), (1, [5, 0])):
        found, expected = (data.train().training_batch(epoch, places) for data in (stored, DATA))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    for held, drawn in ((stored.validation(), DATA.validation()), (stored.test(), DATA.test())):
        assert len(held) == len(drawn)
        np.testing.assert_array_equal(held.batch(range(len(held)))[0], drawn.batch(range(len(held)))[0])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    store(tmp_path, DATA, epochs=2, processes=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def outcomes(*shares: float) -> dict[int, Outcome]:
    return {seed: Outcome(share, 0.5, ((1.0, share),)) for seed, share in enumerate(shares)}


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        pytest.param((0.90, 0.94), (0.70, 0.74), "holds, +20.0 ± 12.2 points", id="far apart"),
        pytest.param((0.78, 0.82), (0.93, 0.97), "does not hold, -15.0 ± 12.2 points", id="the other way"),
        pytest.param((0.88, 0.92), (0.83, 0.87), "not told by these seeds, +5.0 ± 12.2 points", id="too near"),
        pytest.param((0.90,), (0.60,), "not told by these seeds, +30.0 (one seed) points", id="one seed"),
    ],
)
def test_a_claim_holds_beyond_doubt_only(better: tuple[float, ...], worse: tuple[float, ...], verdict: str) -> None:
    claim = Claim("it is better", ("one",), ("other",))
    assert claim.verdict({"one": outcomes(*better), "other": outcomes(*worse)}) == f"it is better: {verdict}"
    assert claim.verdict({"one": outcomes(*better)}) is None


def test_the_spread_is_pooled_and_the_interval_students() -> None:
    """Variances 1e-4 and 4e-4 with 2 and 1 degrees of freedom: 2e-4; t of 3 is 3.182 (any table has it)."""
    spread = Spread.pooled([[0.01, 0.02, 0.03], [0.1, 0.1 + 0.02 * 2**0.5], [0.5]])
    assert (spread.deviation, spread.degrees) == (pytest.approx(2e-4**0.5), 3)
    found = Interval.of([0.01, 0.02, 0.03], spread)
    assert (found.mean, found.half) == (pytest.approx(2.0), pytest.approx(318.24 * 2e-4**0.5 / 3**0.5, rel=1e-3))
    difference = Interval.of_difference([[0.5]], [[0.2, 0.2], [0.6]], spread)
    assert difference.mean == pytest.approx(10.0), "networks count alike, however many seeds they have"
    assert difference.half == pytest.approx(318.24 * (2e-4 * (1 + (0.5 + 1) / 4)) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.706), (2, 4.303), (10, 2.228), (22, 2.074), (120, 1.980)])
def test_students_t_is_that_of_the_tables(degrees: int, expected: float) -> None:
    assert student_t(0.975, degrees) == pytest.approx(expected, abs=5e-4)


def test_opposites_are_counted_among_themselves() -> None:
    confusion = np.zeros((12, 12), int)
    confusion[1, 1], confusion[1, 2], confusion[1, 0] = 3, 1, 5  # left: taken for left, right and still
    test = {"overall": {"share": 0.4}, "confusion": confusion.tolist(), "early": [[0.1, 0.2], [1.0, 0.4]]}
    assert Outcome.read({"test": test}) == Outcome(0.4, 0.75, ((0.1, 0.2), (1.0, 0.4)))


def test_networks_are_trained_and_reported(tmp_path: Path) -> None:
    """Every channel shifted is a network like any other, though training has no detectors to begin it with."""
    small = (
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--per-epoch",
        "16",
        "--width",
        "0.1",
        "--size",
        "32",
        "--test-clips",
        "12",
    )
    names = ("tsn", "online-residual-1_4", "online-in-place-1")
    command = (sys.executable, str(BENCHMARKS / "paper_claims.py"), "--work", str(tmp_path), *small, "--only", *names)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "online is better than no shift (Table 1): not told by these seeds" in done.stdout
    kept = json.loads((tmp_path / "claims.json").read_text("utf-8"))
    assert list(kept["networks"]) == list(names)
    assert "<svg" in (tmp_path / "early.svg").read_text("utf-8")
    assert not (tmp_path / "proportion.svg").exists(), "networks of that figure are missing"
