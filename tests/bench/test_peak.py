"""The measured arithmetic peak."""

from __future__ import annotations

import pytest

from tsm_edge.artifact.folder import Artifact
from tsm_edge.bench.peak import PeakMeter, can_measure_peak


def test_the_compiler_is_here() -> None:
    assert can_measure_peak()


@pytest.mark.parametrize("threads", [1, 2])
def test_it_is_that_of_vector_multiply_adds(small_artifact: Artifact, threads: int) -> None:
    target = small_artifact.manifest.target
    meter = PeakMeter(target, threads)
    best = max(meter.measure() for _ in range(3))
    # A scalar multiply-add a cycle at 1 GHz, and two vector ones a cycle at 8 GHz, are far outside what can be.
    assert 2.0 < best < threads * 2 * 2 * target.cpu.vector_lanes * 8
